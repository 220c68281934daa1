package live

import (
	"bytes"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// batch is what some records lead to. It is worked out beside the view, against what the view holds and what the batch has changed
// so far, and then becomes visible at once: objects, recent changes and position.
type batch struct {
	view    *View
	staged  []staged // in order
	at      map[domain.Ref]int
	changes []projections.Change
	reached uint64
	applied uint64
}

// staged is an object after the batch.
type staged struct {
	name   domain.Ref          // without a uid
	object *projections.Object // nil: gone
	broken bool
}

// apply folds records into the view. checkpoint, if it is later than the last record, is the position reached. An error says that
// a record was written by a newer build; the view stands before it then. Only Run's goroutine calls it, and so may read what only
// it writes without the lock.
func (v *View) apply(records []eventstore.Recorded, checkpoint uint64) error {
	b := &batch{view: v, reached: v.latest.Load()}
	var failed error
	for _, r := range records {
		if uint64(r.Position) <= b.reached {
			continue // seen before the subscription was made again
		}
		if failed = b.add(r); failed != nil {
			checkpoint = 0
			break
		}
		b.reached = uint64(r.Position)
		b.applied++
	}
	b.reached = max(b.reached, checkpoint)
	v.commit(b)
	return failed
}

// commit makes a batch visible. Whoever takes a snapshot afterwards finds all its changes in the buffer, and the other way round:
// that a follower has nothing to deliver means that it has delivered everything that a snapshot shows.
func (v *View) commit(b *batch) {
	if b.reached == v.latest.Load() {
		return
	}
	for _, s := range b.staged {
		if s.object != nil && len(s.object.Kind.Indexes) > 1 {
			_, _ = s.object.Typed() // indexes will ask for it; it need not be decoded under the lock. An error is the reader's to see
		}
	}
	v.mu.Lock()
	for _, s := range b.staged {
		if s.object == nil {
			v.store.Delete(s.name.GroupResource(), s.name.Namespace, s.name.Name)
		} else {
			v.store.Put(s.object)
		}
		if s.broken {
			v.unreadable[s.name] = struct{}{}
		} else {
			delete(v.unreadable, s.name)
		}
	}
	v.position = b.reached
	v.applied += b.applied
	v.ring.add(b.changes, b.reached)
	v.latest.Store(b.reached)
	v.mu.Unlock()
	v.waiters.reach(b.reached)
}

// add applies one record.
func (b *batch) add(r eventstore.Recorded) error {
	e, ok, err := projections.EventOf(r)
	var newer *domain.UnknownVersionError
	switch {
	case errors.As(err, &newer):
		return err
	case err != nil:
		b.applyUnreadable(r, err)
	case ok && projections.Concerns(r, e):
		b.applyEvent(e)
	}
	return nil
}

// get returns an object as the batch has left it so far, and whether its events do not fold.
func (b *batch) get(ref domain.Ref) (o *projections.Object, broken bool) {
	name := nameOf(ref)
	if i, ok := b.at[name]; ok {
		return b.staged[i].object, b.staged[i].broken
	}
	o, _ = b.view.store.Get(ref.GroupResource(), ref.Namespace, ref.Name)
	if o != nil && len(b.view.unreadable) > 0 {
		_, broken = b.view.unreadable[name]
	}
	return o, broken
}

func (b *batch) set(ref domain.Ref, o *projections.Object, broken bool) {
	name := nameOf(ref)
	if i, ok := b.at[name]; ok {
		b.staged[i].object, b.staged[i].broken = o, broken
		return
	}
	if b.at == nil {
		b.at = map[domain.Ref]int{}
	}
	b.at[name] = len(b.staged)
	b.staged = append(b.staged, staged{name, o, broken})
}

func (b *batch) changed(e domain.Event, before, after *projections.Object) {
	if before != nil || after != nil {
		b.changes = append(b.changes, projections.Change{Event: e, Before: before, After: after})
	}
}

func (b *batch) applyEvent(e domain.Event) {
	before, broken := b.get(e.Ref)
	hint := b.view.hints.take(e.ID)
	state := projections.StateOf(before)
	if broken {
		state.Seen = false // no delta applies to it any more, only what needs no base
	}
	state, err := state.Apply(e)
	switch {
	case err != nil:
		b.keepBroken(e, before, err)
	case e.Op == "":
		if before != nil { // a fact told in the object's stream: only what the next append expects has changed
			b.set(e.Ref, renewed(before, state.Revision), broken)
		}
	case !state.Exists:
		b.set(e.Ref, nil, false)
		b.changed(e, before, nil)
	default:
		after := b.view.object(e, before, state, hint)
		b.set(e.Ref, after, false)
		b.changed(e, before, after)
	}
}

// applyUnreadable takes note of a damaged record in an object's stream: the object cannot be read from here on.
func (b *batch) applyUnreadable(r eventstore.Recorded, cause error) {
	ref, ok := domain.ParseStream(r.Stream)
	if !ok {
		return
	}
	before, _ := b.get(ref)
	if before != nil {
		ref = before.Ref
	}
	e := domain.Event{ID: r.ID.String(), Type: r.Type, Ref: ref, Op: domain.Changed, Position: uint64(r.Position), Revision: r.Revision, Time: r.Created}
	b.keepBroken(e, before, cause)
}

// keepBroken keeps an object whose events do not fold as it was last, and unreadable, until it is deleted or made anew: one
// damaged stream must not take the cluster down.
func (b *batch) keepBroken(e domain.Event, before *projections.Object, cause error) {
	b.view.slog.Error("an object's events do not fold: it cannot be read until it is deleted or created again", "object", e.Ref.String(), "position", e.Position, "error", cause)
	if e.Op == domain.Deleted {
		b.set(e.Ref, nil, false)
		b.changed(e, before, nil)
		return
	}
	o := projections.Object{Ref: e.Ref, Position: e.Position, Revision: e.Revision}
	if before != nil {
		o.JSON, o.Kind = before.JSON, before.Kind
	}
	if e.Op == domain.Created && len(e.Change) > 0 && e.Change[0] == '{' {
		// What was there before does not fit, but this is a whole object: it is the better answer.
		o.JSON, o.Kind = bytes.Clone(e.Change), nil
		after := memory.Decoded(b.view.kinds, o)
		b.set(e.Ref, after, false)
		b.changed(e, before, after)
		return
	}
	if o.Kind == nil {
		o.Kind = memory.KindOf(b.view.kinds, o.Ref, o.JSON)
	}
	after := memory.Broken(o, fmt.Errorf("reading %s: %w", e.Ref, cause))
	b.set(e.Ref, after, true)
	b.changed(e, before, after)
}

// object makes the object that a state stands for. What does not change from one event to the next is shared with the object
// before: its names and its kind.
func (v *View) object(e domain.Event, before *projections.Object, state domain.State, hint runtime.Object) *projections.Object {
	o := projections.Object{Ref: e.Ref, Position: state.Position, Revision: state.Revision, JSON: state.JSON}
	o.Ref.UID = state.UID
	if before != nil {
		o.Kind = before.Kind
		if before.Ref == o.Ref {
			o.Ref = before.Ref
		}
	}
	if e.Op == domain.Created {
		o.JSON = bytes.Clone(o.JSON) // it is part of the record, and that perhaps of something bigger
		o.Kind = nil                 // a custom resource's version may have changed
	}
	if o.Kind == nil {
		o.Kind = memory.KindOf(v.kinds, o.Ref, o.JSON)
	}
	if hint != nil {
		if known, ok := memory.Known(o, hint); ok {
			return known
		}
	}
	return memory.Decoded(v.kinds, o)
}

// renewed is an object at a later revision of its stream.
func renewed(o *projections.Object, revision uint64) *projections.Object {
	c := *o
	c.Revision = revision
	return &c
}

func nameOf(r domain.Ref) domain.Ref {
	r.UID = ""
	return r
}
