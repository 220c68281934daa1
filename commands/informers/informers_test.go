package informers_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/shiplog/shiplog/commands/informers"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/projections/live"
)

type world struct {
	t       *testing.T
	log     eventstore.Log
	view    *live.View
	kinds   *domain.Set
	factory *informers.Factory
}

func given(t *testing.T) *world {
	t.Helper()
	log, err := embedded.Open(t.TempDir(), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, log: log, kinds: domain.NewSet(domain.Kinds())}
	w.view = live.New(log, w.kinds, live.Options{MaxChanges: 2})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.view.Run(ctx) }()
	if err := w.view.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	w.factory = informers.New(w.view, w.kinds)
	t.Cleanup(func() {
		w.factory.Shutdown()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		log.Close()
	})
	return w
}

// create appends the creation of a namespace and waits until it is seen.
func (w *world) create(name string) {
	w.t.Helper()
	k, _ := w.kinds.ByResource(domain.Resource{Resource: "namespaces"})
	uid := types.UID(uuid.NewString())
	obj := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, UID: uid, Labels: map[string]string{"name": name}}}
	js, err := domain.Encode(k, obj)
	if err != nil {
		w.t.Fatal(err)
	}
	ref := k.Ref("", name)
	ref.UID = uid
	w.append(domain.Event{Type: "NamespaceCreated", Ref: ref, Op: domain.Created, Change: js}, eventstore.NoStream)
}

func (w *world) delete(name string) {
	w.t.Helper()
	k, _ := w.kinds.ByResource(domain.Resource{Resource: "namespaces"})
	w.append(domain.Event{Type: "NamespaceDeleted", Ref: k.Ref("", name), Op: domain.Deleted}, eventstore.Exact(0))
}

func (w *world) append(ev domain.Event, expected eventstore.Expected) {
	w.t.Helper()
	id := uuid.New()
	ev.ID, ev.Time, ev.Version, ev.Correlation = id.String(), time.Now(), domain.SchemaVersion, id.String()
	data, metadata, err := domain.MarshalEvent(ev)
	if err != nil {
		w.t.Fatal(err)
	}
	done, err := w.log.Append(w.t.Context(), ev.Ref.Stream(), expected, eventstore.Proposed{ID: id, Type: ev.Type, Data: data, Metadata: metadata})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.view.WaitFor(w.t.Context(), uint64(done.Position)); err != nil {
		w.t.Fatal(err)
	}
}

func TestListersReadTheLiveView(t *testing.T) {
	w := given(t)
	lister := w.factory.Core().V1().Namespaces().Lister()
	if _, err := lister.Get("a"); !apierrors.IsNotFound(err) {
		t.Errorf("before: %v", err)
	}
	w.create("a")
	w.create("b")
	if ns, err := lister.Get("a"); err != nil || ns.Name != "a" || ns.ResourceVersion == "" {
		t.Errorf("after: %v, %v", ns, err)
	}
	if all, err := lister.List(labels.Everything()); err != nil || len(all) != 2 {
		t.Errorf("all: %v, %v", all, err)
	}
	if some, err := lister.List(labels.SelectorFromSet(labels.Set{"name": "b"})); err != nil || len(some) != 1 {
		t.Errorf("some: %v, %v", some, err)
	}
	if pods, err := w.factory.Core().V1().Pods().Lister().Pods("a").List(labels.Everything()); err != nil || len(pods) != 0 {
		t.Errorf("pods: %v, %v", pods, err)
	}
	if err := w.factory.Core().V1().Namespaces().Informer().GetStore().Delete(nil); err == nil {
		t.Error("the live view was written to")
	}
}

func TestHandlersAreToldWhatThereIsAndWhatChanges(t *testing.T) {
	w := given(t)
	w.create("a")
	told := make(chan string, 16)
	name := func(o any) string { return o.(*corev1.Namespace).Name } //nolint:forcetypeassert // of a handler of namespaces
	r, err := w.factory.Core().V1().Namespaces().Informer().AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(o any, first bool) {
			if first {
				told <- "there is " + name(o)
				return
			}
			told <- "new " + name(o)
		},
		DeleteFunc: func(o any) { told <- "gone " + name(o) },
	})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want ...string) {
		t.Helper()
		for _, text := range want {
			if got := <-told; got != text {
				t.Errorf("told %q, want %q", got, text)
			}
		}
	}
	expect("there is a")
	<-r.HasSyncedChecker().Done()
	w.create("b")
	expect("new b")
	w.delete("a")
	expect("gone a")
}
