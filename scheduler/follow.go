package scheduler

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// take takes in what the live view delivered.
func (x *session) take(d delivery) error {
	for i := range d.changes {
		c := &d.changes[i]
		var err error
		switch c.Event.Ref.GroupResource() {
		case podsResource:
			err = x.podChanged(c)
		case nodesResource:
			err = x.nodeChanged(c)
		case servicesResource:
			err = x.serviceChanged(c)
		case namespacesResource:
			err = x.namespaceChanged(c)
		case budgetsResource:
			err = x.budgetChanged(c)
		case claimsResource, volumesResource, classesResource:
			err = x.storageChanged(c)
		}
		if err != nil {
			// An object that cannot be read must not stop the others from being scheduled.
			x.log.Error("reading a change", "object", c.Event.Ref, "position", c.Event.Position, "err", err)
		}
	}
	x.position = max(x.position, d.position)
	if d.err != nil {
		return fmt.Errorf("following from position %d: %w", x.position, d.err)
	}
	return nil
}

func typed[T any](o *projections.Object) (T, error) {
	var zero T
	obj, err := o.Typed()
	if err != nil {
		return zero, err
	}
	t, ok := obj.(T)
	if !ok {
		return zero, fmt.Errorf("%s is a %T", o.Ref, obj)
	}
	return t, nil
}

func causeOf(c *projections.Change) *domain.Cause {
	return &domain.Cause{ID: c.Event.ID, Position: c.Event.Position}
}

func (x *session) podChanged(c *projections.Change) error {
	key := types.NamespacedName{Namespace: c.Event.Ref.Namespace, Name: c.Event.Ref.Name}
	if c.After == nil {
		x.dequeue(key)
		delete(x.assumed, key)
		if x.state.RemovePod(key) {
			x.roomMade(c)
		}
		return nil
	}
	pod, err := typed[*corev1.Pod](c.After)
	if err != nil {
		return err
	}
	if e := x.queue.get(key); e != nil && e.pending.Pod().UID != pod.UID {
		x.dequeue(key)
	}
	if uid, ok := x.assumed[key]; ok && uid == pod.UID && pod.Spec.NodeName == "" && Wants(pod, x.cfg.Name) {
		return nil // a change from before the binding
	}
	delete(x.assumed, key)
	before := x.state.NodeOf(key)
	if x.state.SetPod(pod) {
		if before == "" {
			x.queue.wakeFor(x.cfg.Now(), causeOf(c), PodTopologySpread, InterPodAffinity)
		} else {
			x.roomMade(c)
		}
	}
	if !Wants(pod, x.cfg.Name) {
		x.dequeue(key)
		return nil
	}
	x.enqueue(key, pod, c)
	return nil
}

// roomMade gives those another chance that a pod was in the way of.
func (x *session) roomMade(c *projections.Change) {
	x.queue.wakeFor(x.cfg.Now(), causeOf(c), NodeResourcesFit, NodePorts, PodTopologySpread, InterPodAffinity)
}

func (x *session) dequeue(key types.NamespacedName) {
	if e := x.queue.get(key); e != nil {
		x.nominate(e, "")
		x.queue.remove(key, e)
	}
}

func (x *session) enqueue(key types.NamespacedName, pod *corev1.Pod, c *projections.Change) {
	p := NewPending(pod)
	e := x.queue.get(key)
	if e == nil {
		x.queue.add(&entry{pending: p, cause: causeOf(c), correlation: c.Event.Correlation})
		return
	}
	changed := e.pending.class != p.class || priorityOf(e.pending.Pod()) != priorityOf(pod)
	if node := e.pending.nominated; node != "" {
		x.state.Nominate(p, node) // as the pod is now
		p = p.For(node)
	}
	e.pending = p
	if changed && (e.state == waiting || e.state == resting) {
		e.cause = causeOf(c)
		x.queue.leave(e)
		x.queue.makeReady(e)
	}
}

func (x *session) nodeChanged(c *projections.Change) error {
	if c.After == nil {
		x.state.RemoveNode(c.Event.Ref.Name)
		// With a node its domain may go, and with the domain the skew.
		x.queue.wakeFor(x.cfg.Now(), causeOf(c), PodTopologySpread)
		return nil
	}
	node, err := typed[*corev1.Node](c.After)
	if err != nil {
		return err
	}
	if c.Before != nil {
		if before, err := typed[*corev1.Node](c.Before); err == nil && sameForPods(before, node) {
			if !slices.EqualFunc(before.Status.Images, node.Status.Images, sameImage) {
				x.state.SetNode(node)
			}
			return nil // a heartbeat
		}
	}
	x.state.SetNode(node)
	x.queue.wakeFor(x.cfg.Now(), causeOf(c))
	return nil
}

// sameForPods tells whether a change of a node cannot make a difference to where pods may run.
func sameForPods(a, b *corev1.Node) bool {
	return a.UID == b.UID && a.Spec.Unschedulable == b.Spec.Unschedulable && maps.Equal(a.Labels, b.Labels) &&
		apiequality.Semantic.DeepEqual(a.Spec.Taints, b.Spec.Taints) &&
		apiequality.Semantic.DeepEqual(a.Status.Allocatable, b.Status.Allocatable)
}

func sameImage(a, b corev1.ContainerImage) bool {
	return a.SizeBytes == b.SizeBytes && slices.Equal(a.Names, b.Names)
}

func (x *session) serviceChanged(c *projections.Change) error {
	if c.After == nil {
		x.state.RemoveService(c.Event.Ref.Namespace, c.Event.Ref.Name)
		return nil
	}
	svc, err := typed[*corev1.Service](c.After)
	if err != nil {
		return err
	}
	x.state.SetService(svc)
	return nil
}

func (x *session) namespaceChanged(c *projections.Change) error {
	if c.After == nil {
		x.state.RemoveNamespace(c.Event.Ref.Name)
		return nil
	}
	ns, err := typed[*corev1.Namespace](c.After)
	if err != nil {
		return err
	}
	x.state.SetNamespace(ns)
	x.queue.wakeFor(x.cfg.Now(), causeOf(c), InterPodAffinity)
	return nil
}

func (x *session) budgetChanged(c *projections.Change) error {
	if c.After == nil {
		x.state.RemoveBudget(c.Event.Ref.Namespace, c.Event.Ref.Name)
		return nil
	}
	b, err := typed[*policyv1.PodDisruptionBudget](c.After)
	if err != nil {
		return err
	}
	x.state.SetBudget(b)
	return nil
}

func (x *session) storageChanged(c *projections.Change) error {
	ref := c.Event.Ref
	if c.After == nil {
		switch ref.GroupResource() {
		case claimsResource:
			x.state.RemoveClaim(ref.Namespace, ref.Name)
		case volumesResource:
			x.state.RemoveVolume(ref.Name)
		default:
			x.state.RemoveStorageClass(ref.Name)
		}
		return nil
	}
	obj, err := c.After.Typed()
	if err != nil {
		return err
	}
	switch o := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		x.state.SetClaim(o)
	case *corev1.PersistentVolume:
		x.state.SetVolume(o)
	case *storagev1.StorageClass:
		x.state.SetStorageClass(o)
	}
	x.queue.wakeFor(x.cfg.Now(), causeOf(c), VolumeBinding)
	return nil
}
