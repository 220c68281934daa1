package embedded

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/shiplog/shiplog/eventstore"
)

// found is a stream as of a head.
type found struct {
	stream
	head      eventstore.Position
	scavenged uint64 // how often events had been removed by then
}

// overtaken says whether events may have been removed since.
func (f *found) overtaken(l *Log) bool {
	return l.scavenging.Load() > 0 || l.scavenged.Load() != f.scavenged
}

// lookup returns a stream as of the head.
func (l *Log) lookup(name string) (f found, err error) {
	release, err := l.acquire()
	if err != nil {
		return f, err
	}
	defer release()
	db := database{l.db}
	base, isMeta := eventstore.MetadataOf(name)
	if isMeta {
		id, err := l.streams.idOf(db, base)
		if err != nil {
			return f, err
		}
		st, err := l.streams.stateOf(db, id, false)
		if err != nil {
			return f, err
		}
		if st.tombstoned() {
			return f, eventstore.ErrStreamDeleted
		}
	}
	id, err := l.streams.idOf(db, name)
	if err != nil {
		return f, err
	}
	f.scavenged = l.scavenged.Load()
	f.stream, f.head, err = l.streams.stateAt(db, id, isMeta)
	if err == nil && f.tombstoned() {
		err = eventstore.ErrStreamDeleted
	}
	return f, err
}

// errOvertaken says that the scavenger has, or may have, removed an event which the stream still had when it was looked up.
var errOvertaken = errors.New("the scavenger was faster")

// stream reads the next events of a stream as it was looked up, up to the head of then, from a revision on. Whatever has been
// appended or has expired since does not count, so that what is read is what was there at one moment. When some of it is no
// longer on disk it returns errOvertaken: look it up anew.
func (s *scan) stream(st *found, name string, from uint64, direction eventstore.Direction, head eventstore.Position, limit int) (c chunk, err error) {
	release, err := s.l.acquire()
	if err != nil {
		return c, err
	}
	defer release()
	db := database{s.l.db}
	s.id, s.name = st.id, name
	visible := st.firstVisible()
	lower, upper, forwardsFrom := keyOf(indexKey, st.id, max(from, visible)), keyOf(indexKey, st.id+1), from
	if direction == eventstore.Backwards {
		forwardsFrom = 0
		lower = keyOf(indexKey, st.id, visible)
		if from < eventstore.TombstoneRevision {
			upper = keyOf(indexKey, st.id, from+1)
		}
	}
	it, err := db.iter(lower, upper)
	if err != nil {
		return c, err
	}
	defer it.Close()
	bytes, examined, lowest := 0, 0, uint64(math.MaxUint64)
	ok := first(it, direction)
	if direction == eventstore.Forwards && ok {
		lowest = numberIn(it.Key(), 1)
	}
	for ; ok; ok = next(it, direction) {
		if len(c.events) >= min(limit, chunkEvents) || bytes >= chunkBytes || examined >= chunkExamined {
			c.next = numberIn(it.Key(), 1)
			return c, nil
		}
		examined++
		lowest = min(lowest, numberIn(it.Key(), 1))
		var position uint64
		if !readVarints(it.Value(), &position) {
			return c, fmt.Errorf("%w: the index of stream %s does not parse; restore the directory from a backup", eventstore.ErrCorrupt, name)
		}
		if eventstore.Position(position) > head {
			continue // it is not durable yet, or came after this read began
		}
		value, closer, err := s.l.db.Get(keyOf(eventKey, position))
		if errors.Is(err, pebble.ErrNotFound) {
			return c, s.scavenged(st.id, numberIn(it.Key(), 1), name)
		}
		if err != nil {
			return c, readError(err)
		}
		event, admitted, err := s.record(value, eventstore.Position(position), &st.stream)
		if cerr := closer.Close(); err == nil && cerr != nil {
			err = readError(cerr)
		}
		if err != nil {
			return c, err
		}
		if admitted {
			c.events, bytes = append(c.events, event), bytes+len(event.Data)+len(event.Metadata)
		} else if direction == eventstore.Backwards && st.keep.maxAge > 0 {
			break // what comes before is older still
		}
	}
	if c.done = true; lowest > max(visible, forwardsFrom) && st.overtaken(s.l) {
		return c, errOvertaken // the oldest go first
	}
	return c, readError(it.Error())
}

// scavenged says whether an event which is in the index but not there was removed, index and all, just now: errOvertaken, or
// whether it should be there.
func (s *scan) scavenged(id, revision uint64, name string) error {
	_, found, err := database{s.l.db}.get(keyOf(indexKey, id, revision))
	switch {
	case err != nil:
		return err
	case found:
		return fmt.Errorf("%w: revision %d of %s is in the index only; restore the directory from a backup", eventstore.ErrCorrupt, revision, name)
	default:
		return errOvertaken
	}
}

// ReadStream yields a stream's events.
func (l *Log) ReadStream(ctx context.Context, name string, opts eventstore.ReadStream) iter.Seq2[eventstore.Recorded, error] {
	return func(yield func(eventstore.Recorded, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(eventstore.Recorded{}, fmt.Errorf("reading stream %s: %w", name, err))
			return
		}
		st, err := l.lookup(name)
		head := st.head
		if err == nil && !st.exists() {
			err = eventstore.ErrStreamNotFound
		}
		if err != nil {
			yield(eventstore.Recorded{}, fmt.Errorf("reading stream %s: %w", name, err))
			return
		}
		from := opts.From
		if opts.FromEnd {
			if opts.Direction == eventstore.Forwards {
				return // there is nothing after the end
			}
			from = eventstore.TombstoneRevision
		}
		s := l.newScan(eventstore.Filter{System: true})
		chunks(ctx, opts.Limit, yield, "reading stream "+name, func(at uint64, begun bool, limit int) (chunk, error) {
			if !begun {
				at = from
			}
			for {
				c, err := s.stream(&st, name, at, opts.Direction, head, limit)
				if !errors.Is(err, errOvertaken) {
					return c, err
				}
				// More than one chunk is not one moment; what is left is read as of now, but not beyond the end of then.
				if st, err = l.lookup(name); err != nil {
					return chunk{}, err
				}
				if begun {
					continue
				}
				if head = st.head; !st.exists() {
					return chunk{}, eventstore.ErrStreamNotFound
				}
			}
		})
	}
}

// eventAt returns the event at a revision of a stream, whether it has expired or not, nil if there is none.
func (l *Log) eventAt(id, revision uint64) (*eventstore.Recorded, error) {
	db := database{l.db}
	value, found, err := db.get(keyOf(indexKey, id, revision))
	if err != nil || !found {
		return nil, err
	}
	var position uint64
	if !readVarints(value, &position) {
		return nil, fmt.Errorf("%w: the index of stream %d does not parse; restore the directory from a backup", eventstore.ErrCorrupt, id)
	}
	if value, found, err = db.get(keyOf(eventKey, position)); err != nil || !found {
		return nil, err
	}
	e, err := openEnvelope(value, eventstore.Position(position))
	if err != nil {
		return nil, err
	}
	name, err := l.streams.nameOf(db, id)
	if err != nil {
		return nil, err
	}
	event := e.recorded(name, string(e.typ), eventstore.Position(position))
	return &event, nil
}
