package controllertest

import (
	"context"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

// Nodes are a scheduler and nodes for a Runtime to live with: pods are bound to nodes in turn, become ready at once, and end
// when they are deleted. Nodes renew their leases until they are stopped.
type Nodes struct {
	cluster *Cluster
	mu      sync.Mutex
	names   []string
	stopped map[string]bool
	next    int
}

// NewNodes registers ready nodes in a cluster.
func NewNodes(cluster *Cluster, names ...string) *Nodes {
	n := &Nodes{cluster: cluster, names: names, stopped: map[string]bool{}}
	for _, name := range names {
		now := cluster.now()
		cluster.MustCreate(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now},
			}},
		})
		renewed := metav1.NewMicroTime(now.Time)
		cluster.MustCreate(&coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: &renewed},
		})
	}
	return n
}

// Stop makes a node silent; Start lets it live again.
func (n *Nodes) Stop(name string)  { n.set(name, true) }
func (n *Nodes) Start(name string) { n.set(name, false) }

func (n *Nodes) set(name string, stopped bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stopped[name] = stopped
}

func (n *Nodes) dead(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stopped[name]
}

// Run lives until the context ends.
func (n *Nodes) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, name := range n.names {
		all.Go(func() { n.beat(ctx, name) })
	}
	f, _ := n.cluster.Follow(0)
	for {
		changes, _, err := f.Next(ctx)
		if err != nil {
			return
		}
		for _, ch := range changes {
			if ch.After == nil || ch.Event.Ref.Resource != "pods" {
				continue
			}
			if p, ok := projections.Get[*corev1.Pod](n.cluster.Snapshot(), pods.Resource, ch.Event.Ref.Namespace, ch.Event.Ref.Name); ok {
				n.act(ctx, p)
			}
		}
	}
}

// beat renews a node's lease, and makes it ready again when it was held to be lost.
func (n *Nodes) beat(ctx context.Context, name string) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n.dead(name) {
			continue
		}
		view := n.cluster.Snapshot()
		if lease, ok := projections.Get[*coordinationv1.Lease](view, resources.Leases.GroupResource(), corev1.NamespaceNodeLease, name); ok {
			renewed := metav1.NewMicroTime(n.cluster.now().Time)
			next := lease.DeepCopy()
			next.Spec.RenewTime = &renewed
			n.do(ctx, controllers.Update(resources.Leases, next))
		}
		if node, ok := projections.Get[*corev1.Node](view, resources.Nodes.GroupResource(), "", name); ok && node.Status.Conditions[0].Status != corev1.ConditionTrue {
			next := node.DeepCopy()
			next.Status.Conditions[0].Status = corev1.ConditionTrue
			next.Status.Conditions[0].LastHeartbeatTime = n.cluster.now()
			n.do(ctx, controllers.UpdateStatus(resources.Nodes, next))
		}
	}
}

func (n *Nodes) act(ctx context.Context, p *corev1.Pod) {
	next := p.DeepCopy()
	switch {
	case p.DeletionTimestamp != nil && (p.Spec.NodeName == "" || !n.dead(p.Spec.NodeName)):
		zero := int64(0)
		n.do(ctx, commands.Command{
			Verb: commands.Delete, Resource: resources.Pods, Namespace: p.Namespace, Name: p.Name,
			DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &p.UID}},
		})
	case p.DeletionTimestamp != nil:
	case p.Spec.NodeName == "":
		if next.Spec.NodeName = n.choose(); next.Spec.NodeName != "" {
			n.do(ctx, controllers.Update(resources.Pods, next))
		}
	case p.Status.Phase == "" && !n.dead(p.Spec.NodeName):
		MakeReady(next, n.cluster.now().Time)
		n.do(ctx, controllers.UpdateStatus(resources.Pods, next))
	}
}

func (n *Nodes) choose() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for range n.names {
		n.next++
		if name := n.names[n.next%len(n.names)]; !n.stopped[name] {
			return name
		}
	}
	return ""
}

// do carries out a command; a conflict means that the change that made it so is still to come.
func (n *Nodes) do(ctx context.Context, c commands.Command) {
	if _, err := n.cluster.Do(ctx, c); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		panic(err)
	}
}
