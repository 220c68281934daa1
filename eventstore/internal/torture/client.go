package torture

import (
	"context"
	"errors"

	"github.com/shiplog/shiplog/eventstore"
)

// Do asks a log for an operation and says what it was told.
func Do(ctx context.Context, log eventstore.Log, op Op) Result {
	var r Result
	var err error
	switch op.Kind {
	case Append:
		events := make([]eventstore.Proposed, len(op.IDs))
		for i, id := range op.IDs {
			events[i] = eventstore.Proposed{ID: id, Type: "Changed", Data: Data(id[:], op.Bytes)}
		}
		var a eventstore.Appended
		a, err = log.Append(ctx, op.Stream, op.Expected, events...)
		r.Revision, r.Position = int64(a.Revision), a.Position
	case SetMetadata:
		err = log.SetMetadata(ctx, op.Stream, op.Expected, eventstore.Metadata{MaxCount: op.Keep.MaxCount, TruncateBefore: op.Keep.TruncateBefore})
	case Delete:
		err = log.Delete(ctx, op.Stream, op.Expected)
	case Tombstone:
		err = log.Tombstone(ctx, op.Stream, op.Expected)
	case Read:
		r.Events, err = events(ctx, log, op.Stream, eventstore.ReadStream{})
	case ReadLast:
		r.Events, err = events(ctx, log, op.Stream, eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true, Limit: 1})
	case Metadata:
		var m eventstore.Metadata
		var revision eventstore.Expected
		m, revision, err = log.Metadata(ctx, op.Stream)
		r.Keep, r.Revision = Retention{MaxCount: m.MaxCount, TruncateBefore: m.TruncateBefore}, int64(revision)
	}
	var wrong *eventstore.WrongExpectedRevisionError
	switch {
	case err == nil:
		r.Outcome = Done
	case errors.As(err, &wrong):
		r.Outcome, r.Actual = Conflict, wrong.Actual
	case errors.Is(err, eventstore.ErrStreamDeleted):
		r.Outcome = Deleted
	case errors.Is(err, eventstore.ErrStreamNotFound):
		r.Outcome = NotFound
	default:
		r.Outcome, r.Err = Unknown, err
	}
	return r
}

func events(ctx context.Context, log eventstore.Log, stream string, opts eventstore.ReadStream) ([]Event, error) {
	out := []Event{}
	for e, err := range log.ReadStream(ctx, stream, opts) {
		if err != nil {
			return nil, err
		}
		out = append(out, Event{ID: e.ID, Revision: e.Revision})
	}
	return out, nil
}

// Data is the data of an event with this id: whoever reads the event can tell whether a byte of it has changed.
func Data(id []byte, size int) []byte {
	data := make([]byte, size)
	state := uint32(2166136261)
	for _, b := range id {
		state = (state ^ uint32(b)) * 16777619
	}
	for i := range data {
		state = state*1664525 + 1013904223
		data[i] = byte(state >> 24)
	}
	return data
}
