package embedded

import (
	"context"
	"fmt"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// sampleEvery is how many events lie between two samples of the time index. Positions may have gaps of any size, so events
// are counted. The date of a sample is that of the latest event up to there: imported dates may have gone back.
const sampleEvery = 256

// PositionAt returns the position of the last event ahead of the first that was recorded after t: it finds the sample before t and looks at the
// events up to the next one.
func (l *Log) PositionAt(ctx context.Context, t time.Time) (eventstore.Position, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	release, err := l.acquire()
	if err != nil {
		return 0, err
	}
	defer release()
	position, err := l.positionAt(ticksOf(t))
	if err != nil {
		return 0, fmt.Errorf("looking up %s: %w", t.Format(time.RFC3339Nano), err)
	}
	return position, nil
}

func (l *Log) positionAt(ticks uint64) (eventstore.Position, error) {
	head := l.tail.current()
	db := database{l.db}
	samples, err := db.iter([]byte{timeKey}, keyOf(timeKey, ticks+1))
	if err != nil {
		return 0, err
	}
	var position eventstore.Position
	for ok := samples.Last(); ok; ok = samples.Prev() {
		if p := eventstore.Position(numberIn(samples.Key(), 1)); p <= head {
			position = p
			break
		}
	}
	if err := closeIter(samples); err != nil || position == 0 {
		return 0, err // the first event has a sample, so nothing is as old
	}
	events, err := db.iter(keyOf(eventKey, uint64(position)), keyOf(eventKey, uint64(head)+1))
	if err != nil {
		return 0, err
	}
	for ok := events.First(); ok; ok = events.Next() {
		at := eventstore.Position(numberIn(events.Key(), 0))
		e, err := openEnvelope(events.Value(), at)
		if err != nil {
			events.Close()
			return 0, err
		}
		if e.ticks > ticks {
			break
		}
		position = at
	}
	return position, closeIter(events)
}
