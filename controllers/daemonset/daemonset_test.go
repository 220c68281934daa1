package daemonset_test

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/daemonset"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

var seed = flag.Uint64("seed", 0, "run the simulations with this seed only")

func seeds(n uint64) []uint64 {
	if *seed != 0 {
		return []uint64{*seed}
	}
	var out []uint64
	for i := range n {
		out = append(out, i+1)
	}
	return out
}

func daemonSet(surge, unavailable int32) *appsv1.DaemonSet {
	s, u, limit := intstr.FromInt32(surge), intstr.FromInt32(unavailable), int32(2)
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "log"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "log"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "log"}},
				Spec:       corev1.PodSpec{NodeSelector: map[string]string{"os": "linux"}, Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
			},
			UpdateStrategy:       appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: &s, MaxUnavailable: &u}},
			RevisionHistoryLimit: &limit,
		},
	}
}

func node(name string, edits ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"os": "linux"}}}
	for _, e := range edits {
		e(n)
	}
	return n
}

func get(c *controllertest.Cluster) *appsv1.DaemonSet {
	ds, _ := projections.Get[*appsv1.DaemonSet](c.Snapshot(), resources.DaemonSets.GroupResource(), "default", "log")
	return ds
}

func edit(c *controllertest.Cluster, change func(*appsv1.DaemonSet)) {
	ds := get(c).DeepCopy()
	ds.ResourceVersion = ""
	change(ds)
	c.MustDo(controllers.Update(resources.DaemonSets, ds))
}

// where returns "<node>=<image>" for each pod that is not going, in order.
func where(view projections.Reader) []string {
	var out []string
	for p := range projections.List[*corev1.Pod](view, pods.Resource, "") {
		if pods.Active(p) {
			out = append(out, p.Spec.NodeName+"="+p.Spec.Containers[0].Image)
		}
	}
	slices.Sort(out)
	return out
}

func TestOnEveryNodeThatItIsFor(t *testing.T) {
	taint := func(effect corev1.TaintEffect) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: effect}} }
	}
	c := controllertest.NewCluster(daemonSet(0, 1), node("a"), node("b"), node("windows", func(n *corev1.Node) { n.Labels = nil }),
		node("tainted", taint(corev1.TaintEffectNoSchedule)), node("cordoned", func(n *corev1.Node) {
			n.Spec.Unschedulable = true
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}}
		}))
	sim := controllertest.NewSimulation(1, c, daemonset.New())
	settle := func(want ...string) {
		t.Helper()
		if err := sim.Settle(2000, time.Minute); err != nil {
			t.Fatal(err, "\n", sim.Trace())
		}
		if got := where(c.Snapshot()); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		if s := get(c).Status; int(s.DesiredNumberScheduled) != len(want) || int(s.NumberAvailable) != len(want) || int(s.UpdatedNumberScheduled) != len(want) || s.NumberUnavailable != 0 || s.ObservedGeneration != get(c).Generation {
			t.Errorf("status %+v", s)
		}
	}
	settle("a=v1", "b=v1", "cordoned=v1")
	c.MustCreate(node("d"))
	settle("a=v1", "b=v1", "cordoned=v1", "d=v1")
	evicting := node("b", taint(corev1.TaintEffectNoExecute))
	c.MustDo(controllers.Update(resources.Nodes, evicting))
	settle("a=v1", "cordoned=v1", "d=v1")
	var p *corev1.Pod
	for p = range projections.List[*corev1.Pod](c.Snapshot(), pods.Resource, "") {
	}
	failed := p.DeepCopy()
	failed.ResourceVersion, failed.Status.Phase = "", corev1.PodFailed
	c.MustDo(controllers.UpdateStatus(resources.Pods, failed))
	settle("a=v1", "cordoned=v1", "d=v1")
	if _, ok := c.Snapshot().Get(pods.Resource, p.Namespace, p.Name); ok {
		t.Error("the failed pod is still there")
	}
}

func TestRollingUpdates(t *testing.T) {
	for _, bounds := range []struct{ surge, unavailable int32 }{{0, 1}, {0, 2}, {1, 0}, {2, 0}} {
		for _, seed := range seeds(6) {
			t.Run(fmt.Sprintf("%d,%d/seed=%d", bounds.surge, bounds.unavailable, seed), func(t *testing.T) {
				c := controllertest.NewCluster(daemonSet(bounds.surge, bounds.unavailable))
				for i := range 5 {
					c.MustCreate(node(fmt.Sprint("n", i)))
				}
				sim := controllertest.NewSimulation(seed, c, daemonset.New())
				sim.Faults = controllertest.Faults{Conflict: 10, Stale: 2, Crash: 40}
				settle := func(image string) {
					t.Helper()
					if err := sim.Settle(5000, time.Minute); err != nil {
						t.Fatalf("%v\n%s\nreplay with -seed %d", err, sim.Trace(), seed)
					}
					var want []string
					for i := range 5 {
						want = append(want, fmt.Sprintf("n%d=%s", i, image))
					}
					if got := where(c.Snapshot()); !slices.Equal(got, want) {
						t.Fatalf("%v, want %v\n%s\nreplay with -seed %d", got, want, sim.Trace(), seed)
					}
				}
				settle("v1")
				sim.Check = func(view projections.Reader) error {
					ready := map[string]bool{}
					for p := range projections.List[*corev1.Pod](view, pods.Resource, "") {
						if pods.Active(p) && pods.Ready(p) {
							ready[p.Spec.NodeName] = true
						}
					}
					if len(ready) < 5-int(bounds.unavailable) {
						return fmt.Errorf("available on %d nodes of 5", len(ready))
					}
					if n := len(where(view)); n > 5+int(bounds.surge) {
						return fmt.Errorf("%d pods on 5 nodes", n)
					}
					return nil
				}
				for _, v := range []string{"v2", "v3", "v1"} {
					edit(c, func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.Containers[0].Image = v })
					settle(v)
				}
				revisions := map[int64]bool{}
				for r := range projections.List[*appsv1.ControllerRevision](c.Snapshot(), resources.ControllerRevisions.GroupResource(), "") {
					revisions[r.Revision] = true
				}
				if len(revisions) != 3 || !revisions[4] || revisions[1] {
					t.Errorf("revisions %v, want 2, 3 and 4", revisions)
				}
			})
		}
	}
}

func TestOnDelete(t *testing.T) {
	ds := daemonSet(0, 1)
	ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
	c := controllertest.NewCluster(ds, node("a"), node("b"))
	sim := controllertest.NewSimulation(1, c, daemonset.New())
	settle := func(want ...string) {
		t.Helper()
		if err := sim.Settle(2000, time.Minute); err != nil {
			t.Fatal(err, "\n", sim.Trace())
		}
		if got := where(c.Snapshot()); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	settle("a=v1", "b=v1")
	edit(c, func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.Containers[0].Image = "v2" })
	settle("a=v1", "b=v1")
	for p := range projections.List[*corev1.Pod](c.Snapshot(), pods.Resource, "") {
		if p.Spec.NodeName == "a" {
			c.MustDo(commands.Command{Verb: commands.Delete, Resource: resources.Pods, Namespace: p.Namespace, Name: p.Name})
		}
	}
	settle("a=v2", "b=v1")
}
