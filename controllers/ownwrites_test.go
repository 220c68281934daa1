package controllers_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/replicaset"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// counter creates one more ConfigMap, named by how many there are, each time that it is asked.
type counter struct {
	t     *testing.T
	mu    *sync.Mutex
	names map[string]bool
}

func (counter) Name() string { return "counter" }

func (counter) Inputs() []controllers.Input {
	return []controllers.Input{{Resource: resources.Pods.GroupResource(), Keys: func(projections.Reader, projections.Change) []controllers.Key {
		return []controllers.Key{{Name: "count"}}
	}}}
}

func (counter) Outputs() []controllers.Output { return nil }

func (c counter) Reconcile(view projections.Reader, _ controllers.Key, _ time.Time) (controllers.Decision, error) {
	n := 0
	for range view.List(resources.ConfigMaps.GroupResource(), "") {
		n++
	}
	name := fmt.Sprint("c", n)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names[name] {
		c.t.Errorf("%s is created a second time: the view is older than the controller's own writes", name)
	}
	c.names[name] = true
	return controllers.Decision{Commands: []commands.Command{
		controllers.Create(resources.ConfigMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}),
	}}, nil
}

func TestARunSeesWhatEarlierRunsWrote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := controllertest.NewCluster()
		cluster.Lag = 20 * time.Millisecond
		c := counter{t: t, mu: &sync.Mutex{}, names: map[string]bool{}}
		registry, err := controllers.NewRegistry(c)
		if err != nil {
			t.Fatal(err)
		}
		r, err := controllers.New(registry, cluster, cluster, controllers.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _ = r.Run(ctx) })
		for i := range 100 {
			cluster.MustCreate(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("p", i)}})
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		cancel()
		all.Wait()
		if len(c.names) < 3 {
			t.Errorf("%d runs", len(c.names))
		}
	})
}

// broken panics for one key and cannot decide about another.
type broken struct{ counter }

func (broken) Name() string { return "broken" }

func (b broken) Inputs() []controllers.Input {
	return []controllers.Input{{Resource: resources.Pods.GroupResource()}}
}

func (b broken) Reconcile(view projections.Reader, key controllers.Key, now time.Time) (controllers.Decision, error) {
	switch key.Name {
	case "panics":
		panic("a broken object")
	case "fails":
		return controllers.Decision{}, fmt.Errorf("cannot decide")
	}
	return b.counter.Reconcile(view, key, now)
}

func TestOneBrokenKeyHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := controllertest.NewCluster()
		c := broken{counter{t: t, mu: &sync.Mutex{}, names: map[string]bool{}}}
		registry, err := controllers.NewRegistry(c)
		if err != nil {
			t.Fatal(err)
		}
		r, err := controllers.New(registry, cluster, cluster, controllers.Options{Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _ = r.Run(ctx) })
		for _, name := range []string{"panics", "fails", "works"} {
			cluster.MustCreate(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
		}
		time.Sleep(time.Minute)
		cancel()
		all.Wait()
		if len(c.names) != 1 {
			t.Errorf("%d runs of the key that works", len(c.names))
		}
	})
}

// forgetful is a live view whose buffer is always too short: each follower ends after its first changes.
type forgetful struct{ *controllertest.Cluster }

func (f forgetful) Follow(after uint64, rs ...domain.Resource) (projections.Follower, error) {
	inner, err := f.Cluster.Follow(after, rs...)
	return &forgetfulFollower{Follower: inner}, err
}

type forgetfulFollower struct {
	projections.Follower
	calls int
}

func (f *forgetfulFollower) Next(ctx context.Context) ([]projections.Change, uint64, error) {
	if f.calls++; f.calls > 1 {
		return nil, 0, fmt.Errorf("following: %w", projections.ErrTooOld)
	}
	_, position, err := f.Follower.Next(ctx)
	if err != nil {
		return nil, 0, err
	}
	return nil, position, nil // and what there was is lost
}

func TestAViewThatForgetsIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := controllertest.NewCluster()
		registry, err := controllers.NewRegistry(replicaset.New())
		if err != nil {
			t.Fatal(err)
		}
		r, err := controllers.New(registry, forgetful{cluster}, cluster, controllers.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _ = r.Run(ctx) })
		time.Sleep(time.Second)
		three := int32(3)
		l := map[string]string{"app": "web"}
		cluster.MustCreate(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.ReplicaSetSpec{
			Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: l}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}},
		}})
		time.Sleep(time.Minute)
		cancel()
		all.Wait()
		n := 0
		for range cluster.Snapshot().List(resources.Pods.GroupResource(), "") {
			n++
		}
		rs, _ := projections.Get[*appsv1.ReplicaSet](cluster.Snapshot(), resources.ReplicaSets.GroupResource(), "default", "web")
		if n != 3 || rs.Status.Replicas != 3 {
			t.Errorf("%d pods, status %+v", n, rs.Status)
		}
	})
}
