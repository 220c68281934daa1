package replicaset_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/replicaset"
	"github.com/shiplog/shiplog/controllers/replication"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

var (
	now = controllertest.Epoch
	web = controllers.KeyOf(resources.ReplicaSets.GroupResource(), "default", "web")
)

func replicaSet(replicas int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "rs", Generation: 1},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		},
		Status: appsv1.ReplicaSetStatus{ObservedGeneration: 1},
	}
}

func pod(name string, edits ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": "web"},
		OwnerReferences:   []metav1.OwnerReference{*metav1.NewControllerRef(replicaSet(0), appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))},
		CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
	}}
	for _, edit := range edits {
		edit(p)
	}
	return p
}

func ready(p *corev1.Pod) {
	p.Spec.NodeName = "n1"
	controllertest.MakeReady(p, now.Add(-time.Hour))
}

func onNode(n string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = n } }

func orphan(p *corev1.Pod) { p.OwnerReferences = nil }

func deleting(p *corev1.Pod) {
	at := metav1.NewTime(now)
	p.DeletionTimestamp = &at
	p.Finalizers = []string{"test/keep"}
}

func reconcile(t *testing.T, objects ...runtime.Object) controllers.Decision {
	t.Helper()
	return controllertest.When(t, replicaset.New(), controllertest.Given(objects...), web, now)
}

func TestCreatesWhatIsMissing(t *testing.T) {
	d := reconcile(t, replicaSet(3), pod("web-a", ready), pod("done", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), pod("going", ready, deleting))
	if len(d.Commands) != 2 || !d.Careful {
		t.Fatalf("commands: %v, careful %v", controllertest.Lines(d.Commands), d.Careful)
	}
	p := d.Commands[0].Object.(*corev1.Pod)
	if ref := metav1.GetControllerOf(p); ref == nil || ref.UID != "rs" || ref.Kind != "ReplicaSet" || ref.APIVersion != "apps/v1" || !*ref.BlockOwnerDeletion {
		t.Errorf("owner %+v", ref)
	}
	if p.Labels["app"] != "web" || p.GenerateName != "web-" || len(p.Name) != len("web-")+5 || p.Spec.Containers[0].Image != "i" {
		t.Errorf("pod %+v", p)
	}
	next := d.Then([]controllers.Outcome{{Command: d.Commands[0]}, {Command: d.Commands[1]}})
	if len(next.Commands) != 0 || len(next.Events) != 2 || next.Events[0].Reason != "SuccessfulCreate" || next.Events[0].Message != "Created pod: "+p.Name {
		t.Errorf("then %+v", next)
	}
}

func TestTheSameViewGivesTheSameNames(t *testing.T) {
	a, b := reconcile(t, replicaSet(50)), reconcile(t, replicaSet(50))
	names := map[string]bool{}
	for i := range a.Commands {
		if a.Commands[i].Name != b.Commands[i].Name {
			t.Errorf("%s and %s", a.Commands[i].Name, b.Commands[i].Name)
		}
		names[a.Commands[i].Name] = true
	}
	if len(names) != 50 {
		t.Errorf("%d different names", len(names))
	}
	first := a.Commands[0].Name
	for _, c := range reconcile(t, replicaSet(50), pod(first, orphan, func(p *corev1.Pod) { p.Labels = nil })).Commands {
		if c.Name == first {
			t.Errorf("%s is taken, and was given again", first)
		}
	}
	moved := replicaSet(50)
	moved.ResourceVersion = "101"
	for _, c := range reconcile(t, moved).Commands {
		if names[c.Name] {
			t.Errorf("%s given again after the owner moved on", c.Name)
		}
	}
}

func TestAFailureToCreateIsTold(t *testing.T) {
	d := reconcile(t, replicaSet(2))
	quota := apierrors.NewForbidden(resources.Pods.GroupResource(), d.Commands[0].Name, errors.New("exceeded quota"))
	next := d.Then([]controllers.Outcome{{Command: d.Commands[0], Err: quota}, {Command: d.Commands[1], Err: controllers.ErrSkipped}})
	status := controllertest.Find[*appsv1.ReplicaSet](t, next, "update replicasets/status default/web").Status
	if len(status.Conditions) != 1 || status.Conditions[0].Type != appsv1.ReplicaSetReplicaFailure || status.Conditions[0].Reason != "FailedCreate" {
		t.Errorf("conditions %+v", status.Conditions)
	}
	if len(next.Events) != 1 || next.Events[0].Reason != "FailedCreate" || next.Events[0].Type != corev1.EventTypeWarning {
		t.Errorf("events %+v", next.Events)
	}
	for what, err := range map[string]error{
		"conflict": apierrors.NewConflict(resources.Pods.GroupResource(), "x", nil), "exists": apierrors.NewAlreadyExists(resources.Pods.GroupResource(), "x"),
	} {
		if next := d.Then([]controllers.Outcome{{Command: d.Commands[0], Err: err}, {Command: d.Commands[1]}}); len(next.Commands) != 0 {
			t.Errorf("%s: %v", what, controllertest.Lines(next.Commands))
		}
	}
	// Once the pods are there the condition goes.
	failed := replicaSet(0)
	failed.Status.Conditions = status.Conditions
	if got := controllertest.Find[*appsv1.ReplicaSet](t, reconcile(t, failed), "update replicasets/status default/web"); len(got.Status.Conditions) != 0 {
		t.Errorf("conditions %+v", got.Status.Conditions)
	}
}

func TestScalesDownThoseThatMatterLeast(t *testing.T) {
	cost := func(c string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: c} }
	}
	restarts := func(n int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
	}
	age := func(d time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-d)) }
	}
	readyFor := func(d time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) { controllertest.MakeReady(p, now.Add(-d)) }
	}
	for what, c := range map[string]struct{ goes, stays []func(*corev1.Pod) }{
		"unassigned":                  {nil, []func(*corev1.Pod){ready}},
		"pending":                     {[]func(*corev1.Pod){onNode("n1")}, []func(*corev1.Pod){ready}},
		"not ready":                   {[]func(*corev1.Pod){onNode("n1"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }}, []func(*corev1.Pod){ready}},
		"cheap":                       {[]func(*corev1.Pod){ready, cost("-5")}, []func(*corev1.Pod){ready}},
		"restarted":                   {[]func(*corev1.Pod){ready, restarts(3)}, []func(*corev1.Pod){ready}},
		"young":                       {[]func(*corev1.Pod){ready, age(time.Minute)}, []func(*corev1.Pod){ready}},
		"ready for a short time":      {[]func(*corev1.Pod){ready, readyFor(time.Second)}, []func(*corev1.Pod){ready, restarts(9)}},
		"cheap though ready for long": {[]func(*corev1.Pod){ready, cost("1")}, []func(*corev1.Pod){ready, cost("2"), readyFor(time.Second)}},
	} {
		t.Run(what, func(t *testing.T) {
			controllertest.Then(t, reconcile(t, replicaSet(1), pod("a", c.goes...), pod("b", c.stays...)), "delete pods default/a")
			controllertest.Then(t, reconcile(t, replicaSet(1), pod("b", c.goes...), pod("a", c.stays...)), "delete pods default/b")
		})
	}
	t.Run("doubled up", func(t *testing.T) {
		d := reconcile(t, replicaSet(2), pod("a", ready), pod("b", ready, onNode("n2")), pod("c", ready, onNode("n2"), func(p *corev1.Pod) { p.UID = "a-first" }))
		controllertest.Then(t, d, "delete pods default/c")
	})
}

func TestAdoptsAndReleases(t *testing.T) {
	fresh := replicaSet(2)
	fresh.Generation = 2
	controllertest.Then(t, reconcile(t, fresh, pod("mine", ready), pod("orphan", orphan, ready), pod("other", orphan, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} })),
		"update pods default/orphan")
	d := reconcile(t, replicaSet(1), pod("lost", ready, func(p *corev1.Pod) { p.Labels = nil }))
	if p := controllertest.Find[*corev1.Pod](t, d, "update pods default/lost"); len(p.OwnerReferences) != 0 {
		t.Errorf("still owned: %+v", p.OwnerReferences)
	}
	// A pod that becomes an orphan later is a key of its own.
	view := controllertest.Given(replicaSet(1), pod("mine", ready), pod("orphan", orphan, ready))
	o, _ := view.Get(resources.Pods.GroupResource(), "default", "orphan")
	keys := controllers.KeysOf(replicaset.New(), view, projections.Change{Event: domain.Event{Ref: o.Ref}, After: o})
	if len(keys) != 1 {
		t.Fatalf("keys %v", keys)
	}
	d = controllertest.When(t, replicaset.New(), view, keys[0], now)
	if p := controllertest.Find[*corev1.Pod](t, d, "update pods default/orphan"); metav1.GetControllerOf(p).UID != "rs" {
		t.Errorf("owners %+v", p.OwnerReferences)
	}
}

func TestStatus(t *testing.T) {
	rs := replicaSet(4)
	rs.Spec.Template.Labels["tier"] = "front"
	rs.Spec.MinReadySeconds = 30
	full := func(p *corev1.Pod) { p.Labels["tier"] = "front" }
	since := func(d time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) { controllertest.MakeReady(p, now.Add(-d)) }
	}
	d := reconcile(t, rs, pod("a", ready, full), pod("b", ready, since(10*time.Second)), pod("c", ready, since(20*time.Second)), pod("d"), pod("e", ready, deleting))
	got := controllertest.Find[*appsv1.ReplicaSet](t, d, "update replicasets/status default/web").Status
	want := "replicas 4 labelled 1 ready 3 available 1 terminating 1 generation 1"
	if s := fmt.Sprintf("replicas %d labelled %d ready %d available %d terminating %d generation %d", got.Replicas, got.FullyLabeledReplicas, got.ReadyReplicas,
		got.AvailableReplicas, *got.TerminatingReplicas, got.ObservedGeneration); s != want {
		t.Errorf("%s, want %s", s, want)
	}
	if want := now.Add(10 * time.Second); !d.Again.Equal(want) {
		t.Errorf("again at %v, want %v", d.Again, want)
	}
	rs.Status = got
	if again := reconcile(t, rs, pod("a", ready, full), pod("b", ready, since(10*time.Second)), pod("c", ready, since(20*time.Second)), pod("d"), pod("e", ready, deleting)); len(again.Commands) != 0 {
		t.Errorf("nothing changed, and %v", controllertest.Lines(again.Commands))
	}
}

func TestADeletedOwnerCreatesNothing(t *testing.T) {
	rs := replicaSet(2)
	at := metav1.NewTime(now)
	rs.DeletionTimestamp, rs.Finalizers = &at, []string{metav1.FinalizerDeleteDependents}
	controllertest.Then(t, reconcile(t, rs, pod("a", ready)), "update replicasets/status default/web")
}

func TestReplicationController(t *testing.T) {
	two := int32(2)
	rc := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "store", UID: "rc"},
		Spec: corev1.ReplicationControllerSpec{Replicas: &two, Selector: map[string]string{"app": "store"}, Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "store"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}},
	}
	c := controllertest.NewCluster(rc)
	sim := controllertest.NewSimulation(1, c, replication.New())
	if err := sim.Settle(1000, time.Minute); err != nil {
		t.Fatal(err, "\n", sim.Trace())
	}
	got, _ := projections.Get[*corev1.ReplicationController](c.Snapshot(), resources.ReplicationControllers.GroupResource(), "default", "store")
	if s := got.Status; s.Replicas != 2 || s.ReadyReplicas != 2 || s.AvailableReplicas != 2 || s.FullyLabeledReplicas != 2 || s.ObservedGeneration != got.Generation {
		t.Errorf("status %+v", s)
	}
	for p := range projections.List[*corev1.Pod](c.Snapshot(), resources.Pods.GroupResource(), "") {
		if ref := metav1.GetControllerOf(p); ref.Kind != "ReplicationController" || ref.APIVersion != "v1" {
			t.Errorf("owner %+v", ref)
		}
	}
}

func BenchmarkReconcileThousandPods(b *testing.B) {
	rs := replicaSet(1000)
	objects := []runtime.Object{rs}
	for i := range 1000 {
		objects = append(objects, pod(fmt.Sprintf("web-%04d", i), ready))
	}
	for i := range 5000 { // others', which must cost nothing
		objects = append(objects, pod(fmt.Sprintf("other-%04d", i), func(p *corev1.Pod) { p.OwnerReferences[0].UID = "other" }))
	}
	c := replicaset.New()
	d, err := c.Reconcile(controllertest.Given(objects...), web, now)
	if err != nil {
		b.Fatal(err)
	}
	objects[0] = d.Commands[0].Object
	view := controllertest.Given(objects...)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if d, err := c.Reconcile(view, web, now); err != nil || len(d.Commands) != 0 {
			b.Fatal(err, controllertest.Lines(d.Commands))
		}
	}
}
