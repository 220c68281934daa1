package sim_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/internal/clustertest"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/runtime/sim"
)

var (
	pods   = domain.Resource{Resource: "pods"}
	nodes  = domain.Resource{Resource: "nodes"}
	leases = domain.Resource{Group: "coordination.k8s.io", Resource: "leases"}
)

func start(t *testing.T, c *clustertest.Cluster, opts sim.Options) (*sim.Sim, context.CancelFunc) {
	t.Helper()
	opts.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := sim.New(c, c, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	return s, stop
}

func pod(name, node string, annotations ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.Now(), Annotations: map[string]string{}},
		Spec: corev1.PodSpec{
			NodeName: node, RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "c", Image: "img"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	for i := 0; i < len(annotations); i += 2 {
		p.Annotations["shiplog.dev/sim-"+annotations[i]] = annotations[i+1]
	}
	return p
}

func get(c *clustertest.Cluster, name string) *corev1.Pod {
	p, _ := projections.Get[*corev1.Pod](c.Snapshot(), pods, "default", name)
	return p
}

func ready(conditions []corev1.PodCondition) bool {
	for _, c := range conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func TestNodesAreThereAndStayAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New()
		start(t, c, sim.Options{Nodes: 100, Zones: 3})
		synctest.Wait()
		addresses := map[string]bool{}
		var n int
		for node := range projections.List[*corev1.Node](c.Snapshot(), nodes, "") {
			n++
			addresses[node.Status.Addresses[0].Address] = true
			if len(node.Spec.Taints) > 0 || node.Labels[corev1.LabelHostname] != node.Name || node.Status.Allocatable.Pods().Value() != 110 {
				t.Fatalf("node: %+v", node)
			}
			if last := node.Status.Conditions[len(node.Status.Conditions)-1]; last.Type != corev1.NodeReady || last.Status != corev1.ConditionTrue {
				t.Fatalf("node %s: %+v", node.Name, last)
			}
		}
		if n != 100 || len(addresses) != 100 {
			t.Fatalf("%d nodes with %d addresses", n, len(addresses))
		}
		// Each lease is renewed every ten seconds, and in each second a tenth of them.
		for range 25 {
			before := len(c.Done())
			time.Sleep(time.Second)
			synctest.Wait()
			if n := len(c.Done()) - before; n != 10 {
				t.Fatalf("%d commands in a second", n)
			}
		}
		for lease := range projections.List[*coordinationv1.Lease](c.Snapshot(), leases, corev1.NamespaceNodeLease) {
			if age := time.Since(lease.Spec.RenewTime.Time); age > 11*time.Second {
				t.Errorf("lease %s is %s old", lease.Name, age)
			}
		}
		for _, cmd := range c.Done() {
			if cmd.Actor.User != "system:node:"+cmd.Name || cmd.Actor.Groups[0] != "system:nodes" {
				t.Fatalf("%s %s %s by %+v", cmd.Verb, cmd.Resource.Resource, cmd.Name, cmd.Actor)
			}
		}
	})
}

func TestPodsLiveAndDie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New()
		start(t, c, sim.Options{Nodes: 2})
		synctest.Wait()
		at := c.Put(pod("web", "sim-1"))
		c.Put(pod("elsewhere", "n1"))
		c.Put(pod("job", "sim-0", "succeed-after", "30s"))
		c.Put(pod("crash", "sim-0", "crash-after", "20s"))
		synctest.Wait()
		web := get(c, "web")
		if web.Status.Phase != corev1.PodRunning || !ready(web.Status.Conditions) || web.Status.PodIP == "" || web.Status.HostIP != "10.250.0.2" || web.Status.StartTime == nil {
			t.Fatalf("web: %+v", web.Status)
		}
		if p := get(c, "elsewhere"); p.Status.Phase != corev1.PodPending {
			t.Errorf("a pod of a real node was touched: %+v", p.Status)
		}
		for _, cmd := range c.Done() {
			if cmd.Name == "web" && (cmd.Cause == nil || cmd.Cause.Position != at || cmd.Cause.ID == "") {
				t.Errorf("cause of starting web: %+v", cmd.Cause)
			}
		}
		time.Sleep(29 * time.Second)
		synctest.Wait()
		if p := get(c, "job"); p.Status.Phase != corev1.PodRunning {
			t.Errorf("the job is over too soon: %s", p.Status.Phase)
		}
		if p := get(c, "crash"); p.Status.ContainerStatuses[0].State.Waiting == nil || ready(p.Status.Conditions) {
			t.Errorf("crash: %+v", p.Status)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if p := get(c, "job"); p.Status.Phase != corev1.PodSucceeded || p.Status.ContainerStatuses[0].State.Terminated.ExitCode != 0 {
			t.Errorf("job: %+v", p.Status)
		}
		if p := get(c, "crash"); p.Status.ContainerStatuses[0].RestartCount != 1 || !ready(p.Status.Conditions) {
			t.Errorf("crash, after its back-off: %+v", p.Status)
		}
		web = get(c, "web").DeepCopy()
		web.Annotations["shiplog.dev/sim-unready"] = "true"
		c.Put(web)
		synctest.Wait()
		if ready(get(c, "web").Status.Conditions) {
			t.Error("the probe goes on passing")
		}
		if _, err := c.Do(t.Context(), commands.Command{Verb: commands.Delete, Resource: corev1.SchemeGroupVersion.WithResource("pods"), Namespace: "default", Name: "web"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if p := get(c, "web"); p != nil {
			t.Errorf("web is still there: %+v", p.Status)
		}
		last := c.Done()[len(c.Done())-1]
		if last.Verb != commands.Delete || *last.DeleteOptions.GracePeriodSeconds != 0 || last.DeleteOptions.Preconditions.UID == nil {
			t.Errorf("the last command: %+v", last)
		}
	})
}

func TestManyPodsUnderRefusalsAndRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New()
		var n atomic.Int64
		c.Refuse(func(cmd commands.Command) error {
			switch i := n.Add(1); {
			case i%5 == 0:
				return apierrors.NewServiceUnavailable("the log is away")
			case i%7 == 0 && cmd.Subresource == "status":
				return apierrors.NewConflict(pods, cmd.Name, fmt.Errorf("refused"))
			}
			return nil
		})
		_, stop := start(t, c, sim.Options{Nodes: 10})
		put := func(from, to int) {
			for i := from; i < to; i++ {
				c.Put(pod(fmt.Sprintf("p%d", i), fmt.Sprintf("sim-%d", i%10)))
			}
		}
		put(0, 100)
		synctest.Wait()
		c.Forget()
		put(100, 200)
		synctest.Wait()
		stop()
		put(200, 300)
		start(t, c, sim.Options{Nodes: 10})
		time.Sleep(time.Minute)
		synctest.Wait()
		ips := map[string]string{}
		for i := range 300 {
			p := get(c, fmt.Sprintf("p%d", i))
			if p.Status.Phase != corev1.PodRunning || !ready(p.Status.Conditions) {
				t.Fatalf("%s: %+v", p.Name, p.Status)
			}
			if other := ips[p.Status.PodIP]; other != "" {
				t.Fatalf("%s and %s share %s", p.Name, other, p.Status.PodIP)
			}
			ips[p.Status.PodIP] = p.Name
		}
	})
}

func TestNodesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New()
		s, _ := start(t, c, sim.Options{Nodes: 3})
		synctest.Wait()
		names := func() string {
			var list []string
			for o := range c.Snapshot().List(nodes, "") {
				list = append(list, o.Ref.Name)
			}
			return fmt.Sprint(list)
		}
		c.Put(pod("early", "sim-4"))
		if err := s.SetNodes(t.Context(), 5); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := names(); got != "[sim-0 sim-1 sim-2 sim-3 sim-4]" {
			t.Error(got)
		}
		if p := get(c, "early"); p.Status.Phase != corev1.PodRunning {
			t.Errorf("a pod that was bound before its node came: %+v", p.Status)
		}
		if err := s.SetNodes(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		c.Remove(nodes, "", "sim-0")
		synctest.Wait()
		if got := names(); got != "[sim-1]" {
			t.Error(got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, ok := c.Snapshot().Get(leases, corev1.NamespaceNodeLease, "sim-3"); ok {
			t.Error("the lease of a node that went is still there")
		}
		if got := names(); got != "[sim-1]" {
			t.Errorf("nodes came back: %s", got)
		}
	})
}

func TestTooManyNodes(t *testing.T) {
	if _, err := sim.New(nil, nil, sim.Options{Nodes: 300, NodeCIDR: netip.MustParsePrefix("10.1.2.0/24")}); err == nil {
		t.Error("300 nodes fit into a /24")
	}
}
