package deployment_test

import (
	"flag"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/deployment"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/replicaset"
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

var (
	deployments = resources.Deployments.GroupResource()
	web         = controllers.KeyOf(deployments, "default", "web")
)

func deploymentOf(replicas int32, surge, unavailable intstr.IntOrString) *appsv1.Deployment {
	deadline, history := int32(600), int32(2)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Annotations: map[string]string{"kubernetes.io/change-cause": "first"}},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
			},
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable},
			},
			ProgressDeadlineSeconds: &deadline,
			RevisionHistoryLimit:    &history,
		},
	}
}

func edit(c *controllertest.Cluster, change func(*appsv1.Deployment)) {
	d, ok := projections.Get[*appsv1.Deployment](c.Snapshot(), deployments, "default", "web")
	if !ok {
		panic("the deployment is gone")
	}
	next := d.DeepCopy()
	next.ResourceVersion = ""
	change(next)
	c.MustDo(controllers.Update(resources.Deployments, next))
}

func image(v string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = v }
}

func scale(n int32) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Replicas = &n }
}

func tally(view projections.Reader) (active, available int) {
	for p := range projections.List[*corev1.Pod](view, pods.Resource, "") {
		if pods.Active(p) {
			active++
			if pods.Ready(p) {
				available++
			}
		}
	}
	return active, available
}

// converged says what is wrong with the final state.
func converged(view projections.Reader, wantImage string) error {
	d, _ := projections.Get[*appsv1.Deployment](view, deployments, "default", "web")
	n := *d.Spec.Replicas
	s := d.Status
	if s.Replicas != n || s.UpdatedReplicas != n || s.AvailableReplicas != n || s.ReadyReplicas != n || s.UnavailableReplicas != 0 || s.ObservedGeneration != d.Generation {
		return fmt.Errorf("status %+v of %d", s, n)
	}
	alive := map[string]bool{}
	for rs := range projections.List[*appsv1.ReplicaSet](view, resources.ReplicaSets.GroupResource(), "") {
		alive[string(rs.UID)] = true
	}
	count := int32(0)
	for p := range projections.List[*corev1.Pod](view, pods.Resource, "") {
		ref := metav1.GetControllerOf(p)
		if ref == nil || !alive[string(ref.UID)] {
			return fmt.Errorf("pod %s is an orphan", p.Name)
		}
		if p.Spec.Containers[0].Image != wantImage {
			return fmt.Errorf("pod %s runs %s", p.Name, p.Spec.Containers[0].Image)
		}
		count++
	}
	if count != n {
		return fmt.Errorf("%d pods of %d", count, n)
	}
	return nil
}

// A rolling update, with conflicts, stale views and crashes, never has more pods than maxSurge allows nor fewer available ones
// than maxUnavailable allows, and ends with what was asked for.
func TestRollingUpdatesKeepTheirBounds(t *testing.T) {
	for _, bounds := range []struct {
		replicas           int32
		surge, unavailable intstr.IntOrString
		maxPods, minReady  int
	}{
		{5, intstr.FromInt32(1), intstr.FromInt32(0), 6, 5},
		{5, intstr.FromInt32(0), intstr.FromInt32(1), 5, 4},
		{8, intstr.FromString("25%"), intstr.FromString("25%"), 10, 6},
		{3, intstr.FromString("10%"), intstr.FromString("10%"), 4, 3},
		{10, intstr.FromInt32(3), intstr.FromInt32(2), 13, 8},
	} {
		for _, seed := range seeds(6) {
			t.Run(fmt.Sprintf("%d+%s-%s/seed=%d", bounds.replicas, bounds.surge.String(), bounds.unavailable.String(), seed), func(t *testing.T) {
				c := controllertest.NewCluster()
				sim := controllertest.NewSimulation(seed, c, deployment.New(), replicaset.New())
				sim.Faults = controllertest.Faults{Conflict: 10, Stale: 2, Crash: 40}
				fail := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatalf("%v\n%s\nreplay with -seed %d", err, sim.Trace(), seed)
					}
				}
				c.MustCreate(deploymentOf(bounds.replicas, bounds.surge, bounds.unavailable))
				fail(sim.Settle(20000, time.Minute))
				fail(converged(c.Snapshot(), "v1"))
				sim.Check = func(view projections.Reader) error {
					active, available := tally(view)
					if active > bounds.maxPods {
						return fmt.Errorf("%d pods, more than %d", active, bounds.maxPods)
					}
					if available < bounds.minReady {
						return fmt.Errorf("%d pods available, fewer than %d", available, bounds.minReady)
					}
					return nil
				}
				edit(c, image("v2"))
				fail(sim.Steps(30))
				edit(c, image("v3")) // in the middle of a rollout
				fail(sim.Settle(20000, time.Minute))
				fail(converged(c.Snapshot(), "v3"))
				edit(c, image("v1")) // back to a set that is there
				fail(sim.Settle(20000, time.Minute))
				fail(converged(c.Snapshot(), "v1"))
			})
		}
	}
}

// Whatever is asked for in whatever order, with commands whose answers are lost: the last that was asked for is what there is.
func TestDeploymentsConverge(t *testing.T) {
	for _, seed := range seeds(15) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			c := controllertest.NewCluster()
			sim := controllertest.NewSimulation(seed, c, deployment.New(), replicaset.New())
			sim.Faults = controllertest.Faults{Conflict: 8, Lost: 15, Stale: 2, Crash: 30}
			fail := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("%v\n%s\nreplay with -seed %d", err, sim.Trace(), seed)
				}
			}
			c.MustCreate(deploymentOf(4, intstr.FromInt32(1), intstr.FromInt32(1)))
			last := "v1"
			for i := range 8 {
				fail(sim.Steps(int(seed*7+uint64(i)*13) % 60))
				switch (int(seed) + i) % 5 {
				case 0:
					edit(c, scale(int32(1+(int(seed)+i)%9)))
				case 1:
					edit(c, func(d *appsv1.Deployment) { d.Spec.Paused = !d.Spec.Paused })
				case 2:
					edit(c, func(d *appsv1.Deployment) {
						if i%2 == 0 {
							d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
						} else {
							one := intstr.FromInt32(1)
							d.Spec.Strategy = appsv1.DeploymentStrategy{
								Type:          appsv1.RollingUpdateDeploymentStrategyType,
								RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &one, MaxUnavailable: &one},
							}
						}
					})
				default:
					last = fmt.Sprintf("v%d", i)
					edit(c, image(last))
				}
			}
			edit(c, func(d *appsv1.Deployment) { d.Spec.Paused = false })
			fail(sim.Settle(30000, time.Minute))
			fail(converged(c.Snapshot(), last))
			sets := 0
			for range c.Snapshot().List(resources.ReplicaSets.GroupResource(), "") {
				sets++
			}
			if sets > 3 {
				t.Errorf("%d replica sets are kept, of 1 and a history of 2", sets)
			}
		})
	}
}

// Recreate never lets pods of two templates run at once.
func TestRecreate(t *testing.T) {
	for _, seed := range seeds(6) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			c := controllertest.NewCluster()
			sim := controllertest.NewSimulation(seed, c, deployment.New(), replicaset.New())
			sim.Faults = controllertest.Faults{Conflict: 10, Stale: 2, Crash: 40}
			d := deploymentOf(3, intstr.FromInt32(1), intstr.FromInt32(0))
			d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
			c.MustCreate(d)
			sim.Check = func(view projections.Reader) error {
				images := map[string]bool{}
				for p := range projections.List[*corev1.Pod](view, pods.Resource, "") {
					images[p.Spec.Containers[0].Image] = true
				}
				if len(images) > 1 {
					return fmt.Errorf("pods of %d templates at once: %v", len(images), images)
				}
				return nil
			}
			for _, v := range []string{"v1", "v2", "v3"} {
				edit(c, image(v))
				if err := sim.Settle(20000, time.Minute); err != nil {
					t.Fatalf("%v\n%s\nreplay with -seed %d", err, sim.Trace(), seed)
				}
				if err := converged(c.Snapshot(), v); err != nil {
					t.Fatalf("%v\n%s\nreplay with -seed %d", err, sim.Trace(), seed)
				}
			}
		})
	}
}

// The same seed gives the same run, step by step: a failure can be looked at as often as one likes.
func TestASeedReplays(t *testing.T) {
	run := func() string {
		c := controllertest.NewCluster()
		sim := controllertest.NewSimulation(7, c, deployment.New(), replicaset.New())
		sim.Faults = controllertest.Faults{Conflict: 8, Lost: 15, Stale: 2, Crash: 30}
		c.MustCreate(deploymentOf(6, intstr.FromInt32(2), intstr.FromInt32(1)))
		if err := sim.Steps(150); err != nil {
			t.Fatal(err)
		}
		edit(c, image("v2"))
		if err := sim.Settle(20000, time.Minute); err != nil {
			t.Fatal(err)
		}
		trace := sim.Trace()
		for _, cmd := range c.Commands() {
			trace += "\n" + controllertest.Line(cmd)
		}
		return trace
	}
	first := run()
	for range 5 {
		if again := run(); again != first {
			t.Fatalf("another run of the same seed:\n%s\nthe first:\n%s", again, first)
		}
	}
}
