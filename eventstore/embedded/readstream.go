package embedded

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"github.com/shiplog/shiplog/eventstore"
)

// lookup returns a stream as of the head.
func (l *Log) lookup(name string) (stream, error) {
	release, err := l.acquire()
	if err != nil {
		return stream{}, err
	}
	defer release()
	db := database{l.db}
	base, isMeta := eventstore.MetadataOf(name)
	if isMeta {
		id, err := l.streams.idOf(db, base)
		if err != nil {
			return stream{}, err
		}
		st, err := l.streams.stateOf(db, id, false)
		if err != nil {
			return stream{}, err
		}
		if st.tombstoned() {
			return stream{}, eventstore.ErrStreamDeleted
		}
	}
	id, err := l.streams.idOf(db, name)
	if err != nil {
		return stream{}, err
	}
	st, err := l.streams.stateOf(db, id, isMeta)
	if err == nil && st.tombstoned() {
		err = eventstore.ErrStreamDeleted
	}
	return st, err
}

// stream reads the next events of a stream, from a revision on.
func (s *scan) stream(st stream, name string, from uint64, direction eventstore.Direction, head eventstore.Position, limit int) (c chunk, err error) {
	release, err := s.l.acquire()
	if err != nil {
		return c, err
	}
	defer release()
	db := database{s.l.db}
	s.id, s.name = st.id, name
	visible := st.firstVisible()
	lower, upper := keyOf(indexKey, st.id, max(from, visible)), keyOf(indexKey, st.id+1)
	if direction == eventstore.Backwards {
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
	bytes, examined := 0, 0
	for ok := first(it, direction); ok; ok = next(it, direction) {
		if len(c.events) >= min(limit, chunkEvents) || bytes >= chunkBytes || examined >= chunkExamined {
			c.next = numberIn(it.Key(), 1)
			return c, nil
		}
		examined++
		var position uint64
		if !readVarints(it.Value(), &position) {
			return c, fmt.Errorf("%w: the index of stream %s does not parse; restore the directory from a backup", eventstore.ErrCorrupt, name)
		}
		if eventstore.Position(position) > head {
			continue // it is not durable yet, or came after this read began
		}
		value, closer, err := s.l.db.Get(keyOf(eventKey, position))
		if errors.Is(err, pebble.ErrNotFound) {
			if err := s.scavenged(st.id, numberIn(it.Key(), 1), name); err != nil {
				return c, err
			}
			continue
		}
		if err != nil {
			return c, readError(err)
		}
		event, admitted, err := s.record(value, eventstore.Position(position))
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
	c.done = true
	return c, readError(it.Error())
}

// scavenged makes sure that an event which is in the index but not there was removed, index and all, just now.
func (s *scan) scavenged(id, revision uint64, name string) error {
	_, found, err := database{s.l.db}.get(keyOf(indexKey, id, revision))
	if err == nil && found {
		err = fmt.Errorf("%w: revision %d of %s is in the index only; restore the directory from a backup", eventstore.ErrCorrupt, revision, name)
	}
	return err
}

// ReadStream yields a stream's events.
func (l *Log) ReadStream(ctx context.Context, name string, opts eventstore.ReadStream) iter.Seq2[eventstore.Recorded, error] {
	return func(yield func(eventstore.Recorded, error) bool) {
		st, err := l.lookup(name)
		head := l.tail.current()
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
			return s.stream(st, name, at, opts.Direction, head, limit)
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
	event := recorded(value, &e, name, string(e.typ), eventstore.Position(position))
	return &event, nil
}
