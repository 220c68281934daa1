package embedded

import (
	"context"
	"fmt"

	"github.com/shiplog/shiplog/eventstore"
)

// Verified is what Verify looked at.
type Verified struct {
	Events  int // on disk, expired ones included
	Streams int
	Head    eventstore.Position
}

// verifyChunk is how many keys are looked at before the log can be closed.
const verifyChunk = 4096

// Verify reads the whole log and makes sure that it is sound: every event has its checksum, its date is not before that of
// the event ahead of it, the index of its stream points to it, and every entry of the index to an event. It stops at the
// first fault, which is ErrCorrupt and says where. progress, unless nil, is told from time to time how far it got.
func (l *Log) Verify(ctx context.Context, progress func(done, head eventstore.Position)) (Verified, error) {
	v := verifier{l: l, head: l.tail.current(), names: make(map[uint64]string), progress: progress}
	v.result.Head = v.head
	for _, part := range []struct {
		what   string
		prefix byte
		check  func(key, value []byte) error
	}{
		{"the streams", nameKey, v.name},
		{"the events", eventKey, v.event},
		{"the index", indexKey, v.index},
	} {
		if err := v.walk(ctx, part.prefix, part.check); err != nil {
			return v.result, fmt.Errorf("verifying %s: %w", part.what, err)
		}
	}
	return v.result, nil
}

type verifier struct {
	l        *Log
	head     eventstore.Position
	names    map[uint64]string
	ticks    uint64
	progress func(done, head eventstore.Position)
	result   Verified
}

// walk calls check for every key of a kind, letting go of the log now and then.
func (v *verifier) walk(ctx context.Context, prefix byte, check func(key, value []byte) error) error {
	for from := []byte{prefix}; from != nil; {
		if err := ctx.Err(); err != nil {
			return err
		}
		next, err := v.some(from, []byte{prefix + 1}, check)
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}

func (v *verifier) some(from, to []byte, check func(key, value []byte) error) (next []byte, err error) {
	release, err := v.l.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	it, err := database{v.l.db}.iter(from, to)
	if err != nil {
		return nil, err
	}
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n == verifyChunk {
			return append([]byte(nil), it.Key()...), closeIter(it)
		}
		n++
		if err := check(it.Key(), it.Value()); err != nil {
			_ = it.Close() // the fault found is what matters
			return nil, err
		}
	}
	return nil, closeIter(it)
}

func (v *verifier) name(key, value []byte) error {
	id, name := numberIn(key, 0), string(value)
	v.names[id] = name
	found, err := v.l.streams.idOf(database{v.l.db}, name)
	if err == nil && found != id {
		err = fmt.Errorf("%w: stream %s has the ids %d and %d", eventstore.ErrCorrupt, name, id, found)
	}
	v.result.Streams++
	return err
}

func (v *verifier) event(key, value []byte) error {
	position := eventstore.Position(numberIn(key, 0))
	if position > v.head {
		return nil // it came after this began
	}
	e, err := openEnvelope(value, position)
	if err != nil {
		return err
	}
	if e.ticks < v.ticks {
		return fmt.Errorf("%w: the event at position %d is dated before the one ahead of it", eventstore.ErrCorrupt, position)
	}
	v.ticks = e.ticks
	entry, found, err := database{v.l.db}.get(keyOf(indexKey, e.stream, e.revision))
	if err != nil {
		return err
	}
	var at uint64
	if !found || !readVarints(entry, &at) || at != uint64(position) {
		return v.unlessGone(keyOf(eventKey, uint64(position)), fmt.Errorf(
			"%w: the event at position %d, revision %d of %q, is not where the index has it", eventstore.ErrCorrupt, position, e.revision, v.names[e.stream]))
	}
	if v.result.Events++; v.progress != nil && v.result.Events%verifyChunk == 0 {
		v.progress(position, v.head)
	}
	return nil
}

func (v *verifier) index(key, value []byte) error {
	id, revision := numberIn(key, 0), numberIn(key, 1)
	var position uint64
	if !readVarints(value, &position) {
		return fmt.Errorf("%w: the index entry of revision %d of %q does not parse", eventstore.ErrCorrupt, revision, v.names[id])
	}
	if eventstore.Position(position) > v.head {
		return nil
	}
	stored, found, err := database{v.l.db}.get(keyOf(eventKey, position))
	if err != nil {
		return err
	}
	if found {
		e, err := openEnvelope(stored, eventstore.Position(position))
		if err != nil || e.stream == id && e.revision == revision {
			return err
		}
	}
	return v.unlessGone(append([]byte(nil), key...), fmt.Errorf("%w: revision %d of %q should be at position %d and is not", eventstore.ErrCorrupt, revision, v.names[id], position))
}

// unlessGone forgives a fault when the scavenger has removed what it is about.
func (v *verifier) unlessGone(key []byte, fault error) error {
	_, found, err := database{v.l.db}.get(key)
	if err == nil && found {
		err = fault
	}
	return err
}
