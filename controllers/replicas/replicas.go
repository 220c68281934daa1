// Package replicas keeps a number of pods of one template running. It is what ReplicaSets and ReplicationControllers have in
// common: a ReplicationController is looked at as the ReplicaSet that it amounts to.
package replicas

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/projections"
)

// Kind says what the owner of the replicas is.
type Kind struct {
	ControllerName string
	Resource       schema.GroupVersionResource
	Kind           schema.GroupVersionKind
	// CountsTerminating says that the kind's status counts the pods that are being deleted.
	CountsTerminating bool
	// AsReplicaSet looks at an object of the kind as a ReplicaSet; false when it is of another type.
	AsReplicaSet func(runtime.Object) (*appsv1.ReplicaSet, bool)
	// WithStatus returns a copy of an object of the kind that has the status.
	WithStatus func(runtime.Object, appsv1.ReplicaSetStatus) controllers.Object
}

// Bounds of what one decision does and of how often a large owner is looked at.
const (
	maxPerDecision = 2000 // pods created or deleted at once
	settlePerPod   = 100 * time.Microsecond
	settleFrom     = 20 // owners of fewer pods are looked at at once
	settleMax      = 500 * time.Millisecond
)

// Controller keeps the replicas of owners of one kind.
type Controller struct{ kind Kind }

// New makes the controller of a kind.
func New(kind Kind) *Controller { return &Controller{kind: kind} }

// Name implements controllers.Controller.
func (c *Controller) Name() string { return c.kind.ControllerName }

// Inputs implements controllers.Controller.
func (c *Controller) Inputs() []controllers.Input {
	owners := controllers.OwnerKeys(c.kind.Kind, c.kind.Resource.GroupResource())
	return []controllers.Input{
		{Resource: c.kind.Resource.GroupResource(), Why: "what is wanted"},
		{Resource: pods.Resource, Why: "the replicas, and pods to adopt", Keys: func(view projections.Reader, ch projections.Change) []controllers.Key {
			return append(owners(view, ch), c.orphan(view, ch)...)
		}},
	}
}

// Outputs implements controllers.Controller.
func (c *Controller) Outputs() []controllers.Output {
	gr := c.kind.Resource.GroupResource()
	return []controllers.Output{
		{Resource: gr, Fields: []string{"status"}},
		{Resource: pods.Resource, Of: "controlled by " + gr.String(), Creates: true, Deletes: true, Fields: []string{"metadata.ownerReferences"}},
	}
}

// orphan returns the key of a pod that has no controller when the change made it one that an owner may adopt.
func (c *Controller) orphan(view projections.Reader, ch projections.Change) []controllers.Key {
	if ch.After == nil {
		return nil
	}
	pod, ok := projections.As[*corev1.Pod](ch.After)
	if !ok || !pods.Adoptable(pod) {
		return nil
	}
	if before, ok := controllers.Of(ch.Before).(*corev1.Pod); ok && pods.Adoptable(before) && labels.Equals(before.Labels, pod.Labels) {
		return nil
	}
	if c.adopter(view, pod) == nil {
		return nil
	}
	return []controllers.Key{controllers.KeyOf(pods.Resource, pod.Namespace, pod.Name)}
}

// adopter returns the owner that adopts an orphaned pod: of those whose selectors match the oldest.
func (c *Controller) adopter(view projections.Reader, pod *corev1.Pod) *appsv1.ReplicaSet {
	var best *appsv1.ReplicaSet
	for o := range projections.List[runtime.Object](view, c.kind.Resource.GroupResource(), pod.Namespace) {
		rs, ok := c.kind.AsReplicaSet(o)
		if !ok || rs.DeletionTimestamp != nil {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
		if err != nil || selector.Empty() || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if best == nil || older(rs, best) {
			best = rs
		}
	}
	return best
}

func older(a, b *appsv1.ReplicaSet) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

// Reconcile implements controllers.Controller. The key is an owner, or an orphaned pod that one may adopt.
func (c *Controller) Reconcile(view projections.Reader, key controllers.Key, now time.Time) (controllers.Decision, error) {
	if key.GroupResource() == pods.Resource {
		return c.adoptOne(view, key)
	}
	obj, at, ok := controllers.Fetch[runtime.Object](view, key)
	if !ok {
		return controllers.Decision{}, nil
	}
	rs, ok := c.kind.AsReplicaSet(obj)
	if !ok {
		return controllers.Decision{}, fmt.Errorf("%s is a %T", key, obj)
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		// Validation refuses such a selector: there is nothing to do until it is changed.
		return controllers.Decision{}, nil
	}
	owned, err := pods.OwnedBy(view, rs.UID)
	if err != nil {
		return controllers.Decision{}, err
	}
	s := look{kind: c.kind, view: view, obj: obj, at: at, rs: rs, selector: selector, now: now}
	return s.decide(owned)
}

func (c *Controller) adoptOne(view projections.Reader, key controllers.Key) (controllers.Decision, error) {
	pod, _, ok := controllers.Fetch[*corev1.Pod](view, key)
	if !ok || !pods.Adoptable(pod) {
		return controllers.Decision{}, nil
	}
	rs := c.adopter(view, pod)
	if rs == nil {
		return controllers.Decision{}, nil
	}
	return controllers.Decision{Commands: []commands.Command{pods.Adopt(pod, *metav1.NewControllerRef(rs, c.kind.Kind))}}, nil
}
