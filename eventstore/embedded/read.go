package embedded

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/shiplog/shiplog/eventstore"
)

// What is read from disk in one go. Between two goes nothing is held, so a slow reader costs nothing.
const (
	chunkEvents   = 256
	chunkBytes    = 1 << 20
	chunkExamined = 16 << 10 // events that the filter refused count too, lest a reader cannot be cancelled
)

// scan reads events for one reader.
type scan struct {
	l      *Log
	filter eventstore.Filter
	now    time.Time
	types  map[string]string // so that equal types share their memory
	// the stream of the event before, since neighbours often share it
	id   uint64
	name string
	// where a go puts its events, if whoever reads is done with those of the go before; and their data and metadata, if they are lent
	lend bool
	room struct {
		events []eventstore.Recorded
		memory []byte
	}
}

func (l *Log) newScan(filter eventstore.Filter) *scan {
	return &scan{l: l, filter: filter, now: l.opts.Now(), types: make(map[string]string)}
}

// record turns an event's value into an event; ok is false when the filter refuses it or it has expired: by now, or as of the
// given state of its stream.
func (s *scan) record(value []byte, position eventstore.Position, as *stream) (event eventstore.Recorded, ok bool, err error) {
	e, err := openEnvelope(value, position)
	if err != nil {
		return event, false, err
	}
	db := database{s.l.db}
	if e.stream != s.id {
		if s.name, err = s.l.streams.nameOf(db, e.stream); err != nil {
			return event, false, err
		}
		s.id = e.stream
	}
	typ, known := s.types[string(e.typ)]
	if !known {
		typ = string(e.typ)
		if len(s.types) < 1024 {
			s.types[typ] = typ
		}
	}
	if !s.filter.Admits(s.name, typ) {
		return event, false, nil
	}
	if as != nil {
		ok = as.visible(e.revision, e.ticks, s.now)
	} else if ok, err = s.l.visible(e.stream, s.name, e.revision, e.ticks, s.now); err != nil {
		return event, false, err
	}
	if !ok {
		return event, false, nil
	}
	if !s.lend {
		return e.recorded(s.name, typ, position), true, nil
	}
	event, s.room.memory = e.appendTo(s.room.memory, s.name, typ, position)
	return event, true, nil
}

// visible says whether an event has not expired by now.
func (l *Log) visible(id uint64, name string, revision, ticks uint64, now time.Time) (bool, error) {
	_, isMeta := eventstore.MetadataOf(name)
	if !isMeta && !l.streams.isLimited(id) {
		return true, nil
	}
	st, err := l.streams.stateOf(database{l.db}, id, isMeta)
	return err == nil && st.visible(revision, ticks, now), err
}

// chunk is what one go brought.
type chunk struct {
	events []eventstore.Recorded
	next   uint64 // position, or revision, to go on from
	done   bool
}

// all reads the next events of all streams, from a position on, at most to head forwards.
func (s *scan) all(from eventstore.Position, direction eventstore.Direction, head eventstore.Position, limit int) (c chunk, err error) {
	release, err := s.l.acquire()
	if err != nil {
		return c, err
	}
	defer release()
	db := database{s.l.db}
	lower, upper := keyOf(eventKey, uint64(from)), keyOf(eventKey, uint64(head)+1)
	if direction == eventstore.Backwards {
		lower, upper = []byte{eventKey}, keyOf(eventKey, uint64(min(from, head))+1)
	}
	it, err := db.iter(lower, upper)
	if err != nil {
		return c, err
	}
	defer it.Close()
	c.events = s.room.events
	bytes, examined := 0, 0
	for ok := first(it, direction); ok; ok = next(it, direction) {
		if len(c.events) >= min(limit, chunkEvents) || bytes >= chunkBytes || examined >= chunkExamined {
			c.next = numberIn(it.Key(), 0)
			return c, nil
		}
		examined++
		value, err := it.ValueAndErr()
		if err != nil {
			return c, readError(err)
		}
		event, admitted, err := s.record(value, eventstore.Position(numberIn(it.Key(), 0)), nil)
		if err != nil {
			return c, err
		}
		if admitted {
			c.events, bytes = append(c.events, event), bytes+len(value)
		}
	}
	c.done = true
	return c, readError(it.Error())
}

func first(it *pebble.Iterator, d eventstore.Direction) bool {
	if d == eventstore.Backwards {
		return it.Last()
	}
	return it.First()
}

func next(it *pebble.Iterator, d eventstore.Direction) bool {
	if d == eventstore.Backwards {
		return it.Prev()
	}
	return it.Next()
}

// ReadAll yields the events of all streams.
func (l *Log) ReadAll(ctx context.Context, opts eventstore.ReadAll) iter.Seq2[eventstore.Recorded, error] {
	return func(yield func(eventstore.Recorded, error) bool) {
		head := l.tail.current()
		from := opts.From
		if opts.FromEnd {
			if opts.Direction == eventstore.Forwards {
				return // there is nothing after the end
			}
			from = head
		}
		if opts.Direction == eventstore.Forwards && from > head {
			from = head + 1
		}
		s := l.newScan(opts.Filter)
		s.lend = opts.Lend
		chunks(ctx, opts.Limit, yield, fmt.Sprintf("reading from position %d", from), func(at uint64, begun bool, limit int) (chunk, error) {
			if !begun {
				at = uint64(from)
			}
			s.room.memory = s.room.memory[:0]
			c, err := s.all(eventstore.Position(at), opts.Direction, head, limit)
			s.room.events = c.events[:0]
			return c, err
		})
	}
}

// chunks yields what read brings, until it is done, the limit is reached, or nobody wants more.
func chunks(
	ctx context.Context, limit int, yield func(eventstore.Recorded, error) bool, activity string,
	read func(at uint64, begun bool, limit int) (chunk, error),
) {
	var at uint64
	for begun := false; ; begun = true {
		if err := ctx.Err(); err != nil {
			yield(eventstore.Recorded{}, fmt.Errorf("%s: %w", activity, err))
			return
		}
		remaining := chunkEvents
		if limit > 0 {
			remaining = limit
		}
		c, err := read(at, begun, remaining)
		if err != nil {
			yield(eventstore.Recorded{}, fmt.Errorf("%s: %w", activity, err))
			return
		}
		for _, e := range c.events {
			if err := ctx.Err(); err != nil {
				yield(eventstore.Recorded{}, fmt.Errorf("%s: %w", activity, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
		if limit > 0 {
			if limit -= len(c.events); limit <= 0 {
				return
			}
		}
		if c.done {
			return
		}
		at = c.next
	}
}
