// Package nodes watches over Nodes: it marks those that give no sign of life, taints those that are not well, and evicts pods
// that do not tolerate it.
package nodes

import (
	"fmt"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

var (
	nodes  = resources.Nodes.GroupResource()
	leases = resources.Leases.GroupResource()
)

// Options of the life of nodes. The zero value gives Kubernetes' defaults.
type Options struct {
	Grace   time.Duration // without a sign of life, until a node is not ready; 0: 40 s
	Startup time.Duration // the same for a node that has given none yet; 0: 60 s
}

// Lifecycle marks and taints nodes.
//
// A node's sign of life is the renewal of its Lease, by the node's own clock: clocks must agree better than the grace.
type Lifecycle struct {
	options Options
	began   time.Time // nobody looked before
}

// NewLifecycle makes the controller.
func NewLifecycle(o Options) controllers.Controller {
	if o.Grace <= 0 {
		o.Grace = 40 * time.Second
	}
	if o.Startup <= 0 {
		o.Startup = 60 * time.Second
	}
	return Lifecycle{options: o}
}

// Started implements controllers.Starter: while the control plane was away nodes could not renew, which is no fault of theirs.
func (l Lifecycle) Started(at time.Time) controllers.Controller {
	l.began = at
	return l
}

// Name implements controllers.Controller.
func (Lifecycle) Name() string { return "node-controller" }

// Inputs implements controllers.Controller.
func (l Lifecycle) Inputs() []controllers.Input {
	return []controllers.Input{
		{Resource: nodes, Why: "conditions"},
		{Resource: leases, Why: "signs of life", Keys: signOfLife},
	}
}

// Outputs implements controllers.Controller.
func (Lifecycle) Outputs() []controllers.Output {
	return []controllers.Output{
		{Resource: nodes, Of: "that give no sign of life", Fields: []string{"status.conditions"}},
		{Resource: nodes, Fields: []string{"spec.taints[node.kubernetes.io/*]"}},
		{Resource: pods.Resource, Of: "on unreachable nodes", Fields: []string{"status.conditions[Ready]"}},
	}
}

// signOfLife returns the node of a lease when the change means more than that the node is as well as before: a renewal in time
// is looked at only when the grace of an earlier one ends.
func signOfLife(view projections.Reader, ch projections.Change) []controllers.Key {
	if ch.Event.Ref.Namespace != corev1.NamespaceNodeLease {
		return nil
	}
	if ch.Before != nil && ch.After != nil {
		if n, ok := projections.Get[*corev1.Node](view, nodes, "", ch.Event.Ref.Name); ok {
			if c := condition(n, corev1.NodeReady); c != nil && c.Status != corev1.ConditionUnknown {
				return nil
			}
		}
	}
	return []controllers.Key{controllers.KeyOf(nodes, "", ch.Event.Ref.Name)}
}

func condition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// Reconcile implements controllers.Controller. The key is a node.
func (l Lifecycle) Reconcile(view projections.Reader, key controllers.Key, now time.Time) (controllers.Decision, error) {
	n, at, ok := controllers.Fetch[*corev1.Node](view, key)
	if !ok || n.DeletionTimestamp != nil {
		return controllers.Decision{}, nil
	}
	var d controllers.Decision
	due := l.due(view, n)
	if !now.Before(due) {
		if silent := silenced(n, now); silent != nil {
			d.Commands = append(d.Commands, controllers.UpdateStatus(resources.Nodes, silent))
			d.Events = append(d.Events, controllers.Event{
				About: nodeReference(at), Type: corev1.EventTypeNormal, Reason: "NodeNotReady", Message: fmt.Sprintf("Node %s status is now: NodeNotReady", n.Name),
			})
			// The taints follow when the view shows the new conditions: one object is written once in a decision.
			return d, nil
		}
	} else {
		d.Again = due
	}
	evict := anyReady(view)
	if taints, changed := taintsOf(n, evict, now); changed {
		tainted := n.DeepCopy()
		tainted.Spec.Taints = taints
		d.Commands = append(d.Commands, controllers.Update(resources.Nodes, tainted))
	}
	if c := condition(n, corev1.NodeReady); c != nil && c.Status != corev1.ConditionTrue {
		if c.Status == corev1.ConditionUnknown {
			d.Commands = append(d.Commands, unreadyPods(view, n.Name, now)...)
		}
		if !evict { // look again whether another node has come back
			d.Again = now.Add(l.options.Grace)
		}
	}
	return d, nil
}

// nodeReference points at a node as Kubernetes' Events do: with its name for its uid, by which kubectl finds them.
func nodeReference(at *projections.Object) corev1.ObjectReference {
	ref := controllers.Reference(at)
	ref.UID = types.UID(at.Ref.Name)
	return ref
}

// due is when a node that gives no sign of life from now on is held to be unreachable.
func (l Lifecycle) due(view projections.Reader, n *corev1.Node) time.Time {
	var last time.Time
	if c := condition(n, corev1.NodeReady); c != nil && c.Status != corev1.ConditionUnknown {
		last = c.LastHeartbeatTime.Time
	}
	if lease, ok := projections.Get[*coordinationv1.Lease](view, leases, corev1.NamespaceNodeLease, n.Name); ok && lease.Spec.RenewTime != nil && lease.Spec.RenewTime.After(last) {
		last = lease.Spec.RenewTime.Time
	}
	if last.IsZero() {
		due := n.CreationTimestamp.Add(l.options.Startup)
		if since := l.began.Add(l.options.Grace); since.After(due) {
			return since
		}
		return due
	}
	if last.Before(l.began) {
		last = l.began
	}
	return last.Add(l.options.Grace)
}

// silenced returns the node with its conditions unknown, or nil when they are so already.
func silenced(n *corev1.Node, now time.Time) *corev1.Node {
	out := n.DeepCopy()
	changed := false
	for _, t := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		c := condition(out, t)
		switch {
		case c == nil:
			out.Status.Conditions = append(out.Status.Conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "The node never posted its status.",
				LastHeartbeatTime: n.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
			changed = true
		case c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionUnknown, "NodeStatusUnknown", "The node stopped posting its status.", metav1.NewTime(now)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return out
}

// unreadyPods marks the pods of a node that cannot be reached as not ready, so that nobody sends them requests.
func unreadyPods(view projections.Reader, node string, now time.Time) []commands.Command {
	var out []commands.Command
	for p := range projections.Index[*corev1.Pod](view, pods.Resource, domain.NodeIndex, node) {
		if !pods.Ready(p) || pods.Finished(p) {
			continue
		}
		marked := p.DeepCopy()
		c := pods.Condition(marked, corev1.PodReady)
		c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionFalse, "NodeNotReady", "The node of the pod cannot be reached.", metav1.NewTime(now)
		out = append(out, controllers.UpdateStatus(resources.Pods, marked))
	}
	return out
}

// anyReady says whether any node is ready. When none is, more is wrong than nodes are, there is nowhere to move pods to, and
// none is evicted.
func anyReady(view projections.Reader) bool {
	for n := range projections.List[*corev1.Node](view, nodes, "") {
		if c := condition(n, corev1.NodeReady); c != nil && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// taintsOf returns the taints that follow from a node's conditions, together with those that others have set. Taints that evict
// are added only when evict is set.
func taintsOf(n *corev1.Node, evict bool, now time.Time) (taints []corev1.Taint, changed bool) {
	ready := corev1.ConditionStatus("")
	if c := condition(n, corev1.NodeReady); c != nil {
		ready = c.Status
	}
	is := func(t corev1.NodeConditionType) bool {
		c := condition(n, t)
		return c != nil && c.Status == corev1.ConditionTrue
	}
	notReady, unreachable := ready == corev1.ConditionFalse || ready == "", ready == corev1.ConditionUnknown
	wanted := []struct {
		key    string
		effect corev1.TaintEffect
		on     bool
	}{
		{corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule, notReady},
		{corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute, ready == corev1.ConditionFalse},
		{corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule, unreachable},
		{corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute, unreachable},
		{corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule, n.Spec.Unschedulable},
		{corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule, is(corev1.NodeMemoryPressure)},
		{corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule, is(corev1.NodeDiskPressure)},
		{corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule, is(corev1.NodePIDPressure)},
		{corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule, is(corev1.NodeNetworkUnavailable)},
	}
	taints = slices.Clone(n.Spec.Taints)
	for _, w := range wanted {
		i := slices.IndexFunc(taints, func(t corev1.Taint) bool { return t.Key == w.key && t.Effect == w.effect })
		switch {
		case w.on && i < 0 && (evict || w.effect != corev1.TaintEffectNoExecute):
			// Whole seconds, as JSON has them: a later reader must see the taint that it reads unchanged, or a node may not write to itself.
			at := metav1.NewTime(now.Truncate(time.Second))
			taints = append(taints, corev1.Taint{Key: w.key, Effect: w.effect, TimeAdded: &at})
			changed = true
		case !w.on && i >= 0:
			taints = slices.Delete(taints, i, i+1)
			changed = true
		}
	}
	return taints, changed
}
