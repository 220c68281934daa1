// Package deployment rolls out Deployments: a replica set for each pod template, of which it scales one up and the others down.
package deployment

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

var (
	kind        = appsv1.SchemeGroupVersion.WithKind("Deployment")
	setKind     = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
	deployments = resources.Deployments.GroupResource()
	replicaSets = resources.ReplicaSets.GroupResource()
)

// Controller rolls out Deployments.
type Controller struct{}

// New makes the controller.
func New() controllers.Controller { return Controller{} }

// Name implements controllers.Controller.
func (Controller) Name() string { return "deployment-controller" }

// Inputs implements controllers.Controller.
func (Controller) Inputs() []controllers.Input {
	owners := controllers.OwnerKeys(kind, deployments)
	return []controllers.Input{
		{Resource: deployments, Why: "what is wanted"},
		{Resource: replicaSets, Why: "how far it is, and sets to adopt", Keys: func(view projections.Reader, ch projections.Change) []controllers.Key {
			return append(owners(view, ch), orphan(view, ch)...)
		}},
		{Resource: pods.Resource, Why: "old pods that are gone, for Recreate", Keys: recreated},
	}
}

// Outputs implements controllers.Controller.
func (Controller) Outputs() []controllers.Output {
	return []controllers.Output{
		{Resource: deployments, Fields: []string{"status", "metadata.annotations[deployment.kubernetes.io/revision]"}},
		{
			Resource: replicaSets, Of: "controlled by deployments.apps", Creates: true, Deletes: true,
			Fields: []string{"spec", "metadata.annotations", "metadata.ownerReferences"},
		},
	}
}

// orphan returns the key of a replica set that has no controller when the change made it one that a deployment may adopt.
func orphan(view projections.Reader, ch projections.Change) []controllers.Key {
	rs, ok := controllers.Of(ch.After).(*appsv1.ReplicaSet)
	if !ok || !adoptable(rs) {
		return nil
	}
	if before, ok := controllers.Of(ch.Before).(*appsv1.ReplicaSet); ok && adoptable(before) && labels.Equals(before.Labels, rs.Labels) {
		return nil
	}
	if adopter(view, rs) == nil {
		return nil
	}
	return []controllers.Key{controllers.KeyOf(replicaSets, rs.Namespace, rs.Name)}
}

func adoptable(rs *appsv1.ReplicaSet) bool {
	return rs.DeletionTimestamp == nil && metav1.GetControllerOfNoCopy(rs) == nil
}

// adopter returns the deployment that adopts an orphaned replica set: of those whose selectors match the oldest.
func adopter(view projections.Reader, rs *appsv1.ReplicaSet) *appsv1.Deployment {
	var best *appsv1.Deployment
	for d := range projections.List[*appsv1.Deployment](view, deployments, rs.Namespace) {
		selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
		if err != nil || selector.Empty() || d.DeletionTimestamp != nil || !selector.Matches(labels.Set(rs.Labels)) {
			continue
		}
		if best == nil || d.CreationTimestamp.Before(&best.CreationTimestamp) {
			best = d
		}
	}
	return best
}

// recreated returns the deployment of a pod that has ended, when that deployment waits for its old pods to end.
func recreated(view projections.Reader, ch projections.Change) []controllers.Key {
	before, ok := controllers.Of(ch.Before).(*corev1.Pod)
	if !ok {
		return nil
	}
	if after, ok := controllers.Of(ch.After).(*corev1.Pod); ok && pods.Finished(after) == pods.Finished(before) {
		return nil
	}
	owner := metav1.GetControllerOfNoCopy(before)
	if owner == nil || owner.Kind != setKind.Kind {
		return nil
	}
	rs, ok := projections.Get[*appsv1.ReplicaSet](view, replicaSets, before.Namespace, owner.Name)
	if !ok || rs.UID != owner.UID {
		return nil
	}
	owner = metav1.GetControllerOfNoCopy(rs)
	if owner == nil || owner.Kind != kind.Kind {
		return nil
	}
	d, ok := projections.Get[*appsv1.Deployment](view, deployments, rs.Namespace, owner.Name)
	if !ok || d.UID != owner.UID || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		return nil
	}
	return []controllers.Key{controllers.KeyOf(deployments, d.Namespace, d.Name)}
}

// Reconcile implements controllers.Controller. The key is a deployment, or an orphaned replica set that one may adopt.
func (Controller) Reconcile(view projections.Reader, key controllers.Key, now time.Time) (controllers.Decision, error) {
	if key.GroupResource() == replicaSets {
		rs, _, ok := controllers.Fetch[*appsv1.ReplicaSet](view, key)
		if !ok || !adoptable(rs) {
			return controllers.Decision{}, nil
		}
		d := adopter(view, rs)
		if d == nil {
			return controllers.Decision{}, nil
		}
		return controllers.Decision{Commands: []commands.Command{adopt(rs, d)}}, nil
	}
	d, at, ok := controllers.Fetch[*appsv1.Deployment](view, key)
	if !ok {
		return controllers.Decision{}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || d.Spec.Replicas == nil {
		// Validation refuses such a selector, and defaulting sets the number: there is nothing to do until it is changed.
		return controllers.Decision{}, nil
	}
	if selector.Empty() {
		return selectsAll(d, at), nil
	}
	r := &rollout{view: view, was: d, d: d.DeepCopy(), at: at, now: now}
	claims, err := r.claim(selector)
	if err != nil || len(claims) > 0 {
		return controllers.Decision{Commands: claims}, err
	}
	return r.decide()
}

func selectsAll(d *appsv1.Deployment, at *projections.Object) controllers.Decision {
	if d.Status.ObservedGeneration >= d.Generation {
		return controllers.Decision{}
	}
	observed := d.DeepCopy()
	observed.Status.ObservedGeneration = d.Generation
	return controllers.Decision{
		Commands: []commands.Command{controllers.UpdateStatus(resources.Deployments, observed)},
		Events: []controllers.Event{{
			About: controllers.Reference(at), Type: corev1.EventTypeWarning, Reason: "SelectingAll",
			Message: "This deployment is selecting all pods. A non-empty selector is required.",
		}},
	}
}

// claim reads the replica sets of the deployment, and returns the commands that adopt those that it should have and release
// those that it should not.
func (r *rollout) claim(selector labels.Selector) ([]commands.Command, error) {
	var claims []commands.Command
	for o := range r.view.Index(replicaSets, domain.OwnerIndex, string(r.d.UID)) {
		rs, ok := projections.As[*appsv1.ReplicaSet](o)
		if !ok {
			_, err := o.Typed()
			return nil, fmt.Errorf("reading %s: %w", o.Ref, err)
		}
		if c := metav1.GetControllerOfNoCopy(rs); c == nil || c.UID != r.d.UID {
			continue
		}
		if selector.Matches(labels.Set(rs.Labels)) {
			r.sets = append(r.sets, &set{was: rs, now: rs})
		} else if rs.DeletionTimestamp == nil && r.d.DeletionTimestamp == nil {
			claims = append(claims, release(rs, r.d))
		}
	}
	r.sortSets()
	if r.d.DeletionTimestamp == nil && (r.d.Status.ObservedGeneration != r.d.Generation || r.current() == nil) {
		for rs := range projections.List[*appsv1.ReplicaSet](r.view, replicaSets, r.d.Namespace) {
			if adoptable(rs) && selector.Matches(labels.Set(rs.Labels)) {
				claims = append(claims, adopt(rs, r.d))
			}
		}
	}
	return claims, nil
}

func adopt(rs *appsv1.ReplicaSet, d *appsv1.Deployment) commands.Command {
	adopted := rs.DeepCopy()
	adopted.OwnerReferences = append(adopted.OwnerReferences, *metav1.NewControllerRef(d, kind))
	return controllers.Update(resources.ReplicaSets, adopted)
}

func release(rs *appsv1.ReplicaSet, d *appsv1.Deployment) commands.Command {
	released := rs.DeepCopy()
	released.OwnerReferences = nil
	for _, ref := range rs.OwnerReferences {
		if ref.UID != d.UID {
			released.OwnerReferences = append(released.OwnerReferences, ref)
		}
	}
	return controllers.Update(resources.ReplicaSets, released)
}
