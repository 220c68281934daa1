package storage

import (
	"fmt"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// replay rebuilds the changes of a resource from its events, beginning with a state.
type replay struct {
	kind    *domain.Kind
	kinds   *domain.Set // with the keys of what is sealed
	objects map[string]*projections.Object
}

func newReplay(k *domain.Kind, kinds *domain.Set, state []*projections.Object) *replay {
	r := &replay{kind: k, kinds: kinds, objects: make(map[string]*projections.Object, len(state))}
	for _, o := range state {
		r.objects[o.Ref.Stream()] = o
	}
	return r
}

// apply returns the change that an event makes; nil when it changes no object.
func (r *replay) apply(ev domain.Event) (*projections.Change, error) {
	stream := ev.Ref.Stream()
	before := r.objects[stream]
	state, err := projections.StateOf(before).Apply(ev)
	if err != nil {
		return nil, fmt.Errorf("replaying the past: %w", err)
	}
	switch {
	case ev.Op == "":
		return nil, nil
	case !state.Exists:
		delete(r.objects, stream)
		return &projections.Change{Event: ev, Before: before}, nil
	}
	ref := ev.Ref
	ref.UID = state.UID
	after := memory.Decoded(r.kinds, projections.Object{
		Kind: r.kind, Ref: ref, Position: state.Position, Revision: state.Revision, JSON: state.JSON,
	})
	r.objects[stream] = after
	return &projections.Change{Event: ev, Before: before, After: after}, nil
}
