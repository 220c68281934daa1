package standard_test

//lint:file-ignore SA1019 Endpoints are deprecated for those who write clients; a cluster keeps them for those who still read them.

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/api/apitest"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/controllers/standard"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/runtime/sim"
	"github.com/shiplog/shiplog/scheduler"
)

// start runs a whole control plane with simulated nodes: the API server's bus, the embedded log, the live view, the scheduler.
func start(tb testing.TB, nodes int) *apitest.Cluster {
	tb.Helper()
	c := apitest.Start(tb)
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	registry, err := standard.Registry(standard.Options{Kinds: c.Kinds, RootCA: []byte("PEM")})
	if err != nil {
		tb.Fatal(err)
	}
	r, err := controllers.New(registry, c.Live, c.Bus, controllers.Options{Logger: logger})
	if err != nil {
		tb.Fatal(err)
	}
	simulated, err := sim.New(c.Live, c.Bus, sim.Options{Nodes: nodes, Log: logger})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, run := range []func(context.Context) error{r.Run, simulated.Run, scheduler.New(c.Live, c.Bus, scheduler.Config{Log: logger}).Run} {
		all.Go(func() {
			if err := run(ctx); err != nil {
				tb.Error(err)
			}
		})
	}
	tb.Cleanup(func() { cancel(); all.Wait() })
	wait(tb, c, "the nodes ready", func(view projections.Reader) bool {
		ready := 0
		for n := range projections.List[*corev1.Node](view, resources.Nodes.GroupResource(), "") {
			for _, cond := range n.Status.Conditions {
				if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue && len(n.Spec.Taints) == 0 {
					ready++
				}
			}
		}
		_, ok := view.Get(resources.ServiceAccounts.GroupResource(), "default", "default")
		return ready == nodes && ok
	})
	return c
}

// wait waits, change by change, until a condition holds.
func wait(tb testing.TB, c *apitest.Cluster, what string, holds func(projections.Reader) bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	view := c.Live.Snapshot()
	f, err := c.Live.Follow(view.Position())
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	for !holds(view) {
		if _, _, err := f.Next(ctx); err != nil {
			tb.Fatalf("waiting for %s: %v", what, err)
		}
		view = c.Live.Snapshot()
	}
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	l := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx"}}},
		}},
	}
}

func available(name string, n int32) func(projections.Reader) bool {
	return func(view projections.Reader) bool {
		d, ok := projections.Get[*appsv1.Deployment](view, resources.Deployments.GroupResource(), "default", name)
		return ok && d.Status.AvailableReplicas == n && d.Status.Replicas == n && d.Status.UpdatedReplicas == n && d.Status.ObservedGeneration == d.Generation
	}
}

// The life of an application on the real API: what admission, defaulting and validation make of the controllers' commands.
func TestOnTheRealAPI(t *testing.T) {
	c := start(t, 3)
	ctx := t.Context()
	if _, err := c.Client.AppsV1().Deployments("default").Create(ctx, deployment("web", 5), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := c.Client.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	addresses := func(n int) func(projections.Reader) bool {
		return func(view projections.Reader) bool {
			inSlices, ready := 0, 0
			for s := range projections.List[*discoveryv1.EndpointSlice](view, resources.EndpointSlices.GroupResource(), "default") {
				if s.Labels[discoveryv1.LabelServiceName] == "web" {
					for _, e := range s.Endpoints {
						if *e.Conditions.Ready {
							inSlices++
						}
					}
				}
			}
			e, ok := projections.Get[*corev1.Endpoints](view, resources.Endpoints.GroupResource(), "default", "web")
			if ok {
				for _, s := range e.Subsets {
					ready += len(s.Addresses)
				}
			}
			return inSlices == n && ready == n
		}
	}
	wait(t, c, "5 available", available("web", 5))
	wait(t, c, "5 endpoints", addresses(5))
	d, err := c.Client.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.Spec.Template.Spec.Containers[0].Image = "nginx:2"
	if _, err := c.Client.AppsV1().Deployments("default").Update(ctx, d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	wait(t, c, "revision 2 rolled out", func(view projections.Reader) bool {
		d, _ := projections.Get[*appsv1.Deployment](view, resources.Deployments.GroupResource(), "default", "web")
		return d.Annotations["deployment.kubernetes.io/revision"] == "2" && available("web", 5)(view)
	})
	foreground := metav1.DeletePropagationForeground
	if err := c.Client.AppsV1().Deployments("default").Delete(ctx, "web", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
		t.Fatal(err)
	}
	wait(t, c, "everything gone with it", func(view projections.Reader) bool {
		for _, gr := range []domain.Resource{resources.Deployments.GroupResource(), resources.ReplicaSets.GroupResource(), resources.Pods.GroupResource()} {
			for range view.List(gr, "default") {
				return false
			}
		}
		return addresses(0)(view)
	})
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	if _, err := c.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	rc := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "store"},
		Spec: corev1.ReplicationControllerSpec{Selector: map[string]string{"app": "store"}, Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "store"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "redis"}}},
		}},
	}
	wait(t, c, "the service account of the namespace", func(view projections.Reader) bool {
		_, ok := view.Get(resources.ServiceAccounts.GroupResource(), "shop", "default")
		return ok
	})
	if _, err := c.Client.CoreV1().ReplicationControllers("shop").Create(ctx, rc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	wait(t, c, "the store ready", func(view projections.Reader) bool {
		rc, ok := projections.Get[*corev1.ReplicationController](view, resources.ReplicationControllers.GroupResource(), "shop", "store")
		return ok && rc.Status.ReadyReplicas == 1 && rc.Status.AvailableReplicas == 1
	})
	if err := c.Client.CoreV1().Namespaces().Delete(ctx, "shop", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wait(t, c, "the namespace gone", func(view projections.Reader) bool {
		_, ok := view.Get(resources.Namespaces.GroupResource(), "", "shop")
		return !ok
	})
}

// The other workloads on the real API: what validation makes of their pods, revisions and statuses.
func TestOtherWorkloadsOnTheRealAPI(t *testing.T) {
	c := start(t, 3)
	ctx := t.Context()
	template := func(name string, restart corev1.RestartPolicy) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
			Spec:       corev1.PodSpec{RestartPolicy: restart, Containers: []corev1.Container{{Name: "c", Image: "nginx"}}},
		}
	}
	selector := func(name string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	}
	two, three, four := int32(2), int32(3), int32(4)
	indexed := batchv1.IndexedCompletion
	if _, err := c.Client.AppsV1().DaemonSets("default").Create(ctx, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "log"}, Spec: appsv1.DaemonSetSpec{Selector: selector("log"), Template: template("log", "")},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client.AppsV1().StatefulSets("default").Create(ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{Replicas: &two, ServiceName: "db", Selector: selector("db"), Template: template("db", "")},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]*batchv1.CompletionMode{"work": nil, "parts": &indexed} {
		ends := template(name, corev1.RestartPolicyNever)
		ends.Annotations = map[string]string{"shiplog.dev/sim-succeed-after": "100ms"}
		if _, err := c.Client.BatchV1().Jobs("default").Create(ctx, &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.JobSpec{Completions: &four, Parallelism: &three, CompletionMode: mode, Template: ends},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	daemons := func(updated int32) func(projections.Reader) bool {
		return func(view projections.Reader) bool {
			ds, ok := projections.Get[*appsv1.DaemonSet](view, resources.DaemonSets.GroupResource(), "default", "log")
			return ok && ds.Status.NumberAvailable == 3 && ds.Status.UpdatedNumberScheduled == updated && ds.Status.ObservedGeneration == ds.Generation
		}
	}
	ordered := func(view projections.Reader) bool {
		s, ok := projections.Get[*appsv1.StatefulSet](view, resources.StatefulSets.GroupResource(), "default", "db")
		return ok && s.Status.AvailableReplicas == 2 && s.Status.UpdatedReplicas == 2 && s.Status.CurrentRevision == s.Status.UpdateRevision && s.Status.ObservedGeneration == s.Generation
	}
	wait(t, c, "a daemon on each node", daemons(3))
	wait(t, c, "both ordered pods", ordered)
	ds, err := c.Client.AppsV1().DaemonSets("default").Get(ctx, "log", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ds.Spec.Template.Spec.Containers[0].Image = "nginx:2"
	if _, err := c.Client.AppsV1().DaemonSets("default").Update(ctx, ds, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s, err := c.Client.AppsV1().StatefulSets("default").Get(ctx, "db", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Spec.Template.Spec.Containers[0].Image = "nginx:2"
	if _, err := c.Client.AppsV1().StatefulSets("default").Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	wait(t, c, "the daemons replaced", daemons(3))
	wait(t, c, "the ordered pods replaced", ordered)
	for p := range projections.List[*corev1.Pod](c.Live.Snapshot(), resources.Pods.GroupResource(), "default") {
		if app := p.Labels["app"]; (app == "log" || app == "db") && p.Spec.Containers[0].Image != "nginx:2" {
			t.Errorf("pod %s runs %s", p.Name, p.Spec.Containers[0].Image)
		}
	}
	for _, name := range []string{"work", "parts"} {
		wait(t, c, "the job "+name+" complete", func(view projections.Reader) bool {
			j, ok := projections.Get[*batchv1.Job](view, resources.Jobs.GroupResource(), "default", name)
			if !ok || j.Status.Succeeded != 4 {
				return false
			}
			for _, cond := range j.Status.Conditions {
				if cond.Type == batchv1.JobComplete && cond.Status == corev1.ConditionTrue {
					return name != "parts" || j.Status.CompletedIndexes == "0-3"
				}
			}
			return false
		})
	}
}

// From the creation of a Deployment of 1,000 replicas on 100 simulated nodes until all are available.
func BenchmarkThousandPods(b *testing.B) {
	c := start(b, 100)
	var took time.Duration
	var events uint64
	for i := range b.N {
		name := fmt.Sprint("web-", i)
		begin := time.Now()
		before := c.Live.Snapshot().Position()
		if _, err := c.Client.AppsV1().Deployments("default").Create(context.Background(), deployment(name, 1000), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		wait(b, c, "1,000 available", available(name, 1000))
		took += time.Since(begin)
		events += c.Live.Snapshot().Position() - before
		if err := c.Client.AppsV1().Deployments("default").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
		wait(b, c, "all gone", func(view projections.Reader) bool {
			for range view.List(resources.Pods.GroupResource(), "default") {
				return false
			}
			return true
		})
	}
	b.ReportMetric(took.Seconds()/float64(b.N), "s/1000pods")
	b.ReportMetric(float64(events)/float64(b.N), "events/1000pods")
}
