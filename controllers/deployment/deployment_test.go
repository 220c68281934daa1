package deployment_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/deployment"
	"github.com/shiplog/shiplog/controllers/replicaset"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

var (
	now         = controllertest.Epoch
	replicaSets = resources.ReplicaSets.GroupResource()
)

const (
	revision = "deployment.kubernetes.io/revision"
	history  = "deployment.kubernetes.io/revision-history"
)

// settled makes a deployment with its sets come to rest.
func settled(t *testing.T, d *appsv1.Deployment) (*controllertest.Cluster, *controllertest.Simulation) {
	t.Helper()
	c := controllertest.NewCluster(d)
	sim := controllertest.NewSimulation(1, c, deployment.New(), replicaset.New())
	settle(t, sim)
	return c, sim
}

func settle(t *testing.T, sim *controllertest.Simulation) {
	t.Helper()
	if err := sim.Settle(10000, time.Minute); err != nil {
		t.Fatal(err, "\n", sim.Trace())
	}
}

func current(c *controllertest.Cluster) *appsv1.Deployment {
	d, _ := projections.Get[*appsv1.Deployment](c.Snapshot(), deployments, "default", "web")
	return d
}

// sets returns the sizes and annotations of the sets by image.
func sets(c *controllertest.Cluster) map[string]*appsv1.ReplicaSet {
	out := map[string]*appsv1.ReplicaSet{}
	for rs := range projections.List[*appsv1.ReplicaSet](c.Snapshot(), replicaSets, "") {
		out[rs.Spec.Template.Spec.Containers[0].Image] = rs
	}
	return out
}

func TestTheFirstSet(t *testing.T) {
	d := deploymentOf(3, intstr.FromInt32(1), intstr.FromInt32(0))
	d.UID, d.Generation = "dep", 1
	dec := controllertest.When(t, deployment.New(), controllertest.Given(d), web, now)
	if len(dec.Commands) != 1 {
		t.Fatalf("commands %v", controllertest.Lines(dec.Commands))
	}
	rs := dec.Commands[0].Object.(*appsv1.ReplicaSet)
	hash := rs.Labels["pod-template-hash"]
	if hash == "" || rs.Name != "web-"+hash || rs.Spec.Selector.MatchLabels["pod-template-hash"] != hash || rs.Spec.Template.Labels["pod-template-hash"] != hash || rs.Spec.Template.Labels["app"] != "web" {
		t.Errorf("hash %q of %+v", hash, rs)
	}
	if want := map[string]string{
		revision: "1", "kubernetes.io/change-cause": "first",
		"deployment.kubernetes.io/desired-replicas": "3", "deployment.kubernetes.io/max-replicas": "4",
	}; !maps.Equal(rs.Annotations, want) {
		t.Errorf("annotations %v", rs.Annotations)
	}
	if *rs.Spec.Replicas != 3 || metav1.GetControllerOf(rs).UID != "dep" {
		t.Errorf("%d replicas, owner %v", *rs.Spec.Replicas, rs.OwnerReferences)
	}
	next := dec.Then([]controllers.Outcome{{Command: dec.Commands[0]}})
	if len(next.Events) != 1 || next.Events[0].Message != "Scaled up replica set "+rs.Name+" from 0 to 3" || next.Events[0].Reason != "ScalingReplicaSet" {
		t.Errorf("events %+v", next.Events)
	}
	status := controllertest.Find[*appsv1.Deployment](t, next, "update deployments/status default/web")
	if status.Annotations[revision] != "1" || status.Status.Conditions[0].Reason != "NewReplicaSetCreated" {
		t.Errorf("status %+v", status)
	}
	failed := dec.Then([]controllers.Outcome{{Command: dec.Commands[0], Err: apierrors.NewForbidden(replicaSets, rs.Name, errors.New("quota"))}})
	status = controllertest.Find[*appsv1.Deployment](t, failed, "update deployments/status default/web")
	if c := status.Status.Conditions[0]; c.Reason != "ReplicaSetCreateError" || c.Status != corev1.ConditionFalse || failed.Events[0].Type != corev1.EventTypeWarning {
		t.Errorf("condition %+v, events %+v", c, failed.Events)
	}
}

func TestAHashThatIsTaken(t *testing.T) {
	d := deploymentOf(1, intstr.FromInt32(1), intstr.FromInt32(0))
	d.UID = "dep"
	first := controllertest.When(t, deployment.New(), controllertest.Given(d), web, now)
	name := first.Commands[0].Name
	foreign := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "foreign"}, Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"x": "y"}}}}
	dec := controllertest.When(t, deployment.New(), controllertest.Given(d, foreign), web, now)
	exists := apierrors.NewAlreadyExists(replicaSets, name)
	next := dec.Then([]controllers.Outcome{{Command: dec.Commands[0], Err: exists}})
	bumped := controllertest.Find[*appsv1.Deployment](t, next, "update deployments/status default/web")
	if bumped.Status.CollisionCount == nil || *bumped.Status.CollisionCount != 1 {
		t.Fatalf("collision count %v", bumped.Status.CollisionCount)
	}
	bumped.UID = "dep"
	if again := controllertest.When(t, deployment.New(), controllertest.Given(bumped, foreign), web, now); again.Commands[0].Name == name {
		t.Error("the same name is tried again")
	}
	// When the view does not show who has the name, the view is old: nothing is counted.
	if next := first.Then([]controllers.Outcome{{Command: first.Commands[0], Err: exists}}); len(next.Commands) != 0 {
		t.Errorf("commands %v", controllertest.Lines(next.Commands))
	}
}

func TestRevisionsAndUndo(t *testing.T) {
	c, sim := settled(t, deploymentOf(2, intstr.FromInt32(1), intstr.FromInt32(0)))
	if d := current(c); d.Annotations[revision] != "1" {
		t.Errorf("revision %q", d.Annotations[revision])
	}
	edit(c, func(d *appsv1.Deployment) {
		image("v2")(d)
		d.Annotations["kubernetes.io/change-cause"] = "second"
	})
	settle(t, sim)
	if s := sets(c); current(c).Annotations[revision] != "2" || s["v2"].Annotations["kubernetes.io/change-cause"] != "second" || s["v1"].Annotations["kubernetes.io/change-cause"] != "first" || *s["v1"].Spec.Replicas != 0 {
		t.Errorf("deployment %v, sets %v and %v", current(c).Annotations, s["v1"].Annotations, s["v2"].Annotations)
	}
	edit(c, image("v1")) // what kubectl rollout undo does
	settle(t, sim)
	if s := sets(c); current(c).Annotations[revision] != "3" || current(c).Annotations[history] != "1" || s["v1"].Annotations[revision] != "3" || s["v1"].Annotations[history] != "1" || s["v2"].Annotations[revision] != "2" {
		t.Errorf("deployment %v, sets %v and %v", current(c).Annotations, s["v1"].Annotations, s["v2"].Annotations)
	}
	for i := range 4 {
		edit(c, image(fmt.Sprint("w", i)))
		settle(t, sim)
	}
	if got := slices.Sorted(maps.Keys(sets(c))); !slices.Equal(got, []string{"w1", "w2", "w3"}) {
		t.Errorf("kept: %v", got)
	}
}

func TestPauseAndResume(t *testing.T) {
	c, sim := settled(t, deploymentOf(2, intstr.FromInt32(1), intstr.FromInt32(0)))
	reason := func() string {
		for _, cond := range current(c).Status.Conditions {
			if cond.Type == appsv1.DeploymentProgressing {
				return cond.Reason
			}
		}
		return ""
	}
	if reason() != "NewReplicaSetAvailable" {
		t.Errorf("reason %q", reason())
	}
	edit(c, func(d *appsv1.Deployment) { d.Spec.Paused = true; image("v2")(d) })
	settle(t, sim)
	if s := sets(c); len(s) != 1 || reason() != "DeploymentPaused" {
		t.Errorf("%d sets, reason %q", len(s), reason())
	}
	edit(c, scale(5))
	settle(t, sim)
	if s := sets(c); *s["v1"].Spec.Replicas != 5 {
		t.Errorf("a paused deployment is scaled to %d", *s["v1"].Spec.Replicas)
	}
	edit(c, func(d *appsv1.Deployment) { d.Spec.Paused = false })
	settle(t, sim)
	if s := sets(c); *s["v1"].Spec.Replicas != 0 || *s["v2"].Spec.Replicas != 5 || reason() != "NewReplicaSetAvailable" {
		t.Errorf("sets %d and %d, reason %q", *s["v1"].Spec.Replicas, *s["v2"].Spec.Replicas, reason())
	}
}

// In the middle of a rollout a new size is shared out in proportion.
// https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#proportional-scaling
func TestProportionalScaling(t *testing.T) {
	made := func(name, img string, n int32, age time.Duration) *appsv1.ReplicaSet {
		d := deploymentOf(10, intstr.FromInt32(3), intstr.FromInt32(2))
		d.UID = "dep"
		tpl := d.Spec.Template.DeepCopy()
		tpl.Spec.Containers[0].Image = img
		return &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}, CreationTimestamp: metav1.NewTime(now.Add(-age)),
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
				Annotations:     map[string]string{"deployment.kubernetes.io/desired-replicas": "10", "deployment.kubernetes.io/max-replicas": "13", revision: "1"},
			},
			Spec: appsv1.ReplicaSetSpec{Replicas: &n, Selector: d.Spec.Selector, Template: *tpl},
		}
	}
	for _, c := range []struct {
		to, old, fresh   int32
		wantOld, wantNew int32
	}{
		{15, 8, 5, 11, 7},
		{5, 8, 5, 5, 3},
		{10, 8, 5, 8, 5},
		{0, 8, 5, 0, 0},
	} {
		t.Run(fmt.Sprint(c.to), func(t *testing.T) {
			d := deploymentOf(c.to, intstr.FromInt32(3), intstr.FromInt32(2))
			d.UID, d.Spec.Paused = "dep", true
			objects := []runtime.Object{d, made("old", "v0", c.old, time.Hour), made("fresh", "v1", c.fresh, time.Minute)}
			dec := controllertest.When(t, deployment.New(), controllertest.Given(objects...), web, now)
			got := map[string]int32{"old": c.old, "fresh": c.fresh}
			for _, cmd := range dec.Commands {
				if rs, ok := cmd.Object.(*appsv1.ReplicaSet); ok {
					got[rs.Name] = *rs.Spec.Replicas
				}
			}
			if got["old"] != c.wantOld || got["fresh"] != c.wantNew {
				t.Errorf("old %d and new %d, want %d and %d", got["old"], got["fresh"], c.wantOld, c.wantNew)
			}
		})
	}
}

func TestAStuckRolloutTimesOut(t *testing.T) {
	c, sim := settled(t, deploymentOf(2, intstr.FromInt32(1), intstr.FromInt32(0)))
	sim.Broken = func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "broken" }
	edit(c, image("broken"))
	if err := sim.Settle(10000, 20*time.Minute); err != nil {
		t.Fatal(err, sim.Trace())
	}
	var got []string
	for _, cond := range current(c).Status.Conditions {
		got = append(got, fmt.Sprintf("%s=%s %s", cond.Type, cond.Status, cond.Reason))
	}
	if want := "Available=True MinimumReplicasAvailable, Progressing=False ProgressDeadlineExceeded"; strings.Join(got, ", ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	edit(c, image("v3"))
	settle(t, sim)
	if err := converged(c.Snapshot(), "v3"); err != nil {
		t.Error(err)
	}
}

func TestSetsAreAdoptedAndReleased(t *testing.T) {
	c, sim := settled(t, deploymentOf(2, intstr.FromInt32(1), intstr.FromInt32(0)))
	rs := sets(c)["v1"].DeepCopy()
	rs.ResourceVersion = ""
	rs.OwnerReferences = nil
	c.MustDo(controllers.Update(resources.ReplicaSets, rs))
	settle(t, sim)
	if owner := metav1.GetControllerOf(sets(c)["v1"]); owner == nil || owner.Name != "web" || len(sets(c)) != 1 {
		t.Errorf("owner %v of %d sets", owner, len(sets(c)))
	}
}

func TestADeploymentThatSelectsAllDoesNothing(t *testing.T) {
	d := deploymentOf(2, intstr.FromInt32(1), intstr.FromInt32(0))
	d.Spec.Selector, d.Generation = &metav1.LabelSelector{}, 1
	dec := controllertest.When(t, deployment.New(), controllertest.Given(d), web, now)
	controllertest.Then(t, dec, "update deployments/status default/web")
	if len(dec.Events) != 1 || dec.Events[0].Reason != "SelectingAll" {
		t.Errorf("events %+v", dec.Events)
	}
}
