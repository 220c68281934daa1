package embedded

import (
	"context"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"github.com/shiplog/shiplog/eventstore"
)

// chained returns an error unless the log has a hash chain.
func (l *Log) chained() error {
	if l.format != format {
		return fmt.Errorf("%w: %s holds a log of format %d, which has no hash chain: open it for writing once (with shiplog up or shiplog eventstore serve), which upgrades it to format %d",
			eventstore.ErrVersion, l.dir, l.format, format)
	}
	return nil
}

// Entries yields what stands at positions: events, and what the scavenger left of others.
func (l *Log) Entries(ctx context.Context, from, to eventstore.Position) iter.Seq2[eventstore.Entry, error] {
	return func(yield func(eventstore.Entry, error) bool) {
		to := min(to, l.tail.current())
		for next := from; next <= to; {
			err := ctx.Err()
			var entries []eventstore.Entry
			if err == nil {
				entries, next, err = l.entries(next, to)
			}
			if err != nil {
				yield(eventstore.Entry{}, fmt.Errorf("reading the entries from position %d: %w", next, err))
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// entries reads the next entries up to a position, and says where to go on.
func (l *Log) entries(from, to eventstore.Position) (entries []eventstore.Entry, next eventstore.Position, err error) {
	if err := l.chained(); err != nil {
		return nil, from, err
	}
	release, err := l.acquire()
	if err != nil {
		return nil, from, err
	}
	defer release()
	w, err := l.newEntryWalk(from, to)
	if err != nil {
		return nil, from, err
	}
	defer w.close()
	bytes := 0
	for ; w.valid(); w.next() {
		if len(entries) >= chunkEvents || bytes >= chunkBytes {
			return entries, w.position(), nil
		}
		value, err := w.value()
		if err != nil {
			return nil, from, err
		}
		e, err := l.entry(w.position(), value, w.isTrace())
		if err != nil {
			return nil, from, err
		}
		entries, bytes = append(entries, e), bytes+len(value)
	}
	return entries, to + 1, w.err()
}

// entry makes an entry that does not depend on the value.
func (l *Log) entry(position eventstore.Position, value []byte, isTrace bool) (eventstore.Entry, error) {
	if !isTrace {
		e, err := openEnvelope(value, position)
		if err != nil {
			return eventstore.Entry{}, err
		}
		name, err := l.streams.nameOf(database{l.db}, e.stream)
		return eventstore.Entry{Recorded: e.recorded(name, string(e.typ), position), Content: e.content(), Digest: e.digest}, err
	}
	t, err := openTrace(value, position)
	if err != nil {
		return eventstore.Entry{}, err
	}
	name, err := l.streams.nameOf(database{l.db}, t.stream)
	if err != nil {
		return eventstore.Entry{}, err
	}
	out := eventstore.Entry{Scavenged: true, Content: t.content, Digest: t.digest}
	if len(t.body) > 0 {
		e := envelope{head: t.head}
		if !e.openBody(t.body) {
			return out, corruptEvent(position, errEnvelope)
		}
		out.Recorded = e.recorded(name, string(e.typ), position)
	}
	out.Stream, out.Revision, out.Position, out.Created = name, t.revision, position, timeOf(t.ticks)
	return out, nil
}

// entryWalk goes over events and traces in the order of their positions, as they stood at one moment.
type entryWalk struct {
	snapshot       snapshot
	events, traces *pebble.Iterator
}

func (l *Log) newEntryWalk(from, to eventstore.Position) (w *entryWalk, err error) {
	w = &entryWalk{snapshot: l.snapshot()}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	at := database{w.snapshot}
	if w.events, err = at.iter(keyOf(eventKey, uint64(from)), keyOf(eventKey, uint64(to)+1)); err != nil {
		return w, err
	}
	if w.traces, err = at.iter(keyOf(traceKey, uint64(from)), keyOf(traceKey, uint64(to)+1)); err != nil {
		return w, err
	}
	w.events.First()
	w.traces.First()
	return w, nil
}

func (w *entryWalk) valid() bool { return w.events.Valid() || w.traces.Valid() }

func (w *entryWalk) isTrace() bool {
	return !w.events.Valid() || w.traces.Valid() && numberIn(w.traces.Key(), 0) < numberIn(w.events.Key(), 0)
}

func (w *entryWalk) current() *pebble.Iterator {
	if w.isTrace() {
		return w.traces
	}
	return w.events
}

func (w *entryWalk) next() { w.current().Next() }

func (w *entryWalk) position() eventstore.Position {
	return eventstore.Position(numberIn(w.current().Key(), 0))
}

func (w *entryWalk) value() ([]byte, error) {
	value, err := w.current().ValueAndErr()
	return value, readError(err)
}

// err is why the walk ended early, nil if it did not.
func (w *entryWalk) err() error {
	for _, it := range []*pebble.Iterator{w.events, w.traces} {
		if err := it.Error(); err != nil {
			return readError(err)
		}
	}
	return nil
}

// close lets go of the database. What it could complain about is in err already.
func (w *entryWalk) close() {
	for _, it := range []*pebble.Iterator{w.events, w.traces} {
		if it != nil {
			_ = it.Close()
		}
	}
	_ = w.snapshot.Close()
}

// standing is where an entry stands in the chain.
type standing struct {
	position eventstore.Position
	ticks    uint64
	digest   eventstore.Digest
}

// lastEntry returns the last entry at or before a position; the zero standing when there is none.
func (l *Log) lastEntry(position eventstore.Position) (last standing, err error) {
	snapshot := l.snapshot()
	defer func() {
		if cerr := snapshot.Close(); err == nil {
			err = readError(cerr)
		}
	}()
	at := database{snapshot}
	key, value, err := at.last(eventKey, uint64(position))
	if err != nil {
		return last, err
	}
	if key != nil {
		last.position = eventstore.Position(numberIn(key, 0))
		e, err := openEnvelope(value, last.position)
		if err != nil {
			return last, err
		}
		last.ticks, last.digest = e.ticks, e.digest
	}
	if key, value, err = at.last(traceKey, uint64(position)); err != nil || key == nil {
		return last, err
	}
	if p := eventstore.Position(numberIn(key, 0)); p > last.position {
		t, err := openTrace(value, p)
		if err != nil {
			return last, err
		}
		last = standing{position: p, ticks: t.ticks, digest: t.digest}
	}
	return last, nil
}

// last returns a copy of the last key, and its value, of a kind whose number is at most upTo; nil if there is none.
func (d database) last(prefix byte, upTo uint64) (key, value []byte, err error) {
	it, err := d.iter([]byte{prefix}, keyOf(prefix, upTo+1))
	if err != nil {
		return nil, nil, err
	}
	if it.Last() {
		key, value = append(key, it.Key()...), append(value, it.Value()...)
	}
	return key, value, closeIter(it)
}

// DigestAt returns the digest of the last entry at or before a position.
func (l *Log) DigestAt(ctx context.Context, position eventstore.Position) (eventstore.Digest, error) {
	err := ctx.Err()
	if err == nil {
		err = l.chained()
	}
	if err != nil {
		return eventstore.Digest{}, err
	}
	release, err := l.acquire()
	if err != nil {
		return eventstore.Digest{}, err
	}
	defer release()
	last, err := l.lastEntry(min(position, l.tail.current()))
	if err != nil {
		return eventstore.Digest{}, fmt.Errorf("reading the digest at position %d: %w", position, err)
	}
	return last.digest, nil
}
