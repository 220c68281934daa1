package embedded

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/shiplog/shiplog/eventstore"
)

// Verified is what Verify and Check looked at.
type Verified struct {
	Events    int                 `json:"events"` // on disk, expired ones included
	Scavenged int                 `json:"scavenged"`
	Streams   int                 `json:"streams"`
	Head      eventstore.Position `json:"head"`
	Digest    eventstore.Digest   `json:"digest"` // of the entry at the head
}

const (
	// verifyChunk is how many keys are looked at before the log can be closed.
	verifyChunk = 4096
	// maxFaults is how many faults a check reports at most.
	maxFaults = 100
)

// Verify is Check that stops being patient: the first fault in the order of positions is its error, ErrCorrupt.
func (l *Log) Verify(ctx context.Context, progress func(done, head eventstore.Position)) (Verified, error) {
	verified, faults, err := l.Check(ctx, progress)
	if err == nil && len(faults) > 0 {
		err = fmt.Errorf("%w: %s; restore the directory from a backup", eventstore.ErrCorrupt, faults[0])
	}
	return verified, err
}

// Check reads the whole log and returns what is wrong with it, in the order of positions, up to 100 faults: whether every entry has
// its checksum and continues the hash chain, no event is missing between two of a stream, every trace stands for an event
// that a retention allowed to remove, the indices of the streams and the events agree, and what is kept of each stream is
// what its metadata says. progress, unless nil, is told from time to time how far it got. It runs beside reads and appends. An error says that
// the check could not be made to its end, ErrVersion that the log has no chain.
func (l *Log) Check(ctx context.Context, progress func(done, head eventstore.Position)) (Verified, []eventstore.Fault, error) {
	if err := l.chained(); err != nil {
		return Verified{}, nil, err
	}
	c := &check{
		l: l, progress: progress, names: make(map[uint64]string), streams: make(map[uint64]*checkedStream),
		found: make(map[eventstore.Fault]struct{}),
	}
	for _, part := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"the streams", c.checkNames},
		{"the events", c.checkEntries},
		{"the index", c.checkIndex},
		{"retention", c.checkRetention},
	} {
		if err := part.do(ctx); err != nil {
			return c.result, nil, fmt.Errorf("verifying %s: %w", part.what, err)
		}
	}
	return c.result, c.verdict(), nil
}

type check struct {
	l        *Log
	progress func(done, head eventstore.Position)
	names    map[uint64]string
	streams  map[uint64]*checkedStream
	untraced eventstore.Position
	damaged  []eventstore.Position
	chain    chainCheck
	faults   []eventstore.Fault
	found    map[eventstore.Fault]struct{}
	result   Verified
}

// fault reports a fault. There may be more than can be told: then the first ones count.
func (c *check) fault(kind eventstore.FaultKind, position eventstore.Position, stream string, revision uint64, format string, args ...any) {
	f := eventstore.Fault{Kind: kind, Position: position, Stream: stream, Revision: revision, Detail: fmt.Sprintf(format, args...)}
	if _, known := c.found[f]; known || len(c.faults) >= 10*maxFaults {
		return
	}
	c.found[f] = struct{}{}
	c.faults = append(c.faults, f)
}

// verdict puts together what the parts found.
func (c *check) verdict() []eventstore.Fault {
	faults := c.chain.verdict()
	broken := make(map[eventstore.Position]bool)
	for _, f := range faults {
		broken[f.Position] = true
	}
	for _, f := range c.faults {
		if f.Kind != eventstore.Reordered || !broken[f.Position] {
			faults = append(faults, f)
		}
	}
	// What is known to be missing, with its stream and revision, need not be said once more by the gap that it left.
	told := make(map[eventstore.Position]eventstore.FaultKind)
	for _, f := range faults {
		if f.Stream != "" && f.Position > 0 && (told[f.Position] == "" || f.Kind == eventstore.Reordered) {
			told[f.Position] = f.Kind
		}
	}
	named := func(gap gap) bool {
		for position := range told {
			if position >= gap.from && position <= gap.to && told[position] == eventstore.Missing {
				return true
			}
		}
		return false
	}
	faults = slices.DeleteFunc(faults, func(f eventstore.Fault) bool {
		gap, isGap := c.chain.gaps[f.Position]
		switch {
		case f.Kind == eventstore.Missing && f.Stream == "" && isGap:
			return named(gap)
		case f.Kind == eventstore.Unindexed: // a moved or changed event is not where the index has it, of course
			return told[f.Position] != "" && told[f.Position] != eventstore.Unindexed
		}
		return false
	})
	slices.SortStableFunc(faults, func(a, b eventstore.Fault) int {
		switch {
		case a.Position < b.Position:
			return -1
		case a.Position > b.Position:
			return 1
		}
		return 0
	})
	return faults[:min(len(faults), maxFaults)]
}

// walk calls visit for every key of a kind, letting go of the log now and then. All that visit reads comes from one moment.
func (c *check) walk(ctx context.Context, prefix byte, visit func(at database, key, value []byte) error) error {
	for from := []byte{prefix}; from != nil; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if from, err = c.some(from, []byte{prefix + 1}, visit); err != nil {
			return err
		}
	}
	return nil
}

func (c *check) some(from, to []byte, visit func(at database, key, value []byte) error) (next []byte, err error) {
	release, err := c.l.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	snapshot := c.l.snapshot()
	defer func() { err = errors.Join(err, readError(snapshot.Close())) }()
	at := database{snapshot}
	it, err := at.iter(from, to)
	if err != nil {
		return nil, err
	}
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n == verifyChunk {
			return append([]byte(nil), it.Key()...), closeIter(it)
		}
		n++
		if err := visit(at, it.Key(), it.Value()); err != nil {
			_ = it.Close() // what went wrong first is what matters
			return nil, err
		}
	}
	return nil, c.unreadable(0, closeIter(it))
}

// unreadable makes damage of the storage a fault.
func (c *check) unreadable(position eventstore.Position, err error) error {
	if errors.Is(err, eventstore.ErrCorrupt) {
		c.fault(eventstore.Unreadable, position, "", 0, "the storage is damaged here, and what follows could not be read: %v", err)
		return nil
	}
	return err
}

func (c *check) checkNames(ctx context.Context) error {
	return c.walk(ctx, nameKey, func(at database, key, value []byte) error {
		id, name := numberIn(key, 0), string(value)
		c.names[id] = name
		c.result.Streams++
		stored, found, err := at.get(keyOfName(name))
		if err != nil {
			return c.unreadable(0, err)
		}
		var other uint64
		if !found || !readVarints(stored, &other) || other != id {
			c.fault(eventstore.Misnamed, 0, name, 0, "the stream has the ids %d and %d", id, other)
		}
		return nil
	})
}

// checkEntries goes over events and traces, up to where the head is when it gets there.
func (c *check) checkEntries(ctx context.Context) error {
	value, found, err := database{c.l.db}.get([]byte{untracedKey})
	if err != nil {
		return c.unreadable(0, err)
	}
	var untraced uint64
	if found && !readVarints(value, &untraced) {
		return fmt.Errorf("%w: the position up to which there are no traces does not parse", eventstore.ErrCorrupt)
	}
	c.untraced = eventstore.Position(untraced)
	for from := eventstore.Position(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		head := c.l.tail.current()
		if from > head {
			return nil
		}
		next, err := c.someEntries(from, head)
		if err != nil {
			return err
		}
		if from = next; c.progress != nil {
			c.progress(min(from, head), head)
		}
	}
}

func (c *check) someEntries(from, head eventstore.Position) (next eventstore.Position, err error) {
	release, err := c.l.acquire()
	if err != nil {
		return 0, err
	}
	defer release()
	w, err := c.l.newEntryWalk(from, head)
	if err != nil {
		return 0, err
	}
	defer w.close()
	for n := 0; w.valid(); w.next() {
		if n++; n > verifyChunk {
			return w.position(), nil
		}
		position := w.position()
		value, err := w.value()
		if err == nil {
			err = c.entry(database{w.snapshot}, position, value, w.isTrace())
		}
		if err != nil {
			return head + 1, c.unreadable(position, err)
		}
	}
	return head + 1, c.unreadable(from, w.err())
}

// entry checks one entry.
func (c *check) entry(at database, position eventstore.Position, value []byte, isTrace bool) error {
	c.result.Head = position
	e := checkedEntry{}
	e.Position = position
	var h head
	var body []byte
	var err error
	if isTrace {
		var t trace
		if t, err = openTrace(value, position); err == nil {
			h, body, e.Content, e.Digest, e.Scavenged = t.head, t.body, t.content, t.digest, true
			c.result.Scavenged++
		}
	} else {
		var env envelope
		if env, err = openEnvelope(value, position); err == nil {
			h, body, e.Content, e.Digest = env.head, env.body, env.content(), env.digest
			c.result.Events++
		}
	}
	if errors.Is(err, eventstore.ErrVersion) {
		return err
	}
	if err != nil {
		stored := eventstore.Digest{}
		if len(value) >= digestEnd {
			copy(stored[:], value[crcEnd:])
		}
		c.result.Digest = stored
		c.chain.damaged(position, stored)
		c.damaged = append(c.damaged, position)
		c.fault(eventstore.Changed, position, "", 0, "%v", errors.Unwrap(errors.Unwrap(err)))
		if errors.Is(err, errChecksum) {
			c.faults[len(c.faults)-1].Detail = errChecksum.Error()
		}
		return nil
	}
	c.result.Digest = e.Digest
	name, known := c.names[h.stream]
	if !known {
		stored, found, err := at.get(keyOf(nameKey, h.stream)) // it may have come since
		if err != nil {
			return err
		}
		if name = string(stored); !found {
			c.fault(eventstore.Misnamed, position, "", 0, "its stream, number %d, has no name", h.stream)
		}
		c.names[h.stream] = name
	}
	e.Stream, e.Revision, e.Created = name, h.revision, timeOf(h.ticks)
	continues := c.chain.entry(&e)
	if err := c.stream(at, &e, h, body, continues); err != nil || isTrace {
		return err
	}
	entry, found, err := at.get(keyOf(indexKey, h.stream, h.revision))
	if err != nil {
		return err
	}
	var indexed uint64
	switch {
	case !found:
		c.fault(eventstore.Unindexed, position, name, h.revision, "the index of the stream does not have it")
	case !readVarints(entry, &indexed) || indexed != uint64(position):
		c.fault(eventstore.Unindexed, position, name, h.revision, "the index of the stream has it at position %d", indexed)
	}
	return nil
}

// checkIndex makes sure that every entry of an index leads to its event.
func (c *check) checkIndex(ctx context.Context) error {
	return c.walk(ctx, indexKey, func(at database, key, value []byte) error {
		id, revision := numberIn(key, 0), numberIn(key, 1)
		name := c.names[id]
		var position uint64
		if !readVarints(value, &position) {
			c.fault(eventstore.Unindexed, 0, name, revision, "the entry of the index does not parse")
			return nil
		}
		if eventstore.Position(position) > c.result.Head && c.l.tail.current() > c.result.Head {
			return nil // it came after the events were looked at
		}
		stored, found, err := at.get(keyOf(eventKey, position))
		if err != nil {
			return c.unreadable(eventstore.Position(position), err)
		}
		if !found {
			c.fault(eventstore.Missing, eventstore.Position(position), name, revision, "the index of the stream has it here, and it is not")
			return nil
		}
		e, err := openEnvelope(stored, eventstore.Position(position))
		if err != nil {
			return nil //nolint:nilerr // it has been told
		}
		if e.stream != id || e.revision != revision {
			c.fault(eventstore.Unindexed, eventstore.Position(position), name, revision, "the index of the stream has it here, where revision %d of %q stands",
				e.revision, c.names[e.stream])
		}
		return nil
	})
}
