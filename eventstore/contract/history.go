package contract

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// History is what clients of a log did and were told, with what came before what. Clients at work at the same time record it
// together; Check holds it against what the log holds in the end. Streams in it are not deleted and have no retention.
type History struct {
	mu      sync.Mutex
	clock   int
	appends []*attempt
	reads   []*reading
}

// attempt is an append. It was made between began and ended, or at any time after began when its outcome is open.
type attempt struct {
	stream       string
	expected     eventstore.Expected
	ids          []uuid.UUID
	began, ended int
	result       eventstore.Appended
	err          error
}

// reading is a read that was made to its end. from is inclusive; limited says that the log may hold more in its direction.
type reading struct {
	stream       string // "" everything
	opts         eventstore.ReadAll
	began, ended int
	events       []eventstore.Recorded
}

func (h *History) tick() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	return h.clock
}

// Append makes an append and records it.
func (h *History) Append(ctx context.Context, log eventstore.Log, stream string, expected eventstore.Expected, events ...eventstore.Proposed) (eventstore.Appended, error) {
	a := &attempt{stream: stream, expected: expected, began: h.tick()}
	for _, e := range events {
		a.ids = append(a.ids, e.ID)
	}
	a.result, a.err = log.Append(ctx, stream, expected, events...)
	a.ended = h.tick()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.appends = append(h.appends, a)
	return a.result, a.err
}

// ReadStream reads a whole stream and records what it saw. A stream that is not there is an empty one.
func (h *History) ReadStream(ctx context.Context, log eventstore.Log, stream string) ([]eventstore.Recorded, error) {
	r := &reading{stream: stream, began: h.tick()}
	var err error
	r.events, err = collect(log.ReadStream(ctx, stream, eventstore.ReadStream{}))
	if err != nil && !errors.Is(err, eventstore.ErrStreamNotFound) {
		return nil, err
	}
	h.record(r)
	return r.events, nil
}

// ReadAll reads the log from a position on, forwards or backwards, and records what it saw. Backwards it begins at the end.
func (h *History) ReadAll(ctx context.Context, log eventstore.Log, opts eventstore.ReadAll) ([]eventstore.Recorded, error) {
	r := &reading{opts: opts, began: h.tick()}
	var err error
	if r.events, err = collect(log.ReadAll(ctx, opts)); err != nil {
		return nil, err
	}
	h.record(r)
	return r.events, nil
}

func (h *History) record(r *reading) {
	r.ended = h.tick()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads = append(h.reads, r)
}

// Acknowledged returns the appends that writers were told are durable, for CheckDurable.
func (h *History) Acknowledged() []Acknowledged {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Acknowledged
	for _, a := range h.appends {
		if a.err == nil {
			out = append(out, Acknowledged{Stream: a.stream, Events: a.ids, Result: a.result})
		}
	}
	return out
}

// Seen returns all events that readers saw, for CheckDurable.
func (h *History) Seen() []eventstore.Recorded {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []eventstore.Recorded
	for _, r := range h.reads {
		out = append(out, r.events...)
	}
	return out
}

// Check returns the promises that the history breaks, joined. log is everything that the log holds, in order.
func (h *History) Check(log []eventstore.Recorded) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &historyCheck{h: h, byID: make(map[streamID]*eventstore.Recorded), at: make(map[eventstore.Position]int)}
	for i := range log {
		e := &log[i]
		c.byID[streamID{e.Stream, e.ID}] = e
		c.at[e.Position] = i
		if i > 0 && e.Created.Before(log[i-1].Created) {
			c.broken = append(c.broken, brokenBy(ErrTimeWentBack, e))
		}
	}
	c.log = log
	for _, a := range h.appends {
		c.whole(a)
		c.expectation(a)
	}
	for _, r := range h.reads {
		c.read(r)
	}
	return errors.Join(c.broken...)
}

type streamID struct {
	stream string
	id     uuid.UUID
}

type historyCheck struct {
	h      *History
	log    []eventstore.Recorded
	byID   map[streamID]*eventstore.Recorded
	at     map[eventstore.Position]int
	broken []error
}

func (c *historyCheck) breaks(promise error, format string, args ...any) {
	c.broken = append(c.broken, fmt.Errorf("%w: "+format, append([]any{promise}, args...)...))
}

// refused says that an append was refused for good, so that nothing of it may be in the log.
func refused(err error) bool {
	return slices.ContainsFunc([]error{eventstore.ErrWrongExpectedRevision, eventstore.ErrTooLarge, eventstore.ErrStreamDeleted, eventstore.ErrReadOnly},
		func(kind error) bool { return errors.Is(err, kind) })
}

// whole: the events of an append are all there, side by side, or none is; none when it was refused.
func (c *historyCheck) whole(a *attempt) {
	var there []*eventstore.Recorded
	for _, id := range a.ids {
		if e := c.byID[streamID{a.stream, id}]; e != nil {
			there = append(there, e)
		}
	}
	switch {
	case len(there) == 0:
		if a.err == nil && len(a.ids) > 0 {
			c.breaks(ErrLost, "%v, acknowledged in %s up to revision %d", a.ids, a.stream, a.result.Revision)
		}
		return
	case refused(a.err):
		c.broken = append(c.broken, brokenBy(ErrPhantom, there[0]))
		return
	case len(there) < len(a.ids):
		c.breaks(ErrHalf, "%d of the %d events of an append to %s are in the log", len(there), len(a.ids), a.stream)
		return
	}
	for i := 1; i < len(there); i++ {
		if there[i].Revision != there[i-1].Revision+1 || c.at[there[i].Position] != c.at[there[i-1].Position]+1 {
			c.broken = append(c.broken, brokenBy(ErrHalf, there[i]))
		}
	}
}

// expectation: an append went through only where it was expected to, and a conflict was one.
func (c *historyCheck) expectation(a *attempt) {
	first := c.first(a)
	if first != nil && a.err == nil {
		before := eventstore.Expected(int64(first.Revision) - 1)
		if a.expected >= eventstore.NoStream && before != a.expected || a.expected == eventstore.StreamExists && before < 0 {
			c.broken = append(c.broken, brokenBy(ErrUnchecked, first))
		}
	}
	var wrong *eventstore.WrongExpectedRevisionError
	if !errors.As(a.err, &wrong) {
		return
	}
	if met := a.expected == eventstore.Any || a.expected == wrong.Actual || a.expected == eventstore.StreamExists && wrong.Actual >= 0; met {
		c.breaks(ErrUnjustified, "%s was expected at %d, and told to be at %d", a.stream, a.expected, wrong.Actual)
	}
	if last, known := c.known(a.stream, a.began); known && wrong.Actual < eventstore.Expected(last) {
		c.breaks(ErrStale, "%s was told to be at revision %d when revision %d had been acknowledged", a.stream, wrong.Actual, last)
	}
	if last, any := c.last(a.stream); wrong.Actual >= 0 && (!any || uint64(wrong.Actual) > last) {
		c.breaks(ErrPhantom, "%s was told to be at revision %d, which it never had", a.stream, wrong.Actual)
	}
}

func (c *historyCheck) first(a *attempt) *eventstore.Recorded {
	if len(a.ids) == 0 {
		return nil
	}
	return c.byID[streamID{a.stream, a.ids[0]}]
}

// known is the highest revision of a stream that had been acknowledged at a time.
func (c *historyCheck) known(stream string, when int) (last uint64, any bool) {
	for _, a := range c.h.appends {
		if a.stream == stream && a.err == nil && a.ended < when {
			last, any = max(last, a.result.Revision), true
		}
	}
	return last, any
}

func (c *historyCheck) last(stream string) (last uint64, any bool) {
	for i := range c.log {
		if e := &c.log[i]; e.Stream == stream {
			last, any = max(last, e.Revision), true
		}
	}
	return last, any
}

// read: what was seen is what the log holds, in order and without holes; what had been acknowledged is among it.
func (c *historyCheck) read(r *reading) {
	backwards := r.opts.Direction == eventstore.Backwards
	inRange := func(e *eventstore.Recorded) bool {
		switch {
		case r.stream != "":
			return e.Stream == r.stream
		case !r.opts.Filter.Admits(e.Stream, e.Type):
			return false
		case backwards:
			return r.opts.FromEnd || e.Position <= r.opts.From
		default:
			return e.Position >= r.opts.From
		}
	}
	seen := make(map[eventstore.Position]bool, len(r.events))
	var lowest, highest eventstore.Position
	for i := range r.events {
		e := &r.events[i]
		index, held := c.at[e.Position]
		switch {
		case !held:
			c.broken = append(c.broken, brokenBy(ErrPhantom, e))
			continue
		case !same(&c.log[index], e):
			c.broken = append(c.broken, brokenBy(ErrChanged, e))
		case !inRange(e):
			c.broken = append(c.broken, brokenBy(ErrNotAdmitted, e))
		case seen[e.Position]:
			c.broken = append(c.broken, brokenBy(ErrNotUnique, e))
		case i > 0 && (e.Position < r.events[i-1].Position) != backwards:
			c.broken = append(c.broken, brokenBy(ErrUnordered, e))
		}
		seen[e.Position] = true
		if lowest == 0 {
			lowest = e.Position
		}
		lowest, highest = min(lowest, e.Position), max(highest, e.Position)
	}
	full := r.opts.Limit > 0 && len(r.events) >= r.opts.Limit
	for i := range c.log {
		if e := &c.log[i]; inRange(e) && !seen[e.Position] && e.Position > lowest && e.Position < highest {
			c.broken = append(c.broken, brokenBy(ErrIncomplete, e))
		}
	}
	for _, a := range c.h.appends {
		if r.stream != "" && a.stream != r.stream {
			continue
		}
		c.readOf(r, a, seen, inRange, full, lowest, highest)
	}
}

// readOf holds a read against one append.
func (c *historyCheck) readOf(r *reading, a *attempt, seen map[eventstore.Position]bool, inRange func(*eventstore.Recorded) bool,
	full bool, lowest, highest eventstore.Position,
) {
	asked, got := 0, 0
	var missing *eventstore.Recorded
	for _, id := range a.ids {
		e := c.byID[streamID{a.stream, id}]
		if e == nil || !inRange(e) {
			continue
		}
		beyond := e.Position > highest // a read that was limited need not have come so far
		if r.opts.Direction == eventstore.Backwards {
			beyond = e.Position < lowest
		}
		if full && beyond {
			continue
		}
		asked++
		if seen[e.Position] {
			got++
		} else {
			missing = e
		}
	}
	switch {
	case missing == nil:
	case got > 0:
		c.broken = append(c.broken, brokenBy(ErrHalf, missing))
	case asked > 0 && a.err == nil && a.ended < r.began:
		c.broken = append(c.broken, brokenBy(ErrStale, missing))
	}
}
