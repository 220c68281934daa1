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

// A page is what one call reads. Each is read whole before its events are yielded, so that a slow reader holds no call open and
// a broken call is repeated without anybody noticing. Pages grow while a reader goes on, up to a number of events, and end early
// when they have so many bytes.
const (
	firstPage = 256
	lastPage  = 4096
	pageBytes = 4 << 20
)

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

// page is what a call brought. more says that it was not read to its end.
type page struct {
	events []eventstore.Recorded
	more   bool
}

// page makes one call for up to want events. What has come when the connection breaks is a page too, if it is more than the one
// event that a page may share with the one before it.
func (l *Log) page(ctx context.Context, want uint64, open func(context.Context, *connection) (*esdb.ReadStream, error)) (page, error) {
	best := 0 // of all attempts: getting as far as before is no progress
	return do(ctx, l, func(ctx context.Context, c *connection, heard func()) (page, error) {
		stream, err := open(ctx, c)
		if err != nil {
			return page{}, err
		}
		defer stream.Close()
		var p page
		for size := 0; ; {
			e, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				p.more = uint64(len(p.events)) >= want
				return p, ctx.Err()
			case err != nil && len(p.events) > 1 && ctx.Err() == nil && errors.Is(kindOf(err), eventstore.ErrUnavailable):
				p.more = true
				return p, nil
			case err != nil:
				return page{}, err
			}
			if original := e.OriginalEvent(); original != nil {
				p.events = append(p.events, l.recorded(original))
				size += len(original.Data) + len(original.UserMetadata)
			}
			if len(p.events) > best {
				best = len(p.events)
				heard()
			}
			if size >= pageBytes && len(p.events) > 1 {
				p.more = true
				return p, nil
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
		left := uint64(opts.Limit) // 0: no limit
		for want := uint64(firstPage); ; want = min(4*want, lastPage) {
			if left > 0 {
				want = min(want, left)
			}
			p, err := l.page(ctx, want, func(ctx context.Context, c *connection) (*esdb.ReadStream, error) {
				return c.ReadStream(ctx, stream, esdb.ReadStreamOptions{Direction: direction(opts.Direction), From: from}, want)
			})
			if err != nil {
				yield(eventstore.Recorded{}, fmt.Errorf("reading stream %s: %w", stream, err))
				return
			}
			for _, e := range p.events {
				if !yieldUnlessDone(ctx, yield, e) {
					return
				}
			}
			n := uint64(len(p.events))
			if !p.more || n == 0 || left > 0 && n >= left {
				return
			}
			if left > 0 {
				left -= n
			}
			last := p.events[n-1].Revision
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
		p, err := r.page(ctx, eventstore.Forwards, at, 1)
		if err != nil {
			return err
		}
		if len(p.events) == 0 {
			from = esdb.End{}
		} else if from = positionOf(p.events[0]); p.events[0].Position == r.opts.From && !r.take(ctx, p.events[0]) {
			return nil
		}
	}
	return r.pages(ctx, from)
}

func positionOf(e eventstore.Recorded) esdb.Position {
	return esdb.Position{Commit: uint64(e.Position), Prepare: uint64(e.Position)}
}

func (r *allReader) page(ctx context.Context, d eventstore.Direction, from esdb.AllPosition, count uint64) (page, error) {
	return r.l.page(ctx, count, func(ctx context.Context, c *connection) (*esdb.ReadStream, error) {
		return c.ReadAll(ctx, esdb.ReadAllOptions{Direction: direction(d), From: from}, count)
	})
}

func (r *allReader) pages(ctx context.Context, from esdb.AllPosition) error {
	want := uint64(firstPage)
	if r.left > 0 {
		want = min(want, uint64(r.left)+1) // forwards a page may begin with an event that is not wanted
	}
	var last *eventstore.Recorded
	for ; ; want = min(4*want, lastPage) {
		p, err := r.page(ctx, r.opts.Direction, from, want)
		if err != nil {
			return err
		}
		for i := range p.events {
			e := &p.events[i]
			// Forwards the next page begins with the last event of this one.
			if last != nil && (r.opts.Direction == eventstore.Forwards && e.Position <= last.Position ||
				r.opts.Direction == eventstore.Backwards && e.Position >= last.Position) {
				continue
			}
			last = e
			beyond := r.opts.Direction == eventstore.Forwards && e.Position < r.opts.From ||
				r.opts.Direction == eventstore.Backwards && !r.opts.FromEnd && e.Position >= r.opts.From
			if !beyond && !r.take(ctx, *e) {
				return nil
			}
		}
		if !p.more || last == nil {
			return nil
		}
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
	p, err := l.page(ctx, 1, func(ctx context.Context, c *connection) (*esdb.ReadStream, error) {
		return c.ReadAll(ctx, esdb.ReadAllOptions{Direction: esdb.Backwards, From: esdb.End{}}, 1)
	})
	if err != nil {
		return 0, fmt.Errorf("reading the head: %w", err)
	}
	if len(p.events) == 0 {
		return 0, nil
	}
	return p.events[0].Position, nil
}
