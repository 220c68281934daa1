package main

import (
	"slices"
	"testing"

	"github.com/shiplog/shiplog/domain"
)

// TestBigLogFolds: the events of every kind of the big log lead through the states that they were made of.
func TestBigLogFolds(t *testing.T) {
	lives, err := bigLives(domain.NewSet(domain.Kinds()))
	if err != nil {
		t.Fatal(err)
	}
	objects := 0
	for _, l := range lives {
		objects += l.count
		for _, i := range []int{0, l.count - 1} {
			var state domain.State
			for n := range 2*phases + 3 {
				e := l.event(i, n)
				e.Revision = uint64(n)
				if state, err = state.Apply(e); err != nil {
					t.Fatal(err)
				}
				if want := l.replace(i).Replace(l.states[n%phases]); string(state.JSON) != want {
					t.Fatalf("%s %d after %d events: %s, want %s", l.kind.Kind, i, n+1, state.JSON, want)
				}
			}
			k := l.kind
			typed, err := domain.Decode(k, state.JSON, 1)
			if err != nil {
				t.Fatal(err)
			}
			ref, err := domain.ObjectRef(k, typed)
			if e := l.event(i, 0); err != nil || ref != e.Ref {
				t.Errorf("%s %d is %v in its JSON, %v in its events, %v", k.Kind, i, ref, e.Ref, err)
			}
		}
		if i := slices.Index(l.deltas[:], ""); i >= 0 {
			t.Errorf("%s: nothing changes in phase %d", l.kind.Kind, i)
		}
	}
	if objects != bigObjects {
		t.Errorf("%d objects, want %d", objects, bigObjects)
	}
}
