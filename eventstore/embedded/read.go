package embedded

import (
	"context"
	"encoding/json"
	"errors"
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
}

func (l *Log) newScan(filter eventstore.Filter) *scan {
	return &scan{l: l, filter: filter, now: l.opts.Now(), types: make(map[string]string)}
}

// record turns an event's value into an event; ok is false when the filter refuses it or it has expired.
func (s *scan) record(value []byte, position eventstore.Position) (event eventstore.Recorded, ok bool, err error) {
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
	if visible, err := s.l.visible(e.stream, s.name, e.revision, e.ticks, s.now); err != nil || !visible {
		return event, false, err
	}
	return recorded(value, &e, s.name, typ, position), true, nil
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

// recorded makes an event that does not depend on value.
func recorded(value []byte, e *envelope, stream, typ string, position eventstore.Position) eventstore.Recorded {
	payload := append([]byte(nil), value[e.metadataAt:]...)
	split := e.dataAt - e.metadataAt
	contentType := jsonContent
	if len(e.contentType) > 0 {
		contentType = string(e.contentType)
	}
	return eventstore.Recorded{
		Proposed: eventstore.Proposed{
			ID: e.id, Type: typ, ContentType: contentType, Metadata: payload[:split:split], Data: payload[split:],
		},
		Stream: stream, Revision: e.revision, Position: position, Created: timeOf(e.ticks),
	}
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
		event, admitted, err := s.record(value, eventstore.Position(numberIn(it.Key(), 0)))
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
		chunks(ctx, opts.Limit, yield, fmt.Sprintf("reading from position %d", from), func(at uint64, begun bool, limit int) (chunk, error) {
			if !begun {
				at = uint64(from)
			}
			return s.all(eventstore.Position(at), opts.Direction, head, limit)
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

// SetMetadata replaces a stream's metadata.
func (l *Log) SetMetadata(ctx context.Context, name string, expected eventstore.Expected, m eventstore.Metadata) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("writing the metadata of %s: %w", name, err)
	}
	_, err = l.Append(ctx, eventstore.MetadataStream(name), expected, eventstore.Proposed{Type: eventstore.MetadataType, Data: data})
	return err
}

// Metadata returns a stream's metadata and its revision.
func (l *Log) Metadata(ctx context.Context, name string) (eventstore.Metadata, eventstore.Expected, error) {
	return eventstore.ReadMetadata(ctx, l, name)
}

// Delete soft-deletes a stream.
func (l *Log) Delete(ctx context.Context, name string, expected eventstore.Expected) error {
	return l.delete(ctx, opDelete, name, expected)
}

// Tombstone deletes a stream for good.
func (l *Log) Tombstone(ctx context.Context, name string, expected eventstore.Expected) error {
	return l.delete(ctx, opTombstone, name, expected)
}

func (l *Log) delete(ctx context.Context, op operation, name string, expected eventstore.Expected) error {
	if _, isMeta := eventstore.MetadataOf(name); isMeta {
		return fmt.Errorf("deleting %s: a metadata stream cannot be deleted", name)
	}
	if _, err := l.submit(ctx, &request{op: op, stream: name, expected: expected}); err != nil {
		return fmt.Errorf("deleting %s: %w", name, err)
	}
	return nil
}
