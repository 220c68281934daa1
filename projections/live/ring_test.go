package live

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Whatever is added and dropped, a follower of some resources gets all their changes after its position in order, or is told that
// one of them was dropped; and it is told so only then.
func TestTheRingForgetsOnlyWhatItSays(t *testing.T) {
	resources := []domain.Resource{{Resource: "pods"}, {Resource: "nodes"}, {Group: "apps", Resource: "deployments"}}
	rapid.Check(t, func(t *rapid.T) {
		r := newRing(rapid.IntRange(1, 20).Draw(t, "count"), rapid.IntRange(1, 20_000).Draw(t, "bytes"))
		start := uint64(rapid.IntRange(0, 5).Draw(t, "start"))
		r.reset(start)
		var all []projections.Change
		position := start
		for range rapid.IntRange(0, 30).Draw(t, "batches") {
			var batch []projections.Change
			for range rapid.IntRange(0, 6).Draw(t, "batch") {
				position += uint64(rapid.IntRange(1, 3).Draw(t, "gap"))
				gr := rapid.SampledFrom(resources).Draw(t, "resource")
				batch = append(batch, projections.Change{
					Event: domain.Event{Position: position, Ref: domain.Ref{Group: gr.Group, Resource: gr.Resource}},
					After: &projections.Object{JSON: make([]byte, rapid.IntRange(0, 2000).Draw(t, "size"))},
				})
			}
			all = append(all, batch...)
			r.add(batch, position)
		}
		held, _, _ := r.stats()
		dropped := all[:len(all)-held]
		after := uint64(rapid.IntRange(0, int(position)+1).Draw(t, "after"))
		var of []domain.Resource
		for _, gr := range resources {
			if rapid.Bool().Draw(t, "follow "+gr.Resource) {
				of = append(of, gr)
			}
		}
		concerns := func(c projections.Change) bool {
			return len(of) == 0 || slices.Contains(of, c.Event.Ref.GroupResource())
		}
		missed := after < start
		for _, c := range dropped {
			missed = missed || concerns(c) && c.Event.Position > after
		}
		f, err := r.follow(after, of)
		if errors.Is(err, projections.ErrTooOld) != missed {
			t.Fatalf("following after %d: %v; something was missed: %v", after, err, missed)
		}
		if missed {
			return
		}
		var want, got []uint64
		for _, c := range all {
			if concerns(c) && c.Event.Position > after {
				want = append(want, c.Event.Position)
			}
		}
		limit := rapid.IntRange(1, 5).Draw(t, "limit")
		for at := after; ; {
			changes, next, err := r.collect(nil, at, f.tracks, limit)
			if err != nil || next < at || len(changes) > limit {
				t.Fatalf("collecting after %d: %d changes, position %d, %v", at, len(changes), next, err)
			}
			if len(changes) == 0 {
				if next != max(after, position) {
					t.Fatalf("everything was delivered at position %d, want %d", next, position)
				}
				break
			}
			for _, c := range changes {
				got = append(got, c.Event.Position)
			}
			at = next
		}
		if !slices.Equal(got, want) {
			t.Fatalf("delivered %v, want %v", got, want)
		}
	})
}

func TestHintsAreBounded(t *testing.T) {
	var h hints
	now := time.Unix(0, 0)
	for i := range 2 * maxHints {
		h.put(fmt.Sprint(i), &corev1.Pod{}, now)
	}
	if len(h.byID) != maxHints || len(h.order) != maxHints {
		t.Errorf("%d hints, %d in order; want %d", len(h.byID), len(h.order), maxHints)
	}
	if h.take("0") != nil {
		t.Error("the oldest is kept")
	}
	if h.take(fmt.Sprint(2*maxHints-1)) == nil {
		t.Error("the newest is gone")
	}
	h.put("late", &corev1.Pod{}, now.Add(2*hintLife))
	if len(h.byID) != 1 {
		t.Errorf("%d hints after their time, want 1", len(h.byID))
	}
	// Expected again: the first hint's age is not the second's.
	h = hints{}
	h.put("a", &corev1.Pod{}, now)
	h.put("a", &corev1.Pod{}, now.Add(hintLife))
	h.put("b", &corev1.Pod{}, now.Add(hintLife+1))
	if h.take("a") == nil {
		t.Error("a hint went with an older one of the same event")
	}
}
