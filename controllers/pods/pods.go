// Package pods holds what controllers ask about pods.
package pods

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Resource is the collection of pods.
var Resource = resources.Pods.GroupResource()

// Kind is the kind of pods.
var Kind = corev1.SchemeGroupVersion.WithKind("Pod")

// OwnedBy returns the pods whose controller is the owner, in no order. A pod that the index has and that cannot be read is an
// error: to take it for absent would be to replace it.
func OwnedBy(view projections.Reader, owner types.UID) ([]*corev1.Pod, error) {
	var owned []*corev1.Pod
	for o := range view.Index(Resource, domain.OwnerIndex, string(owner)) {
		p, ok := projections.As[*corev1.Pod](o)
		if !ok {
			_, err := o.Typed()
			return nil, fmt.Errorf("reading %s: %w", o.Ref, err)
		}
		if c := metav1.GetControllerOfNoCopy(p); c != nil && c.UID == owner {
			owned = append(owned, p)
		}
	}
	return owned, nil
}

// Finished says whether all containers have ended for good.
func Finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Active says whether a pod counts as a replica: neither finished nor being deleted.
func Active(p *corev1.Pod) bool { return !Finished(p) && p.DeletionTimestamp == nil }

// Condition returns a condition of a pod, or nil.
func Condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// Ready says whether a pod's Ready condition is true.
func Ready(p *corev1.Pod) bool {
	c := Condition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Available says whether a pod has been ready for minReadySeconds, and, when it will be but is not yet, since when it will.
func Available(p *corev1.Pod, minReadySeconds int32, now time.Time) (available bool, from time.Time) {
	c := Condition(p, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return false, time.Time{}
	}
	if minReadySeconds <= 0 {
		return true, time.Time{}
	}
	if c.LastTransitionTime.IsZero() {
		return false, time.Time{}
	}
	from = c.LastTransitionTime.Add(time.Duration(minReadySeconds) * time.Second)
	if from.After(now) {
		return false, from
	}
	return true, time.Time{}
}

// FromTemplate makes a pod controlled by an owner.
func FromTemplate(t *corev1.PodTemplateSpec, namespace, name, generateName string, owner metav1.OwnerReference) *corev1.Pod {
	t = t.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, GenerateName: generateName,
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{owner},
		},
		Spec: t.Spec,
	}
}

// SetCondition sets a condition of a pod. The time of transition stays when the status does.
func SetCondition(p *corev1.Pod, c corev1.PodCondition) {
	have := Condition(p, c.Type)
	if have == nil {
		p.Status.Conditions = append(p.Status.Conditions, c)
		return
	}
	if have.Status == c.Status {
		c.LastTransitionTime = have.LastTransitionTime
	}
	*have = c
}
