package statefulset_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/garbage"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/controllers/statefulset"
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

func statefulSet(n int32, edits ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	limit := int32(2)
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &n, ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "db"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
			},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}},
			UpdateStrategy:       appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType},
			RevisionHistoryLimit: &limit,
		},
	}
	for _, e := range edits {
		e(s)
	}
	return s
}

func get(c *controllertest.Cluster) *appsv1.StatefulSet {
	s, _ := projections.Get[*appsv1.StatefulSet](c.Snapshot(), resources.StatefulSets.GroupResource(), "default", "db")
	return s
}

func edit(c *controllertest.Cluster, change func(*appsv1.StatefulSet)) {
	s := get(c).DeepCopy()
	s.ResourceVersion = ""
	change(s)
	c.MustDo(controllers.Update(resources.StatefulSets, s))
}

func image(v string) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = v }
}

func scale(n int32) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Spec.Replicas = &n }
}

func there(view projections.Reader) string {
	var out []string
	for p := range projections.List[*corev1.Pod](view, pods.Resource, "") {
		out = append(out, p.Name+"="+p.Spec.Containers[0].Image)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// Ordered pods come one after the other, each when the one before is ready, and go in the opposite order; a rollout replaces one
// at a time from the top.
func TestInOrder(t *testing.T) {
	for _, seed := range seeds(25) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			c := controllertest.NewCluster(statefulSet(3))
			sim := controllertest.NewSimulation(seed, c, statefulset.New())
			sim.Faults = controllertest.Faults{Conflict: 10, Lost: 15, Stale: 2, Crash: 40}
			settle := func(want string) {
				t.Helper()
				if err := sim.Settle(5000, time.Minute); err != nil {
					t.Fatalf("%v\n%s\nreplay with -seed %d", err, sim.Trace(), seed)
				}
				if got := there(c.Snapshot()); got != want {
					t.Fatalf("%s, want %s\n%s\nreplay with -seed %d", got, want, sim.Trace(), seed)
				}
				s := get(c).Status
				n := *get(c).Spec.Replicas
				if s.Replicas != n || s.ReadyReplicas != n || s.AvailableReplicas != n || s.UpdatedReplicas != n || s.CurrentReplicas != n || s.CurrentRevision != s.UpdateRevision {
					t.Fatalf("status %+v", s)
				}
			}
			sim.Check = func(view projections.Reader) error {
				names := map[string]*corev1.Pod{}
				for p := range projections.List[*corev1.Pod](view, pods.Resource, "") {
					names[p.Name] = p
				}
				for i := 1; i < 5; i++ {
					p, before := names[fmt.Sprint("db-", i)], names[fmt.Sprint("db-", i-1)]
					if p != nil && before == nil {
						return fmt.Errorf("%s is there and the one before is not", p.Name)
					}
				}
				return nil
			}
			settle("db-0=v1 db-1=v1 db-2=v1")
			edit(c, scale(5))
			settle("db-0=v1 db-1=v1 db-2=v1 db-3=v1 db-4=v1")
			edit(c, scale(2))
			settle("db-0=v1 db-1=v1")
			edit(c, scale(3))
			settle("db-0=v1 db-1=v1 db-2=v1")
			sim.Check = func(view projections.Reader) error {
				up := 0
				for p := range projections.List[*corev1.Pod](view, pods.Resource, "") {
					if pods.Active(p) && pods.Ready(p) {
						up++
					}
				}
				if up < 2 {
					return fmt.Errorf("%d of 3 are up", up)
				}
				return nil
			}
			edit(c, image("v2"))
			settle("db-0=v2 db-1=v2 db-2=v2")
			edit(c, image("v1"))
			settle("db-0=v1 db-1=v1 db-2=v1")
			claims := 0
			for range c.Snapshot().List(resources.PersistentVolumeClaims.GroupResource(), "") {
				claims++
			}
			if claims != 5 {
				t.Errorf("%d claims; those of pods that were scaled away are kept", claims)
			}
		})
	}
}

func TestAPod(t *testing.T) {
	c := controllertest.NewCluster(statefulSet(1, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 7} }))
	sim := controllertest.NewSimulation(1, c, statefulset.New())
	if err := sim.Settle(1000, time.Minute); err != nil {
		t.Fatal(err)
	}
	p, ok := projections.Get[*corev1.Pod](c.Snapshot(), pods.Resource, "default", "db-7")
	if !ok {
		t.Fatalf("pods: %s", there(c.Snapshot()))
	}
	if p.Spec.Hostname != "db-7" || p.Spec.Subdomain != "db" || p.Labels["statefulset.kubernetes.io/pod-name"] != "db-7" || p.Labels["apps.kubernetes.io/pod-index"] != "7" ||
		p.Labels["controller-revision-hash"] != get(c).Status.UpdateRevision || p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-db-7" {
		t.Errorf("pod %+v", p)
	}
	if _, ok := c.Snapshot().Get(resources.PersistentVolumeClaims.GroupResource(), "default", "data-db-7"); !ok {
		t.Error("no claim")
	}
}

func TestParallelPartitionAndOnDelete(t *testing.T) {
	c := controllertest.NewCluster(statefulSet(3, func(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }))
	d := controllertest.When(t, statefulset.New(), c.Snapshot(), controllers.KeyOf(resources.StatefulSets.GroupResource(), "default", "db"), controllertest.Epoch)
	c.MustDo(d.Commands[0]) // the revision
	d = controllertest.When(t, statefulset.New(), c.Snapshot(), controllers.KeyOf(resources.StatefulSets.GroupResource(), "default", "db"), controllertest.Epoch)
	if got := strings.Join(controllertest.Lines(append(d.Commands, d.Then(nil).Commands...)), ", "); strings.Count(got, "create pods") != 3 {
		t.Errorf("in parallel: %s", got)
	}
	sim := controllertest.NewSimulation(1, c, statefulset.New())
	settle := func(want string) {
		t.Helper()
		if err := sim.Settle(2000, time.Minute); err != nil {
			t.Fatal(err, "\n", sim.Trace())
		}
		if got := there(c.Snapshot()); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	settle("db-0=v1 db-1=v1 db-2=v1")
	two := int32(2)
	edit(c, func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &two}
		image("v2")(s)
	})
	settle("db-0=v1 db-1=v1 db-2=v2")
	for _, name := range []string{"db-0", "db-2"} {
		p, _ := projections.Get[*corev1.Pod](c.Snapshot(), pods.Resource, "default", name)
		c.MustDo(controllers.Delete(resources.Pods, p))
	}
	settle("db-0=v1 db-1=v1 db-2=v2")
	edit(c, func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
	})
	settle("db-0=v1 db-1=v1 db-2=v2")
	p, _ := projections.Get[*corev1.Pod](c.Snapshot(), pods.Resource, "default", "db-1")
	c.MustDo(controllers.Delete(resources.Pods, p))
	settle("db-0=v1 db-1=v2 db-2=v2")
}

func TestAPodThatEndedIsReplaced(t *testing.T) {
	c := controllertest.NewCluster(statefulSet(1))
	sim := controllertest.NewSimulation(1, c, statefulset.New())
	uid := types.UID("")
	for range 2 {
		if err := sim.Settle(1000, time.Minute); err != nil {
			t.Fatal(err)
		}
		p, ok := projections.Get[*corev1.Pod](c.Snapshot(), pods.Resource, "default", "db-0")
		if !ok || p.UID == uid || !pods.Ready(p) {
			t.Fatalf("pod %+v", p)
		}
		uid = p.UID
		failed := p.DeepCopy()
		failed.Status.Phase = corev1.PodFailed
		c.MustDo(controllers.UpdateStatus(resources.Pods, failed))
	}
}

func TestClaimsThatGoWithTheirPods(t *testing.T) {
	c := controllertest.NewCluster(statefulSet(3, func(s *appsv1.StatefulSet) {
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
			WhenDeleted: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
		}
	}))
	sim := controllertest.NewSimulation(1, c, statefulset.New(), garbage.New(c.Kinds()))
	settle := func(want string) {
		t.Helper()
		if err := sim.Settle(3000, time.Minute); err != nil {
			t.Fatal(err, "\n", sim.Trace())
		}
		var got []string
		for o := range c.Snapshot().List(resources.PersistentVolumeClaims.GroupResource(), "") {
			got = append(got, o.Ref.Name)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
	settle("data-db-0 data-db-1 data-db-2")
	edit(c, scale(1))
	settle("data-db-0")
	c.MustDo(controllers.Delete(resources.StatefulSets, get(c)))
	settle("")
}
