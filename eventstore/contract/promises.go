package contract

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// The promises of a log, as the errors that a checker reports when one is broken.
var (
	// ErrUnordered: events are delivered in the order of their positions.
	ErrUnordered = errors.New("an event was delivered after a later one")
	// ErrNotUnique: each event is delivered once.
	ErrNotUnique = errors.New("an event was delivered twice")
	// ErrIncomplete: every event that the filter admits is delivered before a checkpoint at or after it.
	ErrIncomplete = errors.New("an event was not delivered")
	// ErrNotAdmitted: nothing is delivered that was not asked for.
	ErrNotAdmitted = errors.New("an event was delivered that was not asked for")
	// ErrInvented: nothing is delivered that the log does not hold.
	ErrInvented = errors.New("an event was delivered that the log does not hold")
	// ErrChanged: an event is always the same.
	ErrChanged = errors.New("an event is not what it was before")
	// ErrNotResumable: checkpoints never go back.
	ErrNotResumable = errors.New("a checkpoint went back")
	// ErrLost: what was acknowledged stays.
	ErrLost = errors.New("an acknowledged event is gone")
	// ErrGap: a stream's revisions follow each other.
	ErrGap = errors.New("a stream's revisions have a gap")
	// ErrPhantom: nobody is shown what was never committed, nor what was refused.
	ErrPhantom = errors.New("something was shown that was never committed")
	// ErrStale: a read that begins after an append was acknowledged sees it.
	ErrStale = errors.New("an acknowledged event was not seen by a later read")
	// ErrHalf: the events of an append are seen together or not at all.
	ErrHalf = errors.New("a part of an append was seen without the rest")
	// ErrUnchecked: an append goes through only where it is expected to.
	ErrUnchecked = errors.New("an append went through although the stream was elsewhere")
	// ErrUnjustified: an append whose expectation is met is no conflict.
	ErrUnjustified = errors.New("an append was a conflict although the stream was where it was expected")
	// ErrTimeWentBack: dates do not run backwards.
	ErrTimeWentBack = errors.New("an event's date is before that of an earlier one")
)

// Promises are all of them.
func Promises() []error {
	return []error{
		ErrUnordered, ErrNotUnique, ErrIncomplete, ErrNotAdmitted, ErrInvented, ErrChanged, ErrNotResumable, ErrLost, ErrGap,
		ErrPhantom, ErrStale, ErrHalf, ErrUnchecked, ErrUnjustified, ErrTimeWentBack,
	}
}

// Delivery is what a subscription, or several that resumed each other, delivered.
type Delivery struct {
	Subscribed eventstore.Subscribe
	Batches    []eventstore.Batch
}

// Events returns all events delivered so far.
func (d *Delivery) Events() []eventstore.Recorded {
	var out []eventstore.Recorded
	for _, b := range d.Batches {
		out = append(out, b.Events...)
	}
	return out
}

// Checkpoint returns the last checkpoint, or where the subscription began.
func (d *Delivery) Checkpoint() eventstore.Position {
	if n := len(d.Batches); n > 0 {
		return d.Batches[n-1].Checkpoint
	}
	return d.Subscribed.After
}

// Check holds a delivery of a subscription to everything against what the log holds, and returns the promises broken,
// joined.
func (d *Delivery) Check(log []eventstore.Recorded) error {
	var broken []error
	held := make(map[eventstore.Position]*eventstore.Recorded, len(log))
	for i := range log {
		held[log[i].Position] = &log[i]
	}
	delivered := make(map[eventstore.Position]bool)
	last, checkpoint := d.Subscribed.After, d.Subscribed.After
	for _, b := range d.Batches {
		for i := range b.Events {
			e := &b.Events[i]
			switch {
			case delivered[e.Position]:
				broken = append(broken, brokenBy(ErrNotUnique, e))
			case e.Position <= last:
				broken = append(broken, brokenBy(ErrUnordered, e))
			}
			switch truth := held[e.Position]; {
			case truth == nil:
				broken = append(broken, brokenBy(ErrInvented, e))
			case !same(truth, e):
				broken = append(broken, brokenBy(ErrChanged, e))
			case e.Position <= d.Subscribed.After || !d.Subscribed.Filter.Admits(e.Stream, e.Type):
				broken = append(broken, brokenBy(ErrNotAdmitted, e))
			}
			delivered[e.Position], last = true, max(last, e.Position)
		}
		if b.Checkpoint < checkpoint {
			broken = append(broken, fmt.Errorf("%w: %d after %d", ErrNotResumable, b.Checkpoint, checkpoint))
		}
		checkpoint = max(checkpoint, b.Checkpoint)
	}
	for i := range log {
		e := &log[i]
		if e.Position > d.Subscribed.After && e.Position <= checkpoint && d.Subscribed.Filter.Admits(e.Stream, e.Type) && !delivered[e.Position] {
			broken = append(broken, brokenBy(ErrIncomplete, e))
		}
	}
	return errors.Join(broken...)
}

func brokenBy(promise error, e *eventstore.Recorded) error {
	return fmt.Errorf("%w: %s %s, revision %d of %s, position %d", promise, e.Type, e.ID, e.Revision, e.Stream, e.Position)
}

func same(a, b *eventstore.Recorded) bool {
	return a.ID == b.ID && a.Type == b.Type && a.ContentType == b.ContentType && bytes.Equal(a.Data, b.Data) &&
		bytes.Equal(a.Metadata, b.Metadata) && a.Stream == b.Stream && a.Revision == b.Revision && a.Position == b.Position &&
		a.Created.Equal(b.Created)
}

// Acknowledged is an append that a writer was told is durable.
type Acknowledged struct {
	Stream string
	Events []uuid.UUID
	Result eventstore.Appended
}

// CheckDurable holds what writers were told, and what readers saw, against what the log holds after a crash: all that was
// acknowledged or seen is there, once, unchanged, where it was, and streams have no gaps.
func CheckDurable(log []eventstore.Recorded, acknowledged []Acknowledged, seen []eventstore.Recorded) error {
	var broken []error
	type place struct {
		stream string
		id     uuid.UUID
	}
	held := make(map[place]*eventstore.Recorded, len(log))
	byPosition := make(map[eventstore.Position]*eventstore.Recorded, len(log))
	next := make(map[string]uint64)
	var last eventstore.Position
	for i := range log {
		e := &log[i]
		if e.Position <= last {
			broken = append(broken, brokenBy(ErrUnordered, e))
		}
		last = e.Position
		if held[place{e.Stream, e.ID}] != nil {
			broken = append(broken, brokenBy(ErrNotUnique, e))
		}
		if e.Revision != next[e.Stream] {
			broken = append(broken, brokenBy(ErrGap, e))
		}
		next[e.Stream] = e.Revision + 1
		held[place{e.Stream, e.ID}], byPosition[e.Position] = e, e
	}
	for _, a := range acknowledged {
		for i, id := range a.Events {
			back := len(a.Events) - 1 - i
			e := held[place{a.Stream, id}]
			switch {
			case e == nil:
				broken = append(broken, fmt.Errorf("%w: %s, acknowledged in %s up to revision %d, position %d", ErrLost, id, a.Stream, a.Result.Revision, a.Result.Position))
			case e.Revision != a.Result.Revision-uint64(back) || back == 0 && e.Position != a.Result.Position:
				broken = append(broken, brokenBy(ErrChanged, e))
			}
		}
	}
	for i := range seen {
		e := &seen[i]
		switch truth := byPosition[e.Position]; {
		case truth == nil:
			broken = append(broken, brokenBy(ErrLost, e))
		case !same(truth, e):
			broken = append(broken, brokenBy(ErrChanged, e))
		}
	}
	return errors.Join(broken...)
}
