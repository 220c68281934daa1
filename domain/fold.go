package domain

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
)

// Errors of folding, tested with errors.Is; ErrWrongBase and ErrBadDelta are among them too.
var (
	// ErrUnknownOp says that an event does something that this build does not know.
	ErrUnknownOp = errors.New("unknown operation")
	// ErrNoBase says that an event changes or deletes an object that is not there.
	ErrNoBase = errors.New("there is no object to change")
	// ErrExists says that an event creates an object that is there already.
	ErrExists = errors.New("the object exists already")
	// ErrOutOfOrder says that an event is not later than one that has been applied.
	ErrOutOfOrder = errors.New("event out of order")
)

// FoldError says which event could not be applied.
type FoldError struct {
	Event Event
	Err   error
}

func (e *FoldError) Error() string {
	return fmt.Sprintf("applying %s to %s at position %d, revision %d: %v", e.Event.Type, e.Event.Ref, e.Event.Position, e.Event.Revision, e.Err)
}

func (e *FoldError) Unwrap() error { return e.Err }

// State is what the events of one stream have led to. The zero State stands before the first event.
type State struct {
	JSON     []byte    // the object in canonical JSON; after its deletion, as it was last; nil before any
	UID      types.UID // of the last incarnation
	Revision uint64    // of the last event of the stream
	Position uint64    // of the last event that concerned the object: its resourceVersion
	Exists   bool
	Seen     bool // whether the stream has an event; without one Revision means nothing
}

// Apply returns the state after one more event. Neither the state nor the event is changed; the new state may share memory with
// both. An error is a *FoldError, and the state is then as it was.
//
// A bounded stream may have lost its beginning: the first event seen may be at any revision, and deltas of the form that Whole
// makes need no base.
func (s State) Apply(e Event) (State, error) {
	next, err := s.apply(e)
	if err != nil {
		return s, &FoldError{Event: e, Err: err}
	}
	return next, nil
}

func (s State) apply(e Event) (State, error) {
	next, patched, err := s.advance(&e)
	if err == nil && patched {
		next.JSON, err = Patch(s.JSON, e.Change)
	}
	if err != nil {
		return s, err
	}
	return next, nil
}

// advance returns the state after an event but for its JSON, when that is what the event's delta makes of it (patched).
func (s State) advance(e *Event) (next State, patched bool, err error) {
	if s.Seen && e.Revision <= s.Revision {
		return s, false, fmt.Errorf("%w: the stream is at revision %d", ErrOutOfOrder, s.Revision)
	}
	next = s
	next.Revision, next.Seen = e.Revision, true
	if e.Op == "" { // a fact that changes no object
		return next, false, nil
	}
	next.Position = e.Position
	switch e.Op {
	case Created:
		if s.Exists {
			return s, false, ErrExists
		}
		if len(e.Change) == 0 || e.Change[0] != '{' {
			return s, false, fmt.Errorf("%w: a creation holds no object", ErrBadDelta)
		}
		next.JSON, next.UID, next.Exists = e.Change, e.Ref.UID, true
		return next, false, nil
	case Changed, Deleted:
		if err := s.fits(e); err != nil {
			return s, false, err
		}
		next.Exists = e.Op == Changed
		if e.Ref.UID != "" {
			next.UID = e.Ref.UID
		}
		return next, true, nil
	}
	return s, false, fmt.Errorf("%w %q", ErrUnknownOp, e.Op)
}

// fits says whether an event can have been made against this state.
func (s State) fits(e *Event) error {
	contiguous := s.Seen && e.Revision == s.Revision+1
	// The beginning of a bounded stream may be gone: a whole object, or a deletion that says nothing else, needs no base.
	baseless := isWhole(e.Change) || len(e.Change) == 0 && e.Op == Deleted
	switch {
	case !s.Exists && baseless && s.JSON == nil:
		return nil
	case !s.Exists:
		return ErrNoBase
	case !contiguous && !baseless:
		return fmt.Errorf("%w: events are missing after revision %d", ErrWrongBase, s.Revision)
	case contiguous && e.Ref.UID != "" && s.UID != "" && e.Ref.UID != s.UID:
		return fmt.Errorf("%w: it concerns uid %s, the object is uid %s", ErrWrongBase, e.Ref.UID, s.UID)
	}
	return nil
}
