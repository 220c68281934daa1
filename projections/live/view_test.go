package live_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/live"
	"github.com/shiplog/shiplog/projections/memory"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

var (
	pods       = domain.Resource{Resource: "pods"}
	configMaps = domain.Resource{Resource: "configmaps"}
)

func pod(name, node string) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: node},
	}
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"v": value},
	}
}

type world struct {
	t      testing.TB
	ctx    context.Context
	log    *projectiontest.Log
	scribe *projectiontest.Scribe
	view   *live.View
}

// given starts a view of a new log and stops it at the test's end.
func given(t testing.TB, opts live.Options) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	log := projectiontest.NewLog()
	kinds := domain.NewSet(domain.Kinds())
	w := &world{t: t, ctx: ctx, log: log, scribe: projectiontest.NewScribe(log, kinds), view: live.New(log, kinds, opts)}
	return w
}

func (w *world) run() *world {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- w.view.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	w.check(w.view.WaitReady(w.ctx))
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) put(o runtime.Object) domain.Event {
	w.t.Helper()
	e, err := w.scribe.Put(w.ctx, o, nil)
	w.check(err)
	return e
}

func (w *world) delete(gr domain.Resource, name string) domain.Event {
	w.t.Helper()
	e, err := w.scribe.Delete(w.ctx, domain.Ref{Group: gr.Group, Resource: gr.Resource, Namespace: "default", Name: name}, nil)
	w.check(err)
	return e
}

func (w *world) wait(e domain.Event) projections.Reader {
	w.t.Helper()
	w.check(w.view.WaitFor(w.ctx, e.Position))
	return w.view.Snapshot()
}

func TestAWriterSeesItsWrite(t *testing.T) {
	w := given(t, live.Options{}).run()
	created := w.put(pod("p", ""))
	before := w.wait(created)
	bound := w.put(pod("p", "n1"))
	after := w.wait(bound)

	if got := names(before.Index(pods, domain.NodeIndex, "")); !slices.Equal(got, []string{"p"}) {
		t.Errorf("not bound before: %v", got)
	}
	if got := names(after.Index(pods, domain.NodeIndex, "n1")); !slices.Equal(got, []string{"p"}) {
		t.Errorf("bound after: %v", got)
	}
	if got := names(after.Index(pods, domain.NodeIndex, "")); got != nil {
		t.Errorf("still not bound: %v", got)
	}
	o, _ := after.Get(pods, "default", "p")
	p, _ := projections.As[*corev1.Pod](o)
	if p.ResourceVersion != strconv.FormatUint(bound.Position, 10) || o.Revision != 1 || o.Position != bound.Position || after.Position() != bound.Position {
		t.Errorf("resourceVersion %s, revision %d, position %d, view %d; the event is at %d", p.ResourceVersion, o.Revision, o.Position, after.Position(), bound.Position)
	}
	if _, ok := w.wait(w.delete(pods, "p")).Get(pods, "default", "p"); ok {
		t.Error("there after its deletion")
	}
	if w.view.Snapshot() != w.view.Snapshot() {
		t.Error("two snapshots of one position are not the same")
	}
}

// A fact in an object's stream moves the revision that the next append has to expect, and nothing else.
func TestAFactMovesTheRevisionAlone(t *testing.T) {
	w := given(t, live.Options{}).run()
	created := w.put(configMap("c", "1"))
	refused, err := w.scribe.Refuse(w.ctx, created.Ref, "update", map[string]any{"code": 403})
	w.check(err)
	o, _ := w.wait(refused).Get(configMaps, "default", "c")
	if o.Position != created.Position || o.Revision != refused.Revision {
		t.Errorf("position %d, revision %d; want %d, %d", o.Position, o.Revision, created.Position, refused.Revision)
	}
	changed := w.put(configMap("c", "2"))
	if o, _ = w.wait(changed).Get(configMaps, "default", "c"); o.Position != changed.Position {
		t.Errorf("position %d, want %d", o.Position, changed.Position)
	}
}

func TestDroppedSubscriptionsLeaveNoGap(t *testing.T) {
	w := given(t, live.Options{}).run()
	w.log.BatchSize(3)
	f, err := w.view.Follow(0)
	w.check(err)
	defer f.Close()
	var last domain.Event
	for i := range 60 {
		if i%7 == 0 {
			w.log.Drop(1 + i%2)
		}
		last = w.put(configMap(fmt.Sprint("c", i%5), fmt.Sprint(i)))
	}
	w.wait(last)
	seen := 0
	for position := uint64(0); position < last.Position; {
		changes, p, err := f.Next(w.ctx)
		w.check(err)
		for _, c := range changes {
			if c.Event.Position <= position {
				t.Fatalf("position %d after %d", c.Event.Position, position)
			}
			position = c.Event.Position
			seen++
		}
		position = p
	}
	if seen != 60 {
		t.Errorf("%d changes delivered, 60 made", seen)
	}
	if s := w.view.Stats(w.ctx); s.Restarts == 0 || s.Applied != 60 || s.Objects != 5 || s.Lag != 0 || !s.Ready {
		t.Errorf("stats %+v", s)
	}
}

func TestFollowersOfOneResource(t *testing.T) {
	w := given(t, live.Options{Progress: time.Millisecond}).run()
	f, err := w.view.Follow(0, configMaps)
	w.check(err)
	defer f.Close()
	w.put(pod("p", ""))
	created := w.put(configMap("c", "1"))
	w.put(pod("p", "n1"))
	changed := w.put(configMap("c", "2"))
	deleted := w.delete(configMaps, "c")
	last := w.put(pod("q", ""))

	var got []projections.Change
	for position := uint64(0); position < last.Position; { // the position of others' changes comes by itself
		changes, p, err := f.Next(w.ctx)
		w.check(err)
		if p < position {
			t.Fatalf("position %d after %d", p, position)
		}
		got, position = append(got, changes...), p
	}
	want := []domain.Event{created, changed, deleted}
	if len(got) != len(want) {
		t.Fatalf("%d changes, want %d", len(got), len(want))
	}
	for i, c := range got {
		if c.Event.ID != want[i].ID {
			t.Errorf("change %d is %s, want %s", i, c.Event.Type, want[i].Type)
		}
	}
	if got[0].Before != nil || got[0].After == nil || got[1].Before != got[0].After || got[2].Before != got[1].After || got[2].After != nil {
		t.Error("before and after do not join")
	}
}

func TestTheBufferIsBounded(t *testing.T) {
	w := given(t, live.Options{MaxChanges: 10}).run()
	quiet := w.put(configMap("quiet", "1"))
	behind, err := w.view.Follow(quiet.Position, pods)
	w.check(err)
	defer behind.Close()
	w.wait(quiet)
	var last domain.Event
	for i := range 30 {
		last = w.put(pod(fmt.Sprint("p", i), ""))
	}
	w.wait(last)
	if _, _, err := behind.Next(w.ctx); !errors.Is(err, projections.ErrTooOld) {
		t.Errorf("a follower that fell behind got %v", err)
	}
	if _, err := w.view.Follow(quiet.Position); !errors.Is(err, projections.ErrTooOld) {
		t.Errorf("following everything from an old position: %v", err)
	}
	if _, err := w.view.Follow(quiet.Position, pods); !errors.Is(err, projections.ErrTooOld) {
		t.Errorf("following pods from an old position: %v", err)
	}
	f, err := w.view.Follow(quiet.Position, configMaps)
	if err != nil {
		t.Fatalf("following a resource that has not changed since: %v", err)
	}
	defer f.Close()
	if s := w.view.Stats(w.ctx); s.Changes != 10 {
		t.Errorf("%d changes kept, want 10", s.Changes)
	}
	changed := w.put(configMap("quiet", "2"))
	for {
		changes, _, err := f.Next(w.ctx)
		w.check(err)
		if len(changes) > 0 {
			if len(changes) != 1 || changes[0].Event.ID != changed.ID {
				t.Errorf("delivered %+v", changes)
			}
			return
		}
	}
}

func TestManyFollowersSeeTheSame(t *testing.T) {
	w := given(t, live.Options{}).run()
	const followers, changes = 100, 200
	var wg sync.WaitGroup
	for range followers {
		f, err := w.view.Follow(0, pods, configMaps)
		w.check(err)
		wg.Go(func() {
			defer f.Close()
			seen, last := 0, uint64(0)
			for seen < changes {
				cs, _, err := f.Next(w.ctx)
				if err != nil {
					t.Errorf("after %d: %v", seen, err)
					return
				}
				for _, c := range cs {
					if c.Event.Position <= last {
						t.Errorf("position %d after %d", c.Event.Position, last)
					}
					last = c.Event.Position
					seen++
				}
			}
		})
	}
	for i := range changes / 2 {
		w.put(pod("p", fmt.Sprint(i)))
		w.put(configMap("c", fmt.Sprint(i)))
	}
	wg.Wait()
}

func TestExpectSavesDecoding(t *testing.T) {
	w := given(t, live.Options{}).run()
	w.put(pod("p", ""))
	// Given a hint for the event to come, whose id the log gives.
	kinds := domain.NewSet(domain.Kinds())
	k, _ := kinds.ByResource(pods)
	ref := k.Ref("default", "p")
	ref.UID = w.scribe.State(ref).UID
	want := pod("p", "n1")
	want.UID = ref.UID
	data, err := domain.Encode(k, want)
	w.check(err)
	w.log.OnAppend = func(id string) { w.view.Expect(id, want) }
	delta, err := domain.Delta(k, w.scribe.State(ref).JSON, data)
	w.check(err)
	e, err := w.scribe.Append(w.ctx, domain.Event{Ref: ref, Op: domain.Changed, Type: "PodBound", Change: delta}, nil)
	w.check(err)
	p, ok := projections.Get[*corev1.Pod](w.wait(e), pods, "default", "p")
	if !ok {
		t.Fatal("the pod is not there")
	}
	if p == want || want.ResourceVersion != "" {
		t.Error("the lent object was changed")
	}
	if p.ResourceVersion != strconv.FormatUint(e.Position, 10) || p.Spec.NodeName != "n1" {
		t.Errorf("resourceVersion %q, node %q", p.ResourceVersion, p.Spec.NodeName)
	}
}

func TestOneBrokenStreamBreaksNoOther(t *testing.T) {
	w := given(t, live.Options{}).run()
	bad, good := w.put(configMap("bad", "1")), w.put(configMap("good", "1"))
	broken, err := w.scribe.Force(w.ctx, domain.Event{Ref: bad.Ref, Op: domain.Changed, Type: "ConfigMapChanged", Change: []byte(`{"~nowhere":{"-x":0}}`)})
	w.check(err)
	view := w.wait(broken)
	if got := names(view.List(configMaps, "")); !slices.Equal(got, []string{"bad", "good"}) {
		t.Errorf("list: %v", got)
	}
	if _, ok := projections.Get[*corev1.ConfigMap](view, configMaps, "default", "good"); !ok {
		t.Error("the good one cannot be read")
	}
	o, _ := view.Get(configMaps, "default", "bad")
	if _, err := o.Typed(); err == nil {
		t.Error("reading the bad one gives no error")
	}
	if s := w.view.Stats(w.ctx); s.Unreadable != 1 {
		t.Errorf("stats %+v", s)
	}
	// A good delta does not mend it, only what needs no base does.
	again, err := w.scribe.Force(w.ctx, domain.Event{Ref: bad.Ref, Op: domain.Changed, Type: "ConfigMapChanged", Change: []byte(`{"~data":{"=v":"2"}}`)})
	w.check(err)
	o, _ = w.wait(again).Get(configMaps, "default", "bad")
	if _, err := o.Typed(); err == nil {
		t.Error("a delta mended it")
	}
	deleted, err := w.scribe.Force(w.ctx, domain.Event{Ref: bad.Ref, Op: domain.Deleted, Type: "ConfigMapDeleted"})
	w.check(err)
	if _, ok := w.wait(deleted).Get(configMaps, "default", "bad"); ok {
		t.Error("there after its deletion")
	}
	if s := w.view.Stats(w.ctx); s.Unreadable != 0 {
		t.Errorf("stats %+v", s)
	}
	_ = good
}

// A damaged record in an object's stream costs that object alone.
func TestADamagedRecord(t *testing.T) {
	w := given(t, live.Options{}).run()
	created := w.put(configMap("bad", "1"))
	_, err := w.log.Append(w.ctx, created.Ref.Stream(), eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "ConfigMapChanged", Data: []byte("{"), Metadata: []byte(`{"version":1}`)})
	w.check(err)
	_, err = w.log.Append(w.ctx, "somebody-else's", eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "Whatever", Data: []byte("{")})
	w.check(err)
	view := w.wait(w.put(configMap("good", "1")))
	o, ok := view.Get(configMaps, "default", "bad")
	if !ok {
		t.Fatal("the object is gone")
	}
	if _, err := o.Typed(); !errors.Is(err, domain.ErrBadEvent) {
		t.Errorf("reading it: %v", err)
	}
	if _, ok := projections.Get[*corev1.ConfigMap](view, configMaps, "default", "good"); !ok {
		t.Error("another object cannot be read")
	}
}

// What a newer build wrote must not be misread: the view stops and says so.
func TestARecordOfANewerBuild(t *testing.T) {
	w := given(t, live.Options{})
	_, err := w.log.Append(w.ctx, "configmaps-default/new", eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "ConfigMapCreated", Data: []byte("{}"), Metadata: []byte(`{"version":99}`)})
	w.check(err)
	var newer *domain.UnknownVersionError
	if err := w.view.Run(w.ctx); !errors.As(err, &newer) || newer.Version != 99 {
		t.Errorf("Run: %v", err)
	}
	if err := w.view.WaitReady(w.ctx); !errors.As(err, &newer) {
		t.Errorf("WaitReady: %v", err)
	}
}

// So is an event that is marked mandatory and not known, wherever in the log it stands; one that is not marked is folded by its Op.
func TestAMandatoryEventOfANewerBuild(t *testing.T) {
	for name, after := range map[string]int{"taken one by one": 0, "folded in bulk": 5000} {
		t.Run(name, func(t *testing.T) {
			w := given(t, live.Options{})
			created := w.put(configMap("a", "1"))
			unknown := domain.Event{Ref: created.Ref, Op: domain.Changed, Type: "ConfigMapFolded", Change: []byte(`{"~data":{"=v":"2"}}`)}
			_, err := w.scribe.Append(w.ctx, unknown, nil)
			w.check(err)
			unknown.Mandatory = true
			bad, err := w.scribe.Append(w.ctx, unknown, nil)
			w.check(err)
			for i := range after {
				w.put(configMap("b", strconv.Itoa(i)))
			}
			var newer *domain.MandatoryEventError
			if err := w.view.Run(w.ctx); !errors.As(err, &newer) || newer.Position != bad.Position {
				t.Errorf("Run: %v, want the event at position %d", err, bad.Position)
			}
			if s := w.view.Snapshot(); after == 0 && (s.Position() >= bad.Position || s.Position() < created.Position) {
				t.Errorf("the view stands at %d, the event at %d", s.Position(), bad.Position)
			}
		})
	}
}

func TestStartingFromABase(t *testing.T) {
	kinds := domain.NewSet(domain.Kinds())
	// baseOf is what a view of the log as it is now knows.
	baseOf := func(w *world) *live.Base {
		full := live.New(w.log, kinds, live.Options{})
		other := &world{t: t, ctx: w.ctx, log: w.log, scribe: w.scribe, view: full}
		other.run()
		base := &live.Base{Objects: memory.NewStore(), Broken: map[domain.Ref]struct{}{}, Position: full.Snapshot().Position()}
		for o := range full.Snapshot().(*memory.Snapshot).All() {
			base.Objects.Put(o)
		}
		return base
	}
	for _, c := range []struct {
		name  string
		spoil func(*live.Base) (*live.Base, error)
		floor bool // whether the view must not have read what came before the base
	}{
		{"good", func(b *live.Base) (*live.Base, error) { return b, nil }, true},
		{"none", func(*live.Base) (*live.Base, error) { return nil, nil }, false},
		{"failing", func(*live.Base) (*live.Base, error) { return nil, errors.New("the disk does not answer") }, false},
		{"of another log", func(b *live.Base) (*live.Base, error) { b.Position += 1000; return b, nil }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := given(t, live.Options{})
			w.put(configMap("a", "1"))
			w.put(configMap("b", "1"))
			base := baseOf(w)
			w.put(configMap("b", "2"))
			last := w.put(configMap("c", "1"))
			w.view = live.New(w.log, kinds, live.Options{Base: func(context.Context) (*live.Base, error) { return c.spoil(base) }})
			w.run()
			view := w.wait(last)
			if got := names(view.List(configMaps, "")); !slices.Equal(got, []string{"a", "b", "c"}) {
				t.Errorf("list: %v", got)
			}
			if b, _ := projections.Get[*corev1.ConfigMap](view, configMaps, "default", "b"); b == nil || b.Data["v"] != "2" {
				t.Errorf("b = %+v", b)
			}
			_, err := w.view.Follow(0)
			if tooOld := errors.Is(err, projections.ErrTooOld); tooOld != c.floor {
				t.Errorf("following from the beginning: %v", err)
			}
		})
	}
}

// What a view offers to be kept is some thousand events old, so that a view that starts from it has recent changes at hand, and is the
// state as it was then.
func TestOfferedStates(t *testing.T) {
	var mu sync.Mutex
	var offered []live.State
	w := given(t, live.Options{Offer: func(s live.State) {
		mu.Lock()
		defer mu.Unlock()
		offered = append(offered, s)
	}})
	w.log.BatchSize(100)
	created := w.put(configMap("counter", "0"))
	bad, err := w.scribe.Force(w.ctx, domain.Event{Ref: configRef("bad"), Op: domain.Changed, Type: "ConfigMapChanged", Change: []byte(`{"~nowhere":{"-x":0}}`)})
	w.check(err)
	at := map[uint64]string{created.Position: "0", bad.Position: "0"}
	w.run()
	var last domain.Event
	for i := 1; i <= 20_000; i++ {
		last = w.put(configMap("counter", strconv.Itoa(i)))
		at[last.Position] = strconv.Itoa(i)
	}
	w.wait(last)
	mu.Lock()
	defer mu.Unlock()
	if n := len(offered); n < 4 {
		t.Fatalf("%d states offered of 20,000 events", n)
	}
	for i, s := range offered[1:] { // the first is the one before all events
		c, _ := projections.Get[*corev1.ConfigMap](s.Objects, configMaps, "default", "counter")
		if c == nil || c.Data["v"] != at[s.Objects.Position()] {
			t.Errorf("state %d: %+v at position %d, want %s", i, c, s.Objects.Position(), at[s.Objects.Position()])
		}
		if !s.IsBroken(bad.Ref) || s.IsBroken(created.Ref) {
			t.Errorf("state %d: broken: %v, %v", i, s.IsBroken(bad.Ref), s.IsBroken(created.Ref))
		}
		if s.Events <= offered[i].Events || s.Events > 20_000-2000 {
			t.Errorf("state %d: after %d events, the one before after %d", i, s.Events, offered[i].Events)
		}
	}
}

func configRef(name string) domain.Ref {
	return domain.Ref{Resource: "configmaps", Namespace: "default", Name: name}
}

// A view of a long log folds its beginning at once and takes its end one by one; it is the same view, broken objects included.
func TestStartingFromALongLog(t *testing.T) {
	w := given(t, live.Options{})
	bad := w.put(configMap("bad", "1"))
	_, err := w.scribe.Force(w.ctx, domain.Event{Ref: bad.Ref, Op: domain.Changed, Type: "ConfigMapChanged", Change: []byte(`{"~nowhere":{"-x":0}}`)})
	w.check(err)
	for i := range 3000 { // positions rise by two on average
		w.put(configMap(fmt.Sprint("c", i%7), fmt.Sprint(i)))
	}
	again, err := w.scribe.Force(w.ctx, domain.Event{Ref: bad.Ref, Op: domain.Changed, Type: "ConfigMapChanged", Change: []byte(`{"~data":{"=v":"2"}}`)})
	w.check(err)
	w.run()
	view := w.wait(again)
	o, ok := view.Get(configMaps, "default", "bad")
	if !ok {
		t.Fatal("the broken object is gone")
	}
	if _, err := o.Typed(); err == nil {
		t.Error("a delta mended the broken object")
	}
	if c, _ := projections.Get[*corev1.ConfigMap](view, configMaps, "default", "c3"); c == nil || c.Data["v"] != "2999" {
		t.Errorf("c3 = %+v", c)
	}
	if s := w.view.Stats(w.ctx); s.Objects != 8 || s.Unreadable != 1 || s.Applied >= 3000 || s.Changes < 1000 {
		t.Errorf("stats %+v", s)
	}
}

func TestTheEnd(t *testing.T) {
	w := given(t, live.Options{})
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- w.view.Run(ctx) }()
	w.check(w.view.WaitReady(w.ctx))
	f, err := w.view.Follow(0)
	w.check(err)
	closed, err := w.view.Follow(0)
	w.check(err)
	ended := make(chan error, 3)
	go func() { _, _, err := f.Next(w.ctx); ended <- err }()
	go func() { _, _, err := closed.Next(w.ctx); ended <- err }()
	go func() { ended <- w.view.WaitFor(w.ctx, 99) }()
	closed.Close()
	closed.Close()
	cancel()
	w.check(<-done)
	for range 3 {
		if err := <-ended; !errors.Is(err, eventstore.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	}
}

// After any history the view holds what the fold of the log says, through dropped subscriptions and whatever batches.
func TestTheViewIsTheFold(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := given(t, live.Options{})
		w.log.BatchSize(rapid.IntRange(1, 9).Draw(rt, "batch"))
		w.run()
		ends := projectiontest.RandomHistory(rt, w.ctx, w.scribe, func() {
			if rapid.IntRange(0, 9).Draw(rt, "drop") == 0 {
				w.log.Drop(1)
			}
		})
		w.check(w.view.WaitFor(w.ctx, ends))
		if diff := projectiontest.DiffView(w.scribe, w.view.Snapshot()); diff != "" {
			rt.Fatal(diff)
		}
	})
}

func names(seq func(func(*projections.Object) bool)) []string {
	var out []string
	for o := range seq {
		out = append(out, o.Ref.Name)
	}
	return out
}
