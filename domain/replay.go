package domain

import (
	"bytes"

	"k8s.io/apimachinery/pkg/types"
)

// Replay folds many events of one stream, one after another, as State.Apply does, and puts the object's JSON together only when it
// is asked for. The zero Replay stands before the first event.
type Replay struct {
	state State  // its JSON is what draft was made of
	draft *Draft // nil: the JSON is the state's
}

// NewReplay goes on from a state.
func NewReplay(s State) Replay { return Replay{state: s} }

// Apply goes on by one event. An error is the *FoldError of State.Apply. The replay stands where it was then, but when the event's
// delta did not apply the object's JSON is that of some moment before: see Spoil.
func (r *Replay) Apply(e Event) error {
	if err := r.apply(&e, (*Draft).Patch); err != nil {
		return &FoldError{Event: e, Err: err}
	}
	return nil
}

// Step is Apply for what nearly all of a log consists of: a record, as it was read, of a change of the object that those before have
// changed. ok is false when the record is something else: nothing was done then, and it has to be read by other means.
func (r *Replay) Step(record Record, known *Known) (ok bool, err error) {
	change, ok := known.changeIn(record)
	if !ok {
		return false, nil
	}
	e := Event{Type: record.Type, Ref: known.Ref, Op: Changed, Change: change, Position: record.Position, Revision: record.Revision, Version: SchemaVersion}
	if err := r.apply(&e, (*Draft).patchAhead); err != nil {
		e.Change = nil
		return true, &FoldError{Event: e, Err: err}
	}
	return true, nil
}

func (r *Replay) apply(e *Event, patch func(d *Draft, delta []byte) error) error {
	next, patched, err := r.state.advance(e)
	if err == nil && patched && len(e.Change) > 0 {
		if r.draft == nil {
			r.draft = NewDraft(r.state.JSON)
		}
		if err = patch(r.draft, e.Change); err != nil {
			r.draft = nil
		} else if next.JSON == nil {
			next.JSON = r.draft.JSON()
		}
	}
	if err != nil {
		return err
	}
	if e.Op == Created {
		next.JSON, r.draft = bytes.Clone(e.Change), nil // it is part of the record, and that perhaps of something bigger
	}
	r.state = next
	return nil
}

// Spoil takes note of an event that could not be read or applied: from here on nothing applies but what needs no base.
func (r *Replay) Spoil(position, revision uint64) {
	r.state.Seen, r.state.Exists, r.state.Position, r.state.Revision = false, true, position, revision
}

// State is what the events have led to.
func (r *Replay) State() State {
	if r.draft != nil {
		r.state.JSON, r.draft = r.draft.JSON(), nil
	}
	return r.state
}

// Exists says whether the object is there.
func (r *Replay) Exists() bool { return r.state.Exists }

// UID is that of the object's last incarnation.
func (r *Replay) UID() types.UID { return r.state.UID }
