package eventstore

import (
	"context"
	"time"
)

// TimeIndexed is implemented by logs that find a moment quickly.
type TimeIndexed interface {
	// PositionAt returns the position of the last event that was recorded at or before t, 0 when there is none.
	PositionAt(ctx context.Context, t time.Time) (Position, error)
}

// PositionAt returns the position of the last event of any stream that was recorded at or before t, 0 when there is none.
// A log that is TimeIndexed answers itself; others are read backwards from their end, which takes as long as the
// distance from there to t.
func PositionAt(ctx context.Context, log Log, t time.Time) (Position, error) {
	if indexed, ok := log.(TimeIndexed); ok {
		return indexed.PositionAt(ctx, t)
	}
	for e, err := range log.ReadAll(ctx, ReadAll{Direction: Backwards, FromEnd: true, Filter: Filter{System: true}}) {
		if err != nil {
			return 0, err
		}
		if !e.Created.After(t) {
			return e.Position, nil
		}
	}
	return 0, nil
}
