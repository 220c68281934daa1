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

// apply folds records into the store and tells followers and waiters. checkpoint, if it is later than the last record, is the
// position reached. An error says that a record can be read by a newer build only (domain.ErrNewer); the view stands before it then.
func (v *View) apply(records []eventstore.Recorded, checkpoint uint64) error {
	changes := make([]projections.Change, 0, len(records))
	var failed error
	for _, r := range records {
		if uint64(r.Position) <= v.latest.Load() {
			continue // seen before the subscription was made again
		}
		e, ok, err := projections.EventOf(r)
		if errors.Is(err, domain.ErrNewer) {
			failed, checkpoint = err, 0
			break
		}
		var c projections.Change
		switch {
		case err != nil:
			c, ok = v.applyUnreadable(r, err)
		case ok && projections.Concerns(r, e):
			c, ok = v.applyEvent(e)
		default:
			ok = false
		}
		if ok {
			changes = append(changes, c)
		}
		v.moveOn(uint64(r.Position), 1)
	}
	if checkpoint > v.latest.Load() {
		v.moveOn(checkpoint, 0)
	}
	if reached := v.latest.Load(); len(changes) > 0 || reached > v.ring.reached() {
		v.ring.add(changes, reached)
		v.waiters.reach(reached)
	}
	v.remember()
	return failed
}

func (v *View) moveOn(position uint64, applied uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.position = position
	v.applied += applied
	v.latest.Store(position)
}

// applyEvent folds one event; it returns false when no object has changed by it. Nobody but Run changes the store, so that it can
// be read without the lock here.
func (v *View) applyEvent(e domain.Event) (projections.Change, bool) {
	gr := e.Ref.GroupResource()
	before, _ := v.store.Get(gr, e.Ref.Namespace, e.Ref.Name)
	hint := v.hints.take(e.ID)
	if before != nil && domain.IsSealed(before.JSON) {
		// Its key is destroyed once this event is known. Who follows the changes still sees what was there before.
		_, _ = before.Typed() // an error is the reader's to see
	}
	state, err := v.stateOf(before).Apply(e)
	switch {
	case err != nil:
		return v.keepBroken(e, before, err)
	case e.Op == "":
		if before != nil { // a fact told in the object's stream: only what the next append expects has changed
			v.put(renewed(before, state.Revision), e.Position, v.isUnreadable(e.Ref))
		}
		return projections.Change{}, false
	case !state.Exists:
		v.mu.Lock()
		defer v.mu.Unlock()
		v.store.Delete(gr, e.Ref.Namespace, e.Ref.Name)
		v.stands(e.Position)
		delete(v.unreadable, nameOf(e.Ref))
		return projections.Change{Event: e, Before: before}, before != nil
	}
	after := v.object(e, before, state, hint)
	v.put(after, e.Position, false)
	return projections.Change{Event: e, Before: before, After: after}, true
}

// applyUnreadable takes note of a damaged record in an object's stream: the object cannot be read from here on.
func (v *View) applyUnreadable(r eventstore.Recorded, cause error) (projections.Change, bool) {
	ref, ok := domain.ParseStream(r.Stream)
	if !ok {
		return projections.Change{}, false
	}
	before, _ := v.store.Get(ref.GroupResource(), ref.Namespace, ref.Name)
	if before != nil {
		ref = before.Ref
	}
	e := domain.Event{ID: r.ID.String(), Type: r.Type, Ref: ref, Op: domain.Changed, Position: uint64(r.Position), Revision: r.Revision, Time: r.Created}
	return v.keepBroken(e, before, cause)
}

// stateOf is what the next event is applied to. To an object that is already broken no delta applies, only what needs no base.
func (v *View) stateOf(o *projections.Object) domain.State {
	s := projections.StateOf(o)
	if o != nil && v.isUnreadable(o.Ref) {
		s.Seen = false
	}
	return s
}

// isUnreadable says whether an object's events have not led to it soundly. Nobody but Run changes that.
func (v *View) isUnreadable(ref domain.Ref) bool {
	if len(v.unreadable) == 0 {
		return false
	}
	_, unreadable := v.unreadable[nameOf(ref)]
	return unreadable
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

// keepBroken keeps an object whose events do not fold as it was last, and unreadable, until it is deleted or made anew: one
// damaged stream must not take the cluster down.
func (v *View) keepBroken(e domain.Event, before *projections.Object, cause error) (projections.Change, bool) {
	v.slog.Error("an object's events do not fold: it cannot be read until it is deleted or created again", "object", e.Ref.String(), "position", e.Position, "error", cause)
	o := projections.Object{Ref: e.Ref, Position: e.Position, Revision: e.Revision}
	if before != nil {
		o.JSON, o.Kind = before.JSON, before.Kind
		if o.Ref.UID == "" {
			o.Ref.UID = before.Ref.UID
		}
	}
	if o.Kind == nil {
		o.Kind = memory.KindOf(v.kinds, o.Ref, o.JSON)
	}
	if e.Op == domain.Deleted {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.store.Delete(e.Ref.GroupResource(), e.Ref.Namespace, e.Ref.Name)
		v.stands(e.Position)
		delete(v.unreadable, nameOf(e.Ref))
		return projections.Change{Event: e, Before: before}, before != nil
	}
	if e.Op == domain.Created && len(e.Change) > 0 && e.Change[0] == '{' {
		// What was there before does not fit, but this is a whole object: it is the better answer.
		o.JSON = bytes.Clone(e.Change)
		after := memory.Decoded(v.kinds, o)
		v.put(after, e.Position, false)
		return projections.Change{Event: e, Before: before, After: after}, true
	}
	after := memory.Broken(o, fmt.Errorf("reading %s: %w", e.Ref, cause))
	v.put(after, e.Position, true)
	return projections.Change{Event: e, Before: before, After: after}, true
}

// put stores an object, and whether its events have not led to it soundly. It is decoded before the lock is taken, if an index needs it
// decoded.
func (v *View) put(o *projections.Object, position uint64, unreadable bool) {
	if len(o.Kind.Indexes) > 1 {
		_, _ = o.Typed() // an error is the reader's to see
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.store.Put(o)
	switch {
	case unreadable:
		v.unreadable[nameOf(o.Ref)] = struct{}{}
	case len(v.unreadable) > 0:
		delete(v.unreadable, nameOf(o.Ref))
	}
	v.stands(position)
}

// stands moves the position on together with what changed, so that a snapshot taken in between never shows a change that its
// position does not cover. v.mu is held.
func (v *View) stands(position uint64) {
	v.position = position
	v.latest.Store(position)
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
