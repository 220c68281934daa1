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
	next, patched, err := r.state.advance(e)
	if err == nil && patched && len(e.Change) > 0 {
		if r.draft == nil {
			r.draft = NewDraft(r.state.JSON)
		}
		if err = r.draft.Patch(e.Change); err != nil {
			r.draft = nil
		} else if next.JSON == nil {
			next.JSON = r.draft.JSON()
		}
	}
	if err != nil {
		return &FoldError{Event: e, Err: err}
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

// currentVersion is how the metadata of an event of this schema ends, if nothing is special about it: see MarshalEvent.
const currentVersion = `"` + wireVersion + `":1}`

// Whoever raises SchemaVersion finds the constant above: this does not compile then.
var _ = [1]struct{}{}[SchemaVersion-1]

// Step reads of a record only what a fold needs of an event: Ref, Op, Change, Position and Revision. What is equal in known, the
// reference that the event before had, shares its memory. ok is false when the record has to be read whole, by UnmarshalEvent, which
// says what is special about it.
func (r Record) Step(known Ref) (e Event, ok bool) {
	if !bytes.HasSuffix(r.Metadata, []byte(currentVersion)) {
		return Event{}, false
	}
	e = Event{Type: r.Type, Position: r.Position, Revision: r.Revision, Version: SchemaVersion}
	s := scanObject(r.Data)
	for {
		k, v, more := s.next()
		if !more {
			break
		}
		switch string(k) {
		case wireRef:
			if e.Ref, ok = stepRef(v, known); !ok {
				return Event{}, false
			}
		case wireOp:
			w := wireReader{}
			if e.Op = Op(w.word(v)); w.err != nil {
				return Event{}, false
			}
		case wireChange:
			e.Change = v
		}
	}
	return e, !s.bad && e.Ref.Resource != "" && e.Ref.Name != ""
}

func stepRef(data []byte, known Ref) (Ref, bool) {
	var r Ref
	w := wireReader{}
	same := func(v []byte, text string) string {
		if len(v) == len(text)+2 && string(v[1:len(v)-1]) == text {
			return text
		}
		return w.text(v)
	}
	s := scanObject(data)
	for {
		k, v, more := s.next()
		if !more {
			break
		}
		switch string(k) {
		case wireGroup:
			r.Group = same(v, known.Group)
		case wireResource:
			r.Resource = same(v, known.Resource)
		case wireNamespace:
			r.Namespace = same(v, known.Namespace)
		case wireName:
			r.Name = same(v, known.Name)
		case wireUID:
			r.UID = types.UID(same(v, string(known.UID)))
		}
	}
	return r, !s.bad && w.err == nil
}
