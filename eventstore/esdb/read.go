package esdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"github.com/shiplog/shiplog/eventstore"
)

// pageEvents is how many events one call reads. Each page is read whole before its events are yielded, so that a slow reader
// holds no call open and a broken call is repeated without anybody noticing.
const pageEvents = 256

func (l *Log) recorded(e *esdb.RecordedEvent) eventstore.Recorded {
	l.boundaries.add(eventstore.Position(e.Position.Commit))
	return eventstore.Recorded{
		Proposed: eventstore.Proposed{
			ID: e.EventID, Type: e.EventType, ContentType: e.ContentType, Data: e.Data, Metadata: e.UserMetadata,
		},
		Stream: e.StreamID, Revision: e.EventNumber, Position: eventstore.Position(e.Position.Commit), Created: e.CreatedDate,
	}
}

func direction(d eventstore.Direction) esdb.Direction {
	if d == eventstore.Backwards {
		return esdb.Backwards
	}
	return esdb.Forwards
}

// page makes one call and reads all that it brings.
func (l *Log) page(ctx context.Context, open func(context.Context, *esdb.Client) (*esdb.ReadStream, error)) ([]eventstore.Recorded, error) {
	return do(ctx, l, func(ctx context.Context, c *esdb.Client) ([]eventstore.Recorded, error) {
		stream, err := open(ctx, c)
		if err != nil {
			return nil, err
		}
		defer stream.Close()
		var events []eventstore.Recorded
		for {
			e, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return events, ctx.Err()
			}
			if err != nil {
				return nil, err
			}
			if original := e.OriginalEvent(); original != nil {
				events = append(events, l.recorded(original))
			}
		}
	})
}

// ReadStream yields a stream's events.
func (l *Log) ReadStream(ctx context.Context, stream string, opts eventstore.ReadStream) iter.Seq2[eventstore.Recorded, error] {
	return func(yield func(eventstore.Recorded, error) bool) {
		if opts.FromEnd && opts.Direction == eventstore.Forwards {
			opts.Limit = 1 // nothing comes after the end, but the stream must exist
		}
		var from esdb.StreamPosition = esdb.Revision(opts.From)
		if opts.FromEnd {
			from = esdb.End{}
		}
		left := opts.Limit
		for {
			want := uint64(pageEvents)
			if opts.Limit > 0 {
				want = uint64(min(left, pageEvents))
			}
			events, err := l.page(ctx, func(ctx context.Context, c *esdb.Client) (*esdb.ReadStream, error) {
				return c.ReadStream(ctx, stream, esdb.ReadStreamOptions{Direction: direction(opts.Direction), From: from, Deadline: &l.opts.Timeout}, want)
			})
			if err != nil {
				yield(eventstore.Recorded{}, fmt.Errorf("reading stream %s: %w", stream, err))
				return
			}
			for _, e := range events {
				if !yieldUnlessDone(ctx, yield, e) {
					return
				}
			}
			left -= len(events)
			if uint64(len(events)) < want || opts.Limit > 0 && left <= 0 {
				return
			}
			last := events[len(events)-1].Revision
			if opts.Direction == eventstore.Forwards {
				from = esdb.Revision(last + 1)
			} else if last == 0 {
				return
			} else {
				from = esdb.Revision(last - 1)
			}
		}
	}
}

func yieldUnlessDone(ctx context.Context, yield func(eventstore.Recorded, error) bool, e eventstore.Recorded) bool {
	if err := ctx.Err(); err != nil {
		yield(eventstore.Recorded{}, fmt.Errorf("reading: %w", err))
		return false
	}
	return yield(e, nil)
}

// ReadAll yields the events of all streams. The filter is applied here: the client sends none with a read that ends.
//
// EventStoreDB's positions are places in a file, so From has to be 0, the position of an event, or one more than that of an
// event that this Log has read lately; package protocol's server takes any.
func (l *Log) ReadAll(ctx context.Context, opts eventstore.ReadAll) iter.Seq2[eventstore.Recorded, error] {
	return func(yield func(eventstore.Recorded, error) bool) {
		r := &allReader{l: l, opts: opts, left: opts.Limit, yield: yield}
		if err := r.run(ctx); err != nil {
			yield(eventstore.Recorded{}, fmt.Errorf("reading from position %d: %w", opts.From, err))
		}
	}
}

type allReader struct {
	l     *Log
	opts  eventstore.ReadAll
	left  int
	yield func(eventstore.Recorded, error) bool
}

func (r *allReader) run(ctx context.Context) error {
	var from esdb.AllPosition
	switch {
	case r.opts.FromEnd && r.opts.Direction == eventstore.Forwards:
		return nil
	case r.opts.FromEnd:
		from = esdb.End{}
	case r.opts.Direction == eventstore.Forwards && r.opts.From <= 1:
		from = esdb.Start{}
	case r.opts.Direction == eventstore.Forwards:
		at := uint64(r.l.boundaries.before(r.opts.From))
		from = esdb.Position{Commit: at, Prepare: at}
	case r.opts.From == 0:
		return nil
	default:
		// Backwards the protocol leaves out the event at the position itself, so it is read on its own.
		at := esdb.Position{Commit: uint64(r.opts.From), Prepare: uint64(r.opts.From)}
		events, err := r.page(ctx, eventstore.Forwards, at, 1)
		if err != nil {
			return err
		}
		if from = at; len(events) == 0 {
			from = esdb.End{}
		} else if from = positionOf(events[0]); events[0].Position == r.opts.From && !r.take(ctx, events[0]) {
			return nil
		}
	}
	return r.pages(ctx, from)
}

func positionOf(e eventstore.Recorded) esdb.Position {
	return esdb.Position{Commit: uint64(e.Position), Prepare: uint64(e.Position)}
}

func (r *allReader) page(ctx context.Context, d eventstore.Direction, from esdb.AllPosition, count uint64) ([]eventstore.Recorded, error) {
	return r.l.page(ctx, func(ctx context.Context, c *esdb.Client) (*esdb.ReadStream, error) {
		return c.ReadAll(ctx, esdb.ReadAllOptions{Direction: direction(d), From: from, Deadline: &r.l.opts.Timeout}, count)
	})
}

func (r *allReader) pages(ctx context.Context, from esdb.AllPosition) error {
	var last *eventstore.Recorded
	for {
		events, err := r.page(ctx, r.opts.Direction, from, pageEvents)
		if err != nil {
			return err
		}
		for _, e := range events {
			// Forwards the next page begins with the last event of this one.
			if last != nil && (r.opts.Direction == eventstore.Forwards && e.Position <= last.Position ||
				r.opts.Direction == eventstore.Backwards && e.Position >= last.Position) {
				continue
			}
			beyond := r.opts.Direction == eventstore.Forwards && e.Position < r.opts.From ||
				r.opts.Direction == eventstore.Backwards && !r.opts.FromEnd && e.Position >= r.opts.From
			if !beyond && !r.take(ctx, e) {
				return nil
			}
		}
		if len(events) < pageEvents {
			return nil
		}
		last = &events[len(events)-1]
		from = positionOf(*last)
	}
}

// take yields an event if it is admitted, and says whether to go on.
func (r *allReader) take(ctx context.Context, e eventstore.Recorded) bool {
	if !r.opts.Filter.Admits(e.Stream, e.Type) {
		return true
	}
	if !yieldUnlessDone(ctx, r.yield, e) {
		return false
	}
	r.left--
	return r.left != 0
}

// Head is the position of the last committed event.
func (l *Log) Head(ctx context.Context) (eventstore.Position, error) {
	events, err := l.page(ctx, func(ctx context.Context, c *esdb.Client) (*esdb.ReadStream, error) {
		return c.ReadAll(ctx, esdb.ReadAllOptions{Direction: esdb.Backwards, From: esdb.End{}, Deadline: &l.opts.Timeout}, 1)
	})
	if err != nil {
		return 0, fmt.Errorf("reading the head: %w", err)
	}
	if len(events) == 0 {
		return 0, nil
	}
	return events[0].Position, nil
}
