package projectiontest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
)

// Maker makes the History of a log under test, and says when it reflects all of the log.
type Maker func(t *testing.T, log eventstore.Log, kinds *domain.Set) projections.History

// History is the suite that every implementation of projections.History passes: Given events / When query / Then rows.
func History(t *testing.T, make Maker) {
	s := story(t)
	h := make(t, s.log, s.kinds)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := waitFor(ctx, h, s.last()); err != nil {
		t.Fatal(err)
	}
	t.Run("GetAt", func(t *testing.T) { s.getAt(t, ctx, h) })
	t.Run("ListAt", func(t *testing.T) { s.listAt(t, ctx, h) })
	t.Run("PositionAt", func(t *testing.T) { s.positionAt(t, ctx, h) })
	t.Run("Events", func(t *testing.T) { s.queries(t, ctx, h) })
	t.Run("Event", func(t *testing.T) { s.event(t, ctx, h) })
	t.Run("Bounded", func(t *testing.T) { s.bounded(t, ctx, h) })
}

func waitFor(ctx context.Context, h projections.History, position uint64) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		at, err := h.Position(ctx)
		if err == nil && at >= position {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the history is at position %d (%v), waiting for %d: %w", at, err, position, ctx.Err())
		case <-tick.C:
		}
	}
}

// told is a history with what was true after each event.
type told struct {
	log    *Log
	kinds  *domain.Set
	events []domain.Event
	states []map[string]domain.State // after each event
	names  map[string]domain.Event
}

func (s *told) last() uint64 { return s.events[len(s.events)-1].Position }

// story is the events that the suite is about: a pod with a long life, names used again, several namespaces, a controller that
// acts because of events, requests that are refused.
func story(t *testing.T) *told {
	t.Helper()
	ctx := context.Background()
	s := &told{log: NewLog(), kinds: domain.NewSet(domain.Kinds()), names: map[string]domain.Event{}}
	scribe := NewScribe(s.log, s.kinds)
	note := func(name string, e domain.Event, err error) domain.Event {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		s.events, s.names[name] = append(s.events, e), e
		states := map[string]domain.State{}
		for k, v := range scribe.states {
			states[k] = v
		}
		s.states = append(s.states, states)
		return e
	}
	pod := func(ns, name string, change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"app": "web"}}}
		p.Spec.Containers = []corev1.Container{{Name: "c", Image: "web:1", Command: []string{"serve", strings.Repeat("x", 400)}}}
		if change != nil {
			change(p)
		}
		return p
	}
	lease := func(holder string) *coordinationv1.Lease {
		return &coordinationv1.Lease{
			TypeMeta:   metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: "n1"}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder},
		}
	}
	ref := func(ns, name string) domain.Ref { return domain.Ref{Resource: "pods", Namespace: ns, Name: name} }

	e, err := scribe.Put(ctx, pod("shop", "web", nil), nil)
	created := note("created", e, err)
	e, err = scribe.Put(ctx, pod("shop", "web", func(p *corev1.Pod) { p.Spec.NodeName = "n1" }), &created)
	bound := note("bound", e, err)
	scribe.Actor.Impersonator = "root"
	e, err = scribe.Put(ctx, pod("bakery", "oven", nil), nil)
	scribe.Actor.Impersonator = ""
	note("oven", e, err)
	e, err = scribe.Put(ctx, lease("n1"), nil)
	note("lease", e, err)
	for i := range 60 { // enough for several whole copies
		e, err = scribe.Put(ctx, pod("shop", "web", func(p *corev1.Pod) {
			p.Spec.NodeName, p.Status.Message = "n1", fmt.Sprint("tick ", i)
		}), &bound)
		note(fmt.Sprint("tick ", i), e, err)
		switch i {
		case 20:
			e, err = scribe.Refuse(ctx, ref("shop", "web"), "update", map[string]any{"code": 409, "reason": "Conflict"})
			note("conflict", e, err)
		case 30:
			e, err = scribe.Note(ctx, domain.Event{Ref: ref("shop", "web"), Type: "RequestRefused", Command: domain.CommandInfo{Verb: "delete"}, Evidence: []byte(`{"code":403}`)})
			note("forbidden", e, err)
		case 40:
			e, err = scribe.Put(ctx, lease("n2"), nil)
			note("lease moved", e, err)
		}
	}
	e, err = scribe.Delete(ctx, ref("shop", "web"), nil)
	note("deleted", e, err)
	e, err = scribe.Put(ctx, pod("shop", "web", func(p *corev1.Pod) { p.Spec.NodeName = "n2" }), nil)
	note("again", e, err)
	e, err = scribe.Put(ctx, pod("shop", "api", nil), nil)
	note("api", e, err)
	e, err = scribe.Delete(ctx, ref("bakery", "oven"), &created)
	note("closed", e, err)
	e, err = scribe.Put(ctx, pod("shop", "web", func(p *corev1.Pod) { p.Spec.NodeName, p.Status.Message = "n2", "last" }), nil)
	note("last", e, err)
	return s
}

func (s *told) getAt(t *testing.T, ctx context.Context, h projections.History) {
	for i, e := range s.events {
		for _, name := range []string{"shop/web", "shop/api", "bakery/oven", "bakery/nothing"} {
			ns, n, _ := strings.Cut(name, "/")
			ref := domain.Ref{Resource: "pods", Namespace: ns, Name: n}
			want := s.states[i][ref.Stream()]
			o, err := h.GetAt(ctx, ref, e.Position)
			if !want.Exists {
				if !errors.Is(err, projections.ErrNotFound) {
					t.Fatalf("%s after %s: %v, want ErrNotFound", ref, e.Type, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s after %s: %v", ref, e.Type, err)
			}
			if !bytes.Equal(o.JSON, want.JSON) || o.Position != want.Position || o.Revision != want.Revision || o.Ref.UID != want.UID {
				t.Fatalf("%s at position %d: %s (position %d, revision %d, uid %s), want %s (%d, %d, %s)", ref, e.Position, o.JSON, o.Position, o.Revision, o.Ref.UID,
					want.JSON, want.Position, want.Revision, want.UID)
			}
			if typed, err := o.Typed(); err != nil || typed.(*corev1.Pod).ResourceVersion != fmt.Sprint(want.Position) {
				t.Fatalf("%s at position %d: typed %v, %v", ref, e.Position, typed, err)
			}
		}
	}
	web := domain.Ref{Resource: "pods", Namespace: "shop", Name: "web"}
	if _, err := h.GetAt(ctx, web, s.last()+1000); !errors.Is(err, projections.ErrFuture) {
		t.Errorf("in the future: %v", err)
	}
	if _, err := h.GetAt(ctx, web, 0); !errors.Is(err, projections.ErrNotFound) {
		t.Errorf("before the first event: %v", err)
	}
	web.UID = s.names["created"].Ref.UID
	if _, err := h.GetAt(ctx, web, s.names["tick 3"].Position); err != nil {
		t.Errorf("with its uid: %v", err)
	}
	if _, err := h.GetAt(ctx, web, s.last()); !errors.Is(err, projections.ErrNotFound) {
		t.Errorf("the first incarnation after it: %v", err)
	}
}

func (s *told) listAt(t *testing.T, ctx context.Context, h projections.History) {
	pods := domain.Resource{Resource: "pods"}
	for _, c := range []struct {
		at        string
		namespace string
		want      []string
	}{
		{"created", "", []string{"shop/web"}},
		{"oven", "", []string{"bakery/oven", "shop/web"}},
		{"tick 37", "", []string{"bakery/oven", "shop/web"}},
		{"tick 37", "shop", []string{"shop/web"}},
		{"deleted", "", []string{"bakery/oven"}},
		{"deleted", "shop", nil},
		{"again", "", []string{"bakery/oven", "shop/web"}},
		{"last", "", []string{"shop/api", "shop/web"}},
		{"last", "bakery", nil},
	} {
		position := s.names[c.at].Position
		list, err := h.ListAt(ctx, pods, c.namespace, position)
		if err != nil {
			t.Errorf("after %s: %v", c.at, err)
			continue
		}
		var got []string
		for _, o := range list {
			got = append(got, o.Ref.Namespace+"/"+o.Ref.Name)
			one, err := h.GetAt(ctx, o.Ref, position)
			if err != nil || !bytes.Equal(one.JSON, o.JSON) || one.Position != o.Position || one.Revision != o.Revision {
				t.Errorf("after %s: %s is listed as %s and read as %+v, %v", c.at, o.Ref, o.JSON, one, err)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("after %s in %q: %v, want %v", c.at, c.namespace, got, c.want)
		}
	}
	if _, err := h.ListAt(ctx, pods, "", s.last()+1000); !errors.Is(err, projections.ErrFuture) {
		t.Errorf("in the future: %v", err)
	}
}

func (s *told) positionAt(t *testing.T, ctx context.Context, h projections.History) {
	for _, c := range []struct {
		what string
		time time.Time
		want uint64
	}{
		{"before the first", s.names["created"].Time.Add(-1), 0},
		{"at the first", s.names["created"].Time, s.names["created"].Position},
		{"between two", s.names["tick 5"].Time.Add(time.Millisecond), s.names["tick 5"].Position},
		{"a nanosecond before", s.names["tick 5"].Time.Add(-1), s.names["tick 4"].Position},
		{"at what is not remembered", s.names["lease"].Time, s.names["oven"].Position},
		{"long after", s.names["last"].Time.Add(time.Hour), s.names["last"].Position},
	} {
		if got, err := h.PositionAt(ctx, c.time); err != nil || got != c.want {
			t.Errorf("%s: %d, %v; want %d", c.what, got, err, c.want)
		}
	}
}

func (s *told) queries(t *testing.T, ctx context.Context, h projections.History) {
	web := projections.EventQuery{Resource: "pods", Namespace: "shop", Name: "web"}
	with := func(change func(*projections.EventQuery)) projections.EventQuery {
		q := web
		change(&q)
		return q
	}
	for _, c := range []struct {
		name string
		q    projections.EventQuery
		want []string // names of events, or
		n    int      // their number
	}{
		{name: "everything that is remembered", n: len(s.events) - 2},
		{name: "an object's", q: web, n: 1 + 1 + 60 + 2 + 1 + 1 + 1},
		{name: "the newest of an object", q: with(func(q *projections.EventQuery) { q.Newest, q.Limit = true, 3 }), want: []string{"last", "again", "deleted"}},
		{name: "the oldest of an object", q: with(func(q *projections.EventQuery) { q.Limit = 2 }), want: []string{"created", "bound"}},
		{name: "between positions", q: with(func(q *projections.EventQuery) {
			q.After, q.Through = s.names["tick 58"].Position, s.names["again"].Position
		}), want: []string{"tick 59", "deleted", "again"}},
		{name: "between positions, newest first", q: with(func(q *projections.EventQuery) {
			q.After, q.Through, q.Newest = s.names["tick 58"].Position, s.names["again"].Position, true
		}), want: []string{"again", "deleted", "tick 59"}},
		{name: "between times", q: with(func(q *projections.EventQuery) {
			q.Since, q.Until = s.names["tick 58"].Time, s.names["deleted"].Time
		}), want: []string{"tick 58", "tick 59"}},
		{name: "of types", q: projections.EventQuery{Types: []string{"PodDeleted", "RequestRefused"}}, want: []string{"conflict", "forbidden", "deleted", "closed"}},
		{name: "of an incarnation", q: projections.EventQuery{UID: string(s.names["again"].Ref.UID)}, want: []string{"again", "last"}},
		{name: "caused by an event", q: projections.EventQuery{CauseID: s.names["created"].ID}, want: []string{"bound", "closed"}},
		{name: "of one request", q: projections.EventQuery{Correlation: s.names["created"].Correlation, Resource: "pods", Namespace: "bakery"}, want: []string{"closed"}},
		{name: "of an actor", q: projections.EventQuery{Actor: "ada", Namespace: "bakery"}, want: []string{"oven"}},
		{name: "of an impersonator", q: projections.EventQuery{Actor: "root"}, want: []string{"oven"}},
		{name: "of a group that has none", q: projections.EventQuery{Group: "apps", Resource: "pods"}},
		{name: "of any group", q: projections.EventQuery{Resource: "pods", Namespace: "bakery", AnyGroup: true}, want: []string{"oven", "closed"}},
		{name: "of a namespace", q: projections.EventQuery{Namespace: "bakery"}, want: []string{"oven", "closed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := h.Events(ctx, c.q)
			if err != nil {
				t.Fatal(err)
			}
			if c.n > 0 {
				if len(got) != c.n {
					t.Errorf("%d events, want %d", len(got), c.n)
				}
				return
			}
			var ids, want []string
			for _, e := range got {
				ids = append(ids, e.ID)
			}
			for _, n := range c.want {
				want = append(want, s.names[n].ID)
			}
			if !slices.Equal(ids, want) {
				t.Errorf("events %v, want %v (%v)", ids, want, c.want)
			}
		})
	}
}

func (s *told) event(t *testing.T, ctx context.Context, h projections.History) {
	for _, name := range []string{"created", "bound", "conflict", "forbidden", "last"} {
		want := s.names[name]
		byPosition, err := h.Event(ctx, want.Position, "")
		if err != nil {
			t.Fatalf("%s by position: %v", name, err)
		}
		byID, err := h.Event(ctx, 0, want.ID)
		if err != nil {
			t.Fatalf("%s by id: %v", name, err)
		}
		for _, got := range []domain.Event{byPosition, byID} {
			if d := diffEvent(got, want); d != "" {
				t.Errorf("%s: %s", name, d)
			}
		}
	}
	for what, err := range map[string]error{
		"a position without an event": second(h.Event(ctx, s.last()+1000, "")),
		"an unknown id":               second(h.Event(ctx, 0, "6f2c1f0e-8f0a-4b7e-9d5c-0d4b5a0c1e11")),
		"no id at all":                second(h.Event(ctx, 0, "pod")),
		"what is not remembered":      second(h.Event(ctx, s.names["lease"].Position, "")),
	} {
		if !errors.Is(err, projections.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", what, err)
		}
	}
}

func second(_ domain.Event, err error) error { return err }

func diffEvent(got, want domain.Event) string {
	a, b := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want)
	if got.Cause != nil && want.Cause != nil && *got.Cause == *want.Cause {
		got.Cause, want.Cause = nil, nil
		a, b = fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want)
	}
	if a != b {
		return fmt.Sprintf("%s\nwant %s", a, b)
	}
	return ""
}

// Of a kind whose past is bounded the present is all there is.
func (s *told) bounded(t *testing.T, ctx context.Context, h projections.History) {
	gr := domain.Resource{Group: "coordination.k8s.io", Resource: "leases"}
	ref := domain.Ref{Group: gr.Group, Resource: gr.Resource, Namespace: "kube-node-lease", Name: "n1"}
	head, err := h.Position(ctx)
	if err != nil {
		t.Fatal(err)
	}
	list, err := h.ListAt(ctx, gr, "", head)
	if err != nil || len(list) != 1 {
		t.Fatalf("now: %d leases, %v", len(list), err)
	}
	if o, err := h.GetAt(ctx, ref, s.names["lease moved"].Position); err != nil || o.Position != s.names["lease moved"].Position {
		t.Errorf("since its last event: %+v, %v", o, err)
	}
	if _, err := h.GetAt(ctx, ref, s.names["lease"].Position); !errors.Is(err, projections.ErrTooOld) {
		t.Errorf("before its last event: %v", err)
	}
	if _, err := h.ListAt(ctx, gr, "", s.names["deleted"].Position); !errors.Is(err, projections.ErrTooOld) {
		t.Errorf("listing the past: %v", err)
	}
}
