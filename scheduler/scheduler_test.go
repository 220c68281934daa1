package scheduler_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/internal/clustertest"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/scheduler"
)

var (
	podsResource   = domain.Resource{Resource: "pods"}
	eventsResource = domain.Resource{Resource: "events"}
)

func testNode(name, cpu string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}},
	}
}

func testPod(name, cpu string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{SchedulerName: scheduler.DefaultName, Containers: []corev1.Container{{
			Name: "c", Image: "img", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
		}}},
	}
}

// start runs a scheduler until the test ends.
func start(t *testing.T, c *clustertest.Cluster, cfg scheduler.Config) {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- scheduler.New(c, c, cfg).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func nodeOf(r projections.Reader, name string) string {
	p, ok := projections.Get[*corev1.Pod](r, podsResource, "default", name)
	if !ok {
		return ""
	}
	return p.Spec.NodeName
}

func bound(name string) func(projections.Reader) bool {
	return func(r projections.Reader) bool { return nodeOf(r, name) != "" }
}

func create(t *testing.T, c *clustertest.Cluster, pod *corev1.Pod) {
	t.Helper()
	_, err := c.Do(t.Context(), commands.Command{
		Verb: commands.Create, Resource: corev1.SchemeGroupVersion.WithResource("pods"), Namespace: pod.Namespace, Name: pod.Name, Object: pod, Correlation: "request-of-" + pod.Name,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestABindingCarriesItsReasonsAndItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(testNode("n1", "4"), testNode("n2", "1"))
		start(t, c, scheduler.Config{})
		synctest.Wait()
		create(t, c, testPod("web", "2"))
		synctest.Wait()
		if event(c.Snapshot(), "Scheduled", "Successfully assigned default/web to n1") == nil {
			t.Error("no Event says that the pod was scheduled")
		}
		events := c.Events()
		var created, binding domain.Event
		for _, e := range events {
			switch {
			case e.Ref.Name == "web" && e.Op == domain.Created:
				created = e
			case e.Command.Subresource == "binding":
				binding = e
			}
		}
		if binding.Type != "PodBound" || binding.Cause == nil || binding.Cause.ID != created.ID || binding.Cause.Position != created.Position ||
			binding.Correlation != "request-of-web" || binding.Actor.User != "system:kube-scheduler" {
			t.Errorf("binding: %+v", binding)
		}
		var reasons scheduler.Reasons
		if err := json.Unmarshal(binding.Evidence, &reasons); err != nil {
			t.Fatal(err)
		}
		if reasons.Node != "n1" || reasons.Feasible != 1 || len(reasons.Refused) != 1 || reasons.Refused[0].Reason != "Insufficient cpu" || reasons.Refused[0].Nodes[0] != "n2" {
			t.Errorf("reasons: %+v", reasons)
		}
	})
}

func event(r projections.Reader, reason, message string) *corev1.Event {
	for e := range projections.List[*corev1.Event](r, eventsResource, "default") {
		if e.Reason == reason && e.Message == message {
			return e
		}
	}
	return nil
}

func TestPodsThatAreNotForThisScheduler(t *testing.T) {
	gated, foreign, other := testPod("gated", "1"), testPod("foreign", "1"), testPod("ours", "1")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "wait"}}
	foreign.Spec.SchedulerName = "another"
	c := clustertest.New(testNode("n1", "8"), gated, foreign, other)
	start(t, c, scheduler.Config{})
	c.Wait(t, "our pod to be bound", bound("ours"))
	gated = gated.DeepCopy()
	gated.Spec.SchedulingGates = nil
	c.Put(gated)
	c.Wait(t, "the pod to be bound once its gate is gone", bound("gated"))
	if n := nodeOf(c.Snapshot(), "foreign"); n != "" {
		t.Errorf("another scheduler's pod was bound to %s", n)
	}
}

func unschedulable(name string) func(projections.Reader) bool {
	return func(r projections.Reader) bool {
		p, ok := projections.Get[*corev1.Pod](r, podsResource, "default", name)
		if !ok {
			return false
		}
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse && cond.Reason == corev1.PodReasonUnschedulable && cond.Message != "" {
				return true
			}
		}
		return false
	}
}

func TestAPodThatNoNodeTakesIsTriedAgainWhenSomethingChanges(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*clustertest.Cluster)
	}{
		{"a node comes", func(c *clustertest.Cluster) { c.Put(testNode("n2", "4")) }},
		{"the node grows", func(c *clustertest.Cluster) { c.Put(testNode("n1", "8")) }},
		{"a pod goes", func(c *clustertest.Cluster) { c.Remove(podsResource, "default", "big") }},
		{"a pod ends", func(c *clustertest.Cluster) {
			p, _ := projections.Get[*corev1.Pod](c.Snapshot(), podsResource, "default", "big")
			p = p.DeepCopy()
			p.Status.Phase = corev1.PodSucceeded
			c.Put(p)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				big := testPod("big", "2")
				big.Spec.NodeName = "n1"
				c := clustertest.New(testNode("n1", "2"), big)
				start(t, c, scheduler.Config{})
				create(t, c, testPod("web", "2"))
				synctest.Wait()
				if !unschedulable("web")(c.Snapshot()) {
					t.Fatal("the pod does not say why it cannot be scheduled")
				}
				if event(c.Snapshot(), "FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.") == nil {
					t.Fatal("no Event says why")
				}
				before := len(c.Done())
				time.Sleep(time.Hour) // of the test's own clock: nothing happens without a change
				synctest.Wait()
				if n := len(c.Done()); n != before {
					t.Errorf("%d commands although nothing changed", n-before)
				}
				tc.change(c)
				synctest.Wait()
				if nodeOf(c.Snapshot(), "web") == "" {
					t.Error("the pod was not tried again")
				}
				for _, e := range c.Events() {
					if e.Command.Subresource == "binding" && e.Cause.Position <= 3 {
						t.Errorf("the binding's cause is position %d, not what made room", e.Cause.Position)
					}
				}
			})
		})
	}
}

func TestAHeartbeatOfANodeWakesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(testNode("n1", "1"))
		start(t, c, scheduler.Config{})
		create(t, c, testPod("web", "2"))
		synctest.Wait()
		before := len(c.Done())
		time.Sleep(time.Minute)
		beat := testNode("n1", "1")
		beat.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Now()}}
		c.Put(beat)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(c.Done()); n != before {
			t.Errorf("%d commands after a heartbeat", n-before)
		}
	})
}

func TestARefusedBindingIsTriedAgain(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
	}{
		{"conflict", apierrors.NewConflict(podsResource, "web", fmt.Errorf("stale"))},
		{"not found", apierrors.NewNotFound(podsResource, "web")},
		{"unavailable", apierrors.NewServiceUnavailable("the log is away")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := clustertest.New(testNode("n1", "1"))
				var left atomic.Int32
				left.Store(2)
				c.Refuse(func(cmd commands.Command) error {
					if cmd.Subresource == "binding" && left.Add(-1) >= 0 {
						return tc.err
					}
					return nil
				})
				start(t, c, scheduler.Config{})
				create(t, c, testPod("web", "1"))
				time.Sleep(time.Minute)
				synctest.Wait()
				if nodeOf(c.Snapshot(), "web") != "n1" {
					t.Fatal("the binding was not tried again, or the assumption was kept")
				}
			})
		})
	}
}

func TestOneConflictDoesNotLeakRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(testNode("n1", "1"))
		c.Refuse(func(cmd commands.Command) error {
			if cmd.Subresource == "binding" && cmd.Name == "gone" {
				return apierrors.NewNotFound(podsResource, "gone")
			}
			return nil
		})
		start(t, c, scheduler.Config{})
		create(t, c, testPod("gone", "1"))
		synctest.Wait()
		c.Remove(podsResource, "default", "gone")
		create(t, c, testPod("web", "1"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if nodeOf(c.Snapshot(), "web") != "n1" {
			t.Fatal("the room of a pod that is gone is still taken")
		}
	})
}

func TestItStartsAgainWhenItFellBehind(t *testing.T) {
	c := clustertest.New(testNode("n1", "8"))
	start(t, c, scheduler.Config{})
	for i := range 5 {
		create(t, c, testPod(fmt.Sprintf("before-%d", i), "100m"))
		c.Forget()
		create(t, c, testPod(fmt.Sprintf("after-%d", i), "100m"))
	}
	for i := range 5 {
		c.Wait(t, "a pod from before", bound(fmt.Sprintf("before-%d", i)))
		c.Wait(t, "a pod from after", bound(fmt.Sprintf("after-%d", i)))
	}
}

// leader leads when it is told to.
type leader struct{ lead chan struct{} }

func (l leader) Lead(ctx context.Context, run func(context.Context, uint64)) error {
	select {
	case <-l.lead:
		run(ctx, 0)
	case <-ctx.Done():
	}
	return ctx.Err()
}

func TestOnlyTheLeaderPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(testNode("n1", "8"), testPod("web", "1"))
		l := leader{make(chan struct{})}
		start(t, c, scheduler.Config{Leader: l})
		synctest.Wait()
		if len(c.Done()) > 0 {
			t.Fatal("it acted before it led")
		}
		close(l.lead)
		synctest.Wait()
		if nodeOf(c.Snapshot(), "web") != "n1" {
			t.Fatal("it does not act although it leads")
		}
	})
}

// TestManyPodsUnderRefusals is the harness of the whole: many pods, a third of all bindings refused, the past forgotten now and
// then. In the end every pod is bound and no node holds more than fits.
func TestManyPodsUnderRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New()
		for i := range 20 {
			c.Put(testNode(fmt.Sprintf("n%d", i), "2"))
		}
		var n atomic.Int64
		c.Refuse(func(cmd commands.Command) error {
			if cmd.Subresource == "binding" && n.Add(1)%3 == 0 {
				return apierrors.NewConflict(podsResource, cmd.Name, fmt.Errorf("refused"))
			}
			return nil
		})
		start(t, c, scheduler.Config{})
		const pods = 400
		for i := range pods {
			create(t, c, testPod(fmt.Sprintf("p%d", i), "100m"))
			if i%100 == 99 {
				c.Forget()
			}
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		taken := map[string]int{}
		for i := range pods {
			name := fmt.Sprintf("p%d", i)
			node := nodeOf(c.Snapshot(), name)
			if node == "" {
				p, _ := projections.Get[*corev1.Pod](c.Snapshot(), podsResource, "default", name)
				t.Fatalf("%s is not bound: %+v", name, p.Status)
			}
			taken[node]++
		}
		for node, n := range taken {
			if n > 20 || !strings.HasPrefix(node, "n") {
				t.Errorf("%s holds %d pods", node, n)
			}
		}
	})
}

func TestPreemptionFromEndToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(testNode("n1", "2"), testPod("victim", "2"))
		var left atomic.Int32
		left.Store(1)
		c.Refuse(func(cmd commands.Command) error { // the first try to delete fails
			if cmd.Verb == commands.Delete && cmd.Actor.User == "system:kube-scheduler" && left.Add(-1) >= 0 {
				return apierrors.NewServiceUnavailable("the log is away")
			}
			return nil
		})
		start(t, c, scheduler.Config{})
		synctest.Wait()
		important, nobody := testPod("important", "2"), testPod("nobody", "1")
		high := int32(1000)
		important.Spec.Priority = &high
		create(t, c, important)
		create(t, c, nobody)
		time.Sleep(time.Minute)
		synctest.Wait()
		get := func(name string) *corev1.Pod {
			p, _ := projections.Get[*corev1.Pod](c.Snapshot(), podsResource, "default", name)
			return p
		}
		v := get("victim")
		if v == nil || v.DeletionTimestamp == nil || v.Status.Conditions[0].Type != corev1.DisruptionTarget || v.Status.Conditions[0].Reason != corev1.PodReasonPreemptionByScheduler {
			t.Fatalf("the victim: %+v", v)
		}
		if event(c.Snapshot(), "Preempted", "Preempted by pod "+string(get("important").UID)+" on node n1") == nil {
			t.Error("no Event tells of the preemption")
		}
		if p := get("important"); p.Spec.NodeName != "" || p.Status.NominatedNodeName != "n1" || !unschedulable("important")(c.Snapshot()) {
			t.Errorf("the pod for which room is made: %+v", p)
		}
		for _, cmd := range c.Done() {
			if cmd.Verb == commands.Delete && (cmd.Correlation != "request-of-important" || cmd.Cause == nil || !strings.Contains(string(cmd.Evidence), "default/victim")) {
				t.Errorf("the deletion does not say what it follows from: %+v", cmd)
			}
		}
		// The node lets the victim go; nobody else gets in between.
		c.Remove(podsResource, "default", "victim")
		synctest.Wait()
		if nodeOf(c.Snapshot(), "important") != "n1" || nodeOf(c.Snapshot(), "nobody") != "" {
			t.Errorf("important on %q, nobody on %q", nodeOf(c.Snapshot(), "important"), nodeOf(c.Snapshot(), "nobody"))
		}
	})
}

func TestAVolumeIsMadeOnThePodsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(testNode("n1", "2"))
		start(t, c, scheduler.Config{})
		p := testPod("db", "1")
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"},
		}}}
		create(t, c, p)
		synctest.Wait()
		if nodeOf(c.Snapshot(), "db") != "" || !unschedulable("db")(c.Snapshot()) {
			t.Fatal("the pod has a node although its claim is not there")
		}
		time.Sleep(time.Minute)
		local, late := "local", storagev1.VolumeBindingWaitForFirstConsumer
		c.Put(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: local}, Provisioner: "example.com/x", VolumeBindingMode: &late})
		c.Put(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &local}})
		time.Sleep(time.Minute)
		synctest.Wait()
		claim, _ := projections.Get[*corev1.PersistentVolumeClaim](c.Snapshot(), domain.Resource{Resource: "persistentvolumeclaims"}, "default", "data")
		if nodeOf(c.Snapshot(), "db") != "n1" || claim.Annotations["volume.kubernetes.io/selected-node"] != "n1" {
			t.Errorf("the pod is on %q, its claim says %v", nodeOf(c.Snapshot(), "db"), claim.Annotations)
		}
	})
}
