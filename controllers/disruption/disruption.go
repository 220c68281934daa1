// Package disruption tells how many pods of each PodDisruptionBudget may be evicted now.
package disruption

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// deletionTimeout is how long an eviction that was allowed counts although the pod is not being deleted yet.
const deletionTimeout = 2 * time.Minute

var budgets = resources.PodDisruptionBudgets.GroupResource()

// Controller keeps the status of PodDisruptionBudgets.
type Controller struct{}

// New makes the controller.
func New() controllers.Controller { return Controller{} }

// Name implements controllers.Controller.
func (Controller) Name() string { return "disruption-controller" }

// Inputs implements controllers.Controller.
func (Controller) Inputs() []controllers.Input {
	in := []controllers.Input{
		{Resource: budgets, Why: "what is wanted"},
		{Resource: pods.Resource, Why: "who is well", Keys: ofPod},
	}
	for _, gr := range []domain.Resource{
		resources.ReplicaSets.GroupResource(), resources.Deployments.GroupResource(), resources.StatefulSets.GroupResource(), resources.ReplicationControllers.GroupResource(),
	} {
		in = append(in, controllers.Input{Resource: gr, Why: "how many there should be", Keys: ofOwner})
	}
	return in
}

// Outputs implements controllers.Controller. The API's evictions write the status too, under the same resourceVersion.
func (Controller) Outputs() []controllers.Output {
	return []controllers.Output{{Resource: budgets, Fields: []string{"status"}}}
}

// ofPod returns the budgets of a pod that has come, gone, or is otherwise well than before.
func ofPod(view projections.Reader, ch projections.Change) []controllers.Key {
	before, was := controllers.Of(ch.Before).(*corev1.Pod)
	after, is := controllers.Of(ch.After).(*corev1.Pod)
	if was && is && pods.Ready(before) == pods.Ready(after) && (before.DeletionTimestamp == nil) == (after.DeletionTimestamp == nil) && labels.Equals(before.Labels, after.Labels) {
		return nil
	}
	var keys []controllers.Key
	for b := range projections.List[*policyv1.PodDisruptionBudget](view, budgets, ch.Event.Ref.Namespace) {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && (was && selector.Matches(labels.Set(before.Labels)) || is && selector.Matches(labels.Set(after.Labels))) {
			keys = append(keys, controllers.KeyOf(budgets, b.Namespace, b.Name))
		}
	}
	return keys
}

// ofOwner returns the budgets of a namespace when the size that is wanted of some pods changes there.
func ofOwner(view projections.Reader, ch projections.Change) []controllers.Key {
	before, after := controllers.Of(ch.Before), controllers.Of(ch.After)
	if before != nil && after != nil && size(before) == size(after) {
		return nil
	}
	var keys []controllers.Key
	for o := range view.List(budgets, ch.Event.Ref.Namespace) {
		keys = append(keys, controllers.KeyOf(budgets, o.Ref.Namespace, o.Ref.Name))
	}
	return keys
}

func size(o controllers.Object) int32 {
	var have *int32
	switch o := o.(type) {
	case *appsv1.ReplicaSet:
		have = o.Spec.Replicas
	case *appsv1.Deployment:
		have = o.Spec.Replicas
	case *appsv1.StatefulSet:
		have = o.Spec.Replicas
	case *corev1.ReplicationController:
		have = o.Spec.Replicas
	}
	if have == nil {
		return 1
	}
	return *have
}

// Reconcile implements controllers.Controller. The key is a PodDisruptionBudget.
func (Controller) Reconcile(view projections.Reader, key controllers.Key, now time.Time) (controllers.Decision, error) {
	b, _, ok := controllers.Fetch[*policyv1.PodDisruptionBudget](view, key)
	if !ok || b.DeletionTimestamp != nil {
		return controllers.Decision{}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return controllers.Decision{}, nil // validation refuses such selectors
	}
	var matching []*corev1.Pod
	for p := range projections.List[*corev1.Pod](view, pods.Resource, b.Namespace) {
		if selector.Matches(labels.Set(p.Labels)) {
			matching = append(matching, p)
		}
	}
	var d controllers.Decision
	next := b.DeepCopy()
	s := &next.Status
	s.ObservedGeneration = b.Generation
	s.DisruptedPods = nil
	healthy := int32(0)
	for _, p := range matching {
		if p.DeletionTimestamp != nil {
			continue
		}
		if at, ok := b.Status.DisruptedPods[p.Name]; ok {
			if end := at.Add(deletionTimeout); end.After(now) {
				if s.DisruptedPods == nil {
					s.DisruptedPods = map[string]metav1.Time{}
				}
				s.DisruptedPods[p.Name] = at
				if d.Again.IsZero() || end.Before(d.Again) {
					d.Again = end
				}
				continue
			}
		}
		if pods.Ready(p) {
			healthy++
		}
	}
	s.ExpectedPods, s.DesiredHealthy = desired(view, b, matching)
	s.CurrentHealthy = healthy
	s.DisruptionsAllowed = 0
	if s.ExpectedPods > 0 {
		s.DisruptionsAllowed = max(0, healthy-s.DesiredHealthy)
	}
	condition := metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionTrue, Reason: policyv1.SufficientPodsReason,
		ObservedGeneration: b.Generation, LastTransitionTime: metav1.NewTime(now),
	}
	if s.DisruptionsAllowed == 0 {
		condition.Status, condition.Reason = metav1.ConditionFalse, policyv1.InsufficientPodsReason
	}
	meta.SetStatusCondition(&s.Conditions, condition)
	if !equality.Semantic.DeepEqual(b.Status, next.Status) {
		d.Commands = []commands.Command{controllers.UpdateStatus(resources.PodDisruptionBudgets, next)}
	}
	if n := len(matching); n > 50 {
		d.Settle = min(time.Duration(n)*100*time.Microsecond, 500*time.Millisecond)
	}
	return d, nil
}

// desired returns how many pods there should be, and how many of them must be well.
func desired(view projections.Reader, b *policyv1.PodDisruptionBudget, matching []*corev1.Pod) (expected, healthy int32) {
	switch {
	case b.Spec.MaxUnavailable != nil:
		expected = expectedOf(view, matching)
		u, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, int(expected), true)
		if err != nil { // refused by validation
			return expected, expected
		}
		return expected, max(0, expected-int32(u))
	case b.Spec.MinAvailable != nil && b.Spec.MinAvailable.Type == intstr.String:
		expected = expectedOf(view, matching)
		m, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MinAvailable, int(expected), true)
		if err != nil {
			return expected, expected
		}
		return expected, int32(m)
	case b.Spec.MinAvailable != nil:
		return int32(len(matching)), b.Spec.MinAvailable.IntVal
	}
	return int32(len(matching)), 1 // the default: one
}

// expectedOf sums up the sizes of those that control the pods; a pod that nobody controls counts for itself.
func expectedOf(view projections.Reader, matching []*corev1.Pod) int32 {
	seen := map[types.UID]bool{}
	var sum int32
	for _, p := range matching {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			sum++
			continue
		}
		owner := find(view, p.Namespace, ref)
		if owner == nil {
			if !seen[p.UID] {
				sum++
			}
			continue
		}
		if seen[owner.GetUID()] {
			continue
		}
		seen[owner.GetUID()] = true
		sum += size(owner)
	}
	return sum
}

// find returns whom a controller reference leads to: for a replica set of a deployment, the deployment.
func find(view projections.Reader, namespace string, ref *metav1.OwnerReference) controllers.Object {
	gr, ok := map[string]domain.Resource{
		"apps/v1/ReplicaSet":       resources.ReplicaSets.GroupResource(),
		"apps/v1/Deployment":       resources.Deployments.GroupResource(),
		"apps/v1/StatefulSet":      resources.StatefulSets.GroupResource(),
		"v1/ReplicationController": resources.ReplicationControllers.GroupResource(),
	}[ref.APIVersion+"/"+ref.Kind]
	if !ok {
		return nil
	}
	o, ok := projections.Get[controllers.Object](view, gr, namespace, ref.Name)
	if !ok || o.GetUID() != ref.UID {
		return nil
	}
	if above := metav1.GetControllerOfNoCopy(o); above != nil {
		if owner := find(view, namespace, above); owner != nil {
			return owner
		}
	}
	return o
}
