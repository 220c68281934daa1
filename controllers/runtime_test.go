package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/controllers/standard"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

var deployments = resources.Deployments.GroupResource()

func deployment(name string, replicas int32) *appsv1.Deployment {
	one, deadline, history := intstr.FromInt32(1), int32(600), int32(10)
	l := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}},
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &one, MaxUnavailable: &one},
			},
			ProgressDeadlineSeconds: &deadline, RevisionHistoryLimit: &history,
		},
	}
}

// world is a cluster with nodes and all controllers, on the test's clock.
type world struct {
	*controllertest.Cluster
	nodes *controllertest.Nodes
	meter *prometheus.Registry
	stop  func()
}

// run runs a world in which all controllers work. It must be called in a bubble of synctest.
func run(t *testing.T, lag time.Duration, leader controllers.Leader) *world {
	t.Helper()
	c := controllertest.NewCluster()
	c.Lag = lag
	w := &world{Cluster: c, meter: prometheus.NewRegistry()}
	for _, ns := range []string{"default", "kube-system", "kube-node-lease"} {
		c.MustCreate(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}})
	}
	w.nodes = controllertest.NewNodes(c, "n1", "n2", "n3")
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { w.nodes.Run(ctx) })
	registry, err := standard.Registry(standard.Options{Kinds: c.Kinds(), RootCA: []byte("PEM")})
	if err != nil {
		t.Fatal(err)
	}
	r, err := controllers.New(registry, c, c, controllers.Options{Meter: w.meter, Leader: leader})
	if err != nil {
		t.Fatal(err)
	}
	all.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	w.stop = func() { cancel(); all.Wait() }
	return w
}

// within waits on the bubble's clock until a condition holds.
func (w *world) within(t *testing.T, d time.Duration, what string, holds func(projections.Reader) bool) {
	t.Helper()
	for range int(d / (50 * time.Millisecond)) {
		time.Sleep(50 * time.Millisecond)
		if holds(w.Snapshot()) {
			return
		}
	}
	t.Fatalf("not within %s: %s", d, what)
}

func available(name string, n int32) func(projections.Reader) bool {
	return func(view projections.Reader) bool {
		d, ok := projections.Get[*appsv1.Deployment](view, deployments, "default", name)
		return ok && d.Status.AvailableReplicas == n && d.Status.Replicas == n && d.Status.ObservedGeneration == d.Generation
	}
}

func TestADeploymentComesUpExactly(t *testing.T) {
	for _, lag := range []time.Duration{0, 300 * time.Millisecond} {
		t.Run(lag.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := run(t, lag, nil)
				defer w.stop()
				w.MustCreate(deployment("web", 200))
				w.within(t, 20*time.Second, "200 available", available("web", 200))
				created, failed := 0, 0
				for _, ch := range w.Changes(0) {
					if ch.Event.Ref.Resource == "pods" {
						if ch.Before == nil {
							created++
						}
						if ch.After == nil {
							failed++
						}
					}
				}
				if created != 200 || failed != 0 {
					t.Errorf("%d pods created and %d deleted to get 200: a controller acted on a view older than its own writes", created, failed)
				}
			})
		})
	}
}

// Every write leads back, cause by cause, to what a person did, and bears its correlation.
func TestCausesLeadBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, 0, nil)
		defer w.stop()
		time.Sleep(time.Second)
		before := w.Snapshot().Position()
		w.MustDo(commands.Command{
			Verb: commands.Create, Resource: resources.Deployments, Namespace: "default", Name: "web", Object: deployment("web", 2),
			Actor: domain.Actor{User: "jane"}, Correlation: "jane-1",
		})
		w.within(t, 10*time.Second, "2 available", available("web", 2))
		events := map[uint64]domain.Event{}
		for _, ch := range w.Changes(before) {
			events[ch.Event.Position] = ch.Event
		}
		checked := 0
		for _, e := range events {
			if !strings.HasPrefix(e.Actor.User, "system:serviceaccount:kube-system:") || e.Ref.Resource == "leases" {
				continue
			}
			checked++
			root := e
			for root.Cause != nil {
				next, ok := events[root.Cause.Position]
				if !ok || next.Position >= root.Position || next.ID != root.Cause.ID {
					t.Fatalf("%s of %s has the cause %+v, which is no earlier event", e.Type, e.Ref, root.Cause)
				}
				root = next
			}
			// What nodes and the scheduler did has no cause in this test; what controllers did must go back to jane or to those.
			if strings.HasPrefix(root.Actor.User, "system:serviceaccount:kube-system:") {
				t.Errorf("%s of %s by %s leads back to no more than %s of %s", e.Type, e.Ref, e.Actor.User, root.Type, root.Ref)
			}
			if (e.Ref.Resource == "replicasets" && e.Op == domain.Created || e.Ref.Resource == "pods" && e.Op == domain.Created) && (root.Actor.User != "jane" || e.Correlation != "jane-1") {
				t.Errorf("%s leads back to %q, correlation %q", e.Ref, root.Actor.User, e.Correlation)
			}
			if e.Actor.Groups[0] != "system:serviceaccounts" {
				t.Errorf("groups %v", e.Actor.Groups)
			}
		}
		if checked < 4 {
			t.Errorf("only %d events of controllers", checked)
		}
	})
}

func TestConflictsAreRetriedFromAFreshView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, 20*time.Millisecond, nil)
		defer w.stop()
		n := 0
		w.Refuse = func(c commands.Command) error {
			if n++; n%3 == 0 && strings.HasPrefix(c.Actor.User, "system:serviceaccount:kube-system:") {
				return apierrors.NewConflict(c.Resource.GroupResource(), c.Name, errors.New("injected"))
			}
			return nil
		}
		w.MustCreate(deployment("web", 20))
		w.within(t, time.Minute, "20 available", available("web", 20))
	})
}

func TestASilentNodeIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, 0, nil)
		defer w.stop()
		d := deployment("web", 3)
		five := int64(300)
		for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} { // as admission does
			d.Spec.Template.Spec.Tolerations = append(d.Spec.Template.Spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &five,
			})
		}
		w.MustCreate(d)
		w.within(t, 10*time.Second, "3 available", available("web", 3))
		node := func() *corev1.Node {
			n, _ := projections.Get[*corev1.Node](w.Snapshot(), resources.Nodes.GroupResource(), "", "n1")
			return n
		}
		time.Sleep(10 * time.Minute)
		if got := node().Status.Conditions[0].Status; got != corev1.ConditionTrue {
			t.Fatalf("a node that renews its lease is %s", got)
		}
		w.nodes.Stop("n1")
		w.within(t, 51*time.Second, "n1 unknown, tainted, its pod not ready", func(view projections.Reader) bool {
			ready := 0
			for p := range projections.List[*corev1.Pod](view, pods.Resource, "") {
				if pods.Ready(p) {
					ready++
				}
			}
			return node().Status.Conditions[0].Status == corev1.ConditionUnknown && len(node().Spec.Taints) == 2 && ready == 2
		})
		time.Sleep(4 * time.Minute)
		if !available("web", 2)(w.Snapshot()) && onNode(w, "n1") != 1 {
			t.Error("the pod was evicted before its toleration ended")
		}
		w.within(t, 2*time.Minute, "the pod evicted and replaced", func(view projections.Reader) bool {
			d, _ := projections.Get[*appsv1.Deployment](view, deployments, "default", "web")
			return d.Status.AvailableReplicas == 3
		})
		w.nodes.Start("n1")
		w.within(t, time.Minute, "n1 well again", func(projections.Reader) bool {
			return node().Status.Conditions[0].Status == corev1.ConditionTrue && len(node().Spec.Taints) == 0
		})
	})
}

func onNode(w *world, node string) int {
	n := 0
	for p := range projections.Index[*corev1.Pod](w.Snapshot(), pods.Resource, domain.NodeIndex, node) {
		if p.DeletionTimestamp == nil {
			n++
		}
	}
	return n
}

// When the control plane was away, nodes are given the time to speak up.
func TestADowntimeIsNoFaultOfTheNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controllertest.NewCluster(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
		nodes := controllertest.NewNodes(c, "n1")
		time.Sleep(2 * time.Hour)
		registry, err := standard.Registry(standard.Options{Kinds: c.Kinds()})
		if err != nil {
			t.Fatal(err)
		}
		r, err := controllers.New(registry, c, c, controllers.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { nodes.Run(ctx) })
		all.Go(func() { _ = r.Run(ctx) })
		time.Sleep(time.Hour)
		cancel()
		all.Wait()
		for _, ch := range c.Changes(0) {
			if ch.Event.Ref.Resource == "nodes" && strings.Contains(ch.Event.Actor.User, "node-controller") {
				t.Errorf("the node was changed: %s", ch.After.JSON)
			}
		}
	})
}

func TestANamespaceIsEmptiedAndGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, 0, nil)
		defer w.stop()
		w.MustCreate(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}})
		d := deployment("web", 5)
		d.Namespace = "shop"
		w.MustCreate(d)
		w.MustCreate(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s", Finalizers: []string{"test/hold"}}})
		w.within(t, 10*time.Second, "pods, the service account and the CA", func(view projections.Reader) bool {
			n := 0
			for range view.List(pods.Resource, "shop") {
				n++
			}
			_, account := view.Get(resources.ServiceAccounts.GroupResource(), "shop", "default")
			_, ca := view.Get(resources.ConfigMaps.GroupResource(), "shop", "kube-root-ca.crt")
			return n == 5 && account && ca
		})
		w.MustDo(commands.Command{Verb: commands.Delete, Resource: resources.Namespaces, Name: "shop"})
		w.within(t, 30*time.Second, "only what a finalizer holds is left, and the namespace says so", func(view projections.Reader) bool {
			left := 0
			for _, gr := range controllers.Resources(view) {
				for o := range view.List(gr, "shop") {
					if o.Ref.Namespace != "" {
						left++
					}
				}
			}
			ns, ok := projections.Get[*corev1.Namespace](view, resources.Namespaces.GroupResource(), "", "shop")
			if !ok {
				t.Fatal("the namespace went before its content")
			}
			for _, c := range ns.Status.Conditions {
				if c.Type == corev1.NamespaceFinalizersRemaining && c.Status == corev1.ConditionTrue && strings.Contains(c.Message, "test/hold in 1 resource instances") {
					return left == 1
				}
			}
			return false
		})
		w.MustDo(commands.Command{
			Verb: commands.Patch, Resource: resources.ConfigMaps.GroupVersion().WithResource("secrets"), Namespace: "shop", Name: "s",
			Patch: []byte(`{"metadata":{"finalizers":null}}`), PatchType: "application/merge-patch+json",
		})
		w.within(t, 10*time.Second, "the namespace gone", func(view projections.Reader) bool {
			_, ok := view.Get(resources.Namespaces.GroupResource(), "", "shop")
			return !ok
		})
	})
}

func TestCascades(t *testing.T) {
	count := func(w *world) (sets, ps int) {
		for range w.Snapshot().List(resources.ReplicaSets.GroupResource(), "") {
			sets++
		}
		for range w.Snapshot().List(pods.Resource, "") {
			ps++
		}
		return sets, ps
	}
	for policy, want := range map[metav1.DeletionPropagation]string{
		metav1.DeletePropagationBackground: "0 sets, 0 pods", metav1.DeletePropagationForeground: "0 sets, 0 pods", metav1.DeletePropagationOrphan: "1 sets, 3 pods",
	} {
		t.Run(string(policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := run(t, 10*time.Millisecond, nil)
				defer w.stop()
				w.MustCreate(deployment("web", 3))
				w.within(t, 10*time.Second, "3 available", available("web", 3))
				start := w.Snapshot().Position()
				w.MustDo(commands.Command{
					Verb: commands.Delete, Resource: resources.Deployments, Namespace: "default", Name: "web", DeleteOptions: &metav1.DeleteOptions{PropagationPolicy: &policy},
				})
				time.Sleep(time.Minute)
				if _, ok := w.Snapshot().Get(deployments, "default", "web"); ok {
					t.Error("the deployment is still there")
				}
				sets, ps := count(w)
				if got := fmt.Sprintf("%d sets, %d pods", sets, ps); got != want {
					t.Errorf("%s, want %s", got, want)
				}
				var order []string
				for _, ch := range w.Changes(start) {
					if ch.After == nil && ch.Event.Ref.Resource != "events" && (len(order) == 0 || order[len(order)-1] != ch.Event.Ref.Resource) {
						order = append(order, ch.Event.Ref.Resource)
					}
				}
				if policy == metav1.DeletePropagationForeground && strings.Join(order, " ") != "pods replicasets deployments" {
					t.Errorf("deleted in the order %v", order)
				}
				if policy == metav1.DeletePropagationOrphan {
					for rs := range projections.List[*appsv1.ReplicaSet](w.Snapshot(), resources.ReplicaSets.GroupResource(), "") {
						if len(rs.OwnerReferences) != 0 {
							t.Errorf("owners %v", rs.OwnerReferences)
						}
					}
				}
			})
		})
	}
}

func TestAStuckRolloutIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, 0, nil)
		defer w.stop()
		w.nodes.Stop("n1")
		w.nodes.Stop("n2")
		w.nodes.Stop("n3")
		d := deployment("web", 1)
		*d.Spec.ProgressDeadlineSeconds = 30
		w.MustCreate(d)
		w.within(t, 35*time.Second, "ProgressDeadlineExceeded", func(view projections.Reader) bool {
			d, _ := projections.Get[*appsv1.Deployment](view, deployments, "default", "web")
			for _, c := range d.Status.Conditions {
				if c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded" && c.Status == corev1.ConditionFalse {
					return true
				}
			}
			return false
		})
	})
}

func TestEventsAreToldAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, 0, nil)
		defer w.stop()
		w.MustCreate(deployment("web", 100))
		w.within(t, 10*time.Second, "100 available", available("web", 100))
		time.Sleep(time.Second)
		reasons := map[string]int{}
		for e := range projections.List[*corev1.Event](w.Snapshot(), resources.Events.GroupResource(), "default") {
			reasons[e.Reason]++
			if e.InvolvedObject.UID == "" || e.InvolvedObject.Kind == "" || e.Source.Component == "" || e.Count < 1 {
				t.Errorf("event %+v", e)
			}
		}
		if reasons["ScalingReplicaSet"] != 1 || reasons["SuccessfulCreate"] != 25 {
			t.Errorf("events %v, want one of the deployment and 25 of the replica set", reasons)
		}
	})
}

func TestOneLeaderAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controllertest.NewCluster()
		var mu sync.Mutex
		leading, most := map[string]bool{}, 0
		lead := func(name string, bus commands.Bus) (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = controllers.Lease{Bus: bus, Live: c, Identity: name}.Lead(ctx, func(ctx context.Context, since uint64) {
					if since == 0 || since > c.Snapshot().Position() {
						t.Errorf("leading since %d", since)
					}
					mu.Lock()
					leading[name] = true
					most = max(most, len(leading))
					mu.Unlock()
					<-ctx.Done()
					mu.Lock()
					delete(leading, name)
					mu.Unlock()
				})
			}()
			return func() { cancel(); <-done }
		}
		who := func() string {
			mu.Lock()
			defer mu.Unlock()
			names := ""
			for n := range leading {
				names += n
			}
			return names
		}
		cut := &cutBus{Bus: c}
		stopA := lead("a", cut)
		time.Sleep(time.Second)
		stopB := lead("b", c)
		time.Sleep(time.Minute)
		if who() != "a" {
			t.Fatalf("leading: %q", who())
		}
		cut.cut(true) // a can no longer write
		time.Sleep(11 * time.Second)
		if who() != "" {
			t.Errorf("a leads although it has not renewed for longer than its deadline")
		}
		time.Sleep(10 * time.Second)
		if who() != "b" {
			t.Errorf("leading: %q, want b", who())
		}
		cut.cut(false)
		time.Sleep(time.Minute)
		if who() != "b" {
			t.Errorf("leading: %q, want b", who())
		}
		stopB() // gives the lease up
		time.Sleep(3 * time.Second)
		if who() != "a" {
			t.Errorf("leading: %q, want a", who())
		}
		stopA()
		lease, ok := projections.Get[*coordinationv1.Lease](c.Snapshot(), resources.Leases.GroupResource(), "kube-system", "shiplog-controllers")
		if !ok || *lease.Spec.HolderIdentity != "" || *lease.Spec.LeaseTransitions != 2 {
			t.Errorf("lease %+v", lease)
		}
		if most != 1 {
			t.Errorf("%d led at once", most)
		}
	})
}

type cutBus struct {
	commands.Bus
	mu  sync.Mutex
	off bool
}

func (b *cutBus) cut(off bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.off = off
}

func (b *cutBus) Do(ctx context.Context, c commands.Command) (commands.Result, error) {
	b.mu.Lock()
	off := b.off
	b.mu.Unlock()
	if off {
		return commands.Result{}, apierrors.NewServiceUnavailable("cut off")
	}
	return b.Bus.Do(ctx, c)
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, 0, nil)
		w.MustCreate(deployment("web", 2))
		w.within(t, 10*time.Second, "2 available", available("web", 2))
		families, err := w.meter.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				got[f.GetName()+labelled(m)] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		if n := got["shiplog_controller_commands_total replicaset-controller pods ok create"]; n != 2 {
			t.Errorf("%v creations are counted of %v", n, got)
		}
		if got["shiplog_controller_leading"] != 1 {
			t.Error("not counted as leading")
		}
		w.stop()
	})
}

func labelled(m *dto.Metric) string {
	s := ""
	for _, l := range m.Label {
		s += " " + l.GetValue()
	}
	return s
}
