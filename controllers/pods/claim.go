package pods

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

// Claim returns the pods that an owner controls and its selector matches, and the commands that release those that it no longer
// matches and, when orphans is set, adopt those of the namespace that nobody controls. An owner that is being deleted claims
// nothing.
func Claim(view projections.Reader, owner controllers.Object, kind schema.GroupVersionKind, selector labels.Selector, orphans bool) (kept []*corev1.Pod, claims []commands.Command, err error) {
	owned, err := OwnedBy(view, owner.GetUID())
	if err != nil {
		return nil, nil, err
	}
	for _, p := range owned {
		switch {
		case selector.Matches(labels.Set(p.Labels)):
			kept = append(kept, p)
		case owner.GetDeletionTimestamp() == nil && p.DeletionTimestamp == nil:
			claims = append(claims, Release(p, owner))
		}
	}
	if !orphans || owner.GetDeletionTimestamp() != nil || selector.Empty() {
		return kept, claims, nil
	}
	ref := *metav1.NewControllerRef(owner, kind)
	for p := range projections.List[*corev1.Pod](view, Resource, owner.GetNamespace()) {
		if Adoptable(p) && selector.Matches(labels.Set(p.Labels)) {
			claims = append(claims, Adopt(p, ref))
		}
	}
	return kept, claims, nil
}

// Adoptable says whether an owner whose selector matches may adopt a pod.
func Adoptable(p *corev1.Pod) bool { return metav1.GetControllerOfNoCopy(p) == nil && Active(p) }

// Adopt makes a pod controlled by an owner.
func Adopt(p *corev1.Pod, owner metav1.OwnerReference) commands.Command {
	adopted := p.DeepCopy()
	adopted.OwnerReferences = append(adopted.OwnerReferences, owner)
	return controllers.Update(resources.Pods, adopted)
}

// Release takes an owner away from a pod.
func Release(p *corev1.Pod, owner metav1.Object) commands.Command {
	released := p.DeepCopy()
	released.OwnerReferences = nil
	for _, ref := range p.OwnerReferences {
		if ref.UID != owner.GetUID() {
			released.OwnerReferences = append(released.OwnerReferences, ref)
		}
	}
	return controllers.Update(resources.Pods, released)
}

// Told turns what became of creations and deletions of pods into Events about their owner, and returns the first error that
// is not just the sign of an old view or a namespace that goes.
func Told(about corev1.ObjectReference, outcomes []controllers.Outcome) (events []controllers.Event, failed error) {
	for _, o := range outcomes {
		if o.Command.Resource != resources.Pods || o.Command.Subresource != "" {
			continue
		}
		done, doing, reason := "Created", "creating", "Create"
		switch o.Command.Verb {
		case commands.Create:
		case commands.Delete:
			done, doing, reason = "Deleted", "deleting", "Delete"
		default:
			continue
		}
		switch {
		case o.Err == nil:
			events = append(events, controllers.Event{About: about, Type: corev1.EventTypeNormal, Reason: "Successful" + reason, Message: done + " pod: " + o.Command.Name})
		case controllers.Benign(o.Err):
		default:
			events = append(events, controllers.Event{About: about, Type: corev1.EventTypeWarning, Reason: "Failed" + reason, Message: "Error " + doing + ": " + o.Err.Error()})
			if failed == nil {
				failed = o.Err
			}
		}
	}
	return events, failed
}
