// Package podgc removes pods that nobody else will: those on nodes that are gone, those that were deleted before they were on
// a node, those that ended long ago when there are too many.
package podgc

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

var nodes = resources.Nodes.GroupResource()

// Options of the collection. The zero value gives Kubernetes' defaults.
type Options struct {
	Terminated int           // how many pods that have ended are kept; 0: 12,500; negative: all
	Quarantine time.Duration // how long a node must be gone; 0: 40 s
	Every      time.Duration // how often pods that have ended are counted, at most; 0: 20 s
}

// Controller removes pods.
type Controller struct{ options Options }

// New makes the controller.
func New(o Options) controllers.Controller {
	if o.Terminated == 0 {
		o.Terminated = 12500
	}
	if o.Quarantine <= 0 {
		o.Quarantine = 40 * time.Second
	}
	if o.Every <= 0 {
		o.Every = 20 * time.Second
	}
	return Controller{options: o}
}

// Name implements controllers.Controller.
func (Controller) Name() string { return "pod-garbage-collector" }

// everything is the key under which the pods that have ended are counted.
var everything = controllers.Key{Resource: "pods"}

// Inputs implements controllers.Controller.
func (c Controller) Inputs() []controllers.Input {
	return []controllers.Input{
		{Resource: pods.Resource, Why: "pods that nobody will end", Keys: c.ofPod},
		{Resource: nodes, Why: "nodes that are gone", Keys: ofNode},
	}
}

// Outputs implements controllers.Controller.
func (Controller) Outputs() []controllers.Output {
	return []controllers.Output{{
		Resource: pods.Resource, Of: "that nobody will end", Deletes: true, Fields: []string{"status.phase", "status.conditions[DisruptionTarget]"},
	}}
}

func (c Controller) ofPod(view projections.Reader, ch projections.Change) []controllers.Key {
	p, ok := controllers.Of(ch.After).(*corev1.Pod)
	if !ok {
		return nil
	}
	var keys []controllers.Key
	if before, ok := controllers.Of(ch.Before).(*corev1.Pod); pods.Finished(p) && (!ok || !pods.Finished(before)) && c.options.Terminated > 0 {
		keys = append(keys, everything)
	}
	if p.Spec.NodeName == "" {
		if p.DeletionTimestamp != nil {
			keys = append(keys, controllers.KeyOf(pods.Resource, p.Namespace, p.Name))
		}
		return keys
	}
	n, there := projections.Get[*corev1.Node](view, nodes, "", p.Spec.NodeName)
	if !there || p.DeletionTimestamp != nil && outOfService(n) {
		keys = append(keys, controllers.KeyOf(pods.Resource, p.Namespace, p.Name))
	}
	return keys
}

// ofNode returns the pods of a node that is gone or has been declared dead.
func ofNode(view projections.Reader, ch projections.Change) []controllers.Key {
	if n, ok := controllers.Of(ch.After).(*corev1.Node); ok && !outOfService(n) {
		return nil
	}
	var keys []controllers.Key
	for o := range view.Index(pods.Resource, domain.NodeIndex, ch.Event.Ref.Name) {
		keys = append(keys, controllers.KeyOf(pods.Resource, o.Ref.Namespace, o.Ref.Name))
	}
	return keys
}

// outOfService says whether an administrator has said that a node is down for good, and it is.
func outOfService(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// Reconcile implements controllers.Controller. The key is a pod, or everything.
func (c Controller) Reconcile(view projections.Reader, key controllers.Key, now time.Time) (controllers.Decision, error) {
	if key == everything {
		return c.ended(view), nil
	}
	p, _, ok := controllers.Fetch[*corev1.Pod](view, key)
	if !ok {
		return controllers.Decision{}, nil
	}
	if p.Spec.NodeName == "" {
		if p.DeletionTimestamp != nil {
			return controllers.Decision{Commands: []commands.Command{force(p)}}, nil
		}
		return controllers.Decision{}, nil
	}
	n, there := projections.Get[*corev1.Node](view, nodes, "", p.Spec.NodeName)
	if there {
		if p.DeletionTimestamp != nil && outOfService(n) {
			return fail(p, now, "DeletionByPodGC", "PodGC: node is out of service"), nil
		}
		return controllers.Decision{}, nil
	}
	// The pod says since when its node has been missed: a node may come back.
	missed := pods.Condition(p, corev1.DisruptionTarget)
	if missed == nil || missed.Status != corev1.ConditionTrue || missed.Reason != "DeletionByPodGC" {
		marked := p.DeepCopy()
		pods.SetCondition(marked, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC",
			Message: "PodGC: node no longer exists", LastTransitionTime: metav1.NewTime(now),
		})
		return controllers.Decision{Commands: []commands.Command{controllers.UpdateStatus(resources.Pods, marked)}, Again: now.Add(c.options.Quarantine)}, nil
	}
	if end := missed.LastTransitionTime.Add(c.options.Quarantine); end.After(now) {
		return controllers.Decision{Again: end}, nil
	}
	return fail(p, now, "DeletionByPodGC", "PodGC: node no longer exists"), nil
}

// fail marks a pod as failed, for those who count its failures, and then removes it.
func fail(p *corev1.Pod, now time.Time, reason, message string) controllers.Decision {
	remove := controllers.Decision{Commands: []commands.Command{force(p)}}
	if pods.Finished(p) {
		return remove
	}
	failed := p.DeepCopy()
	failed.Status.Phase = corev1.PodFailed
	pods.SetCondition(failed, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now)})
	return controllers.Decision{
		Commands: []commands.Command{controllers.UpdateStatus(resources.Pods, failed)},
		Then: func(outcomes []controllers.Outcome) controllers.Decision {
			if outcomes[0].Err != nil {
				return controllers.Decision{}
			}
			return remove
		},
	}
}

// force deletes a pod without waiting for a node to end it.
func force(p *corev1.Pod) commands.Command {
	c := controllers.Delete(resources.Pods, p)
	zero := int64(0)
	c.DeleteOptions.GracePeriodSeconds = &zero
	return c
}

// ended removes the pods that ended first when there are more than are kept.
func (c Controller) ended(view projections.Reader) controllers.Decision {
	var finished []*corev1.Pod
	for p := range projections.List[*corev1.Pod](view, pods.Resource, "") {
		if pods.Finished(p) && p.DeletionTimestamp == nil {
			finished = append(finished, p)
		}
	}
	d := controllers.Decision{Settle: c.options.Every}
	excess := len(finished) - c.options.Terminated
	if excess <= 0 {
		return d
	}
	slices.SortFunc(finished, func(a, b *corev1.Pod) int {
		if n := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); n != 0 {
			return n
		}
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
	for _, p := range finished[:excess] {
		d.Commands = append(d.Commands, force(p))
	}
	return d
}
