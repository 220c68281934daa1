package replicas

import (
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// look is one look at one owner.
type look struct {
	kind     Kind
	view     projections.Reader
	obj      runtime.Object // the owner as it is
	at       *projections.Object
	rs       *appsv1.ReplicaSet // the owner as a ReplicaSet
	selector labels.Selector
	now      time.Time
}

// decide claims pods, then mends their number, then tells the status: each step only when the one before it has nothing to
// do, so that every step rests on what the step before led to.
func (l look) decide(owned []*corev1.Pod) (controllers.Decision, error) {
	var d controllers.Decision
	kept := owned[:0]
	for _, p := range owned {
		switch {
		case l.selector.Matches(labels.Set(p.Labels)):
			kept = append(kept, p)
		case l.rs.DeletionTimestamp == nil && p.DeletionTimestamp == nil:
			d.Commands = append(d.Commands, release(p, l.rs.UID))
		}
	}
	var active []*corev1.Pod
	for _, p := range kept {
		if pods.Active(p) {
			active = append(active, p)
		}
	}
	if len(kept) >= settleFrom {
		d.Settle = settle(len(kept))
	}
	if l.rs.DeletionTimestamp == nil {
		missing := wanted(l.rs) - len(active)
		if missing > 0 || l.rs.Status.ObservedGeneration != l.rs.Generation {
			owner := *metav1.NewControllerRef(l.rs, l.kind.Kind)
			for _, p := range l.orphans() {
				d.Commands = append(d.Commands, adopt(p, owner))
			}
		}
		switch {
		case len(d.Commands) > 0: // claim first, then count again
			return d, nil
		case missing > 0:
			return l.create(min(missing, maxPerDecision), kept), nil
		case missing < 0:
			return l.remove(min(-missing, maxPerDecision), active, kept), nil
		}
	}
	status, again := l.status(kept, nil)
	d.Again = again
	if !equality.Semantic.DeepEqual(status, l.rs.Status) {
		d.Commands = append(d.Commands, l.updateStatus(status))
	}
	return d, nil
}

func settle(n int) time.Duration { return min(time.Duration(n)*settlePerPod, settleMax) }

func wanted(rs *appsv1.ReplicaSet) int {
	if rs.Spec.Replicas == nil {
		return 1
	}
	return int(*rs.Spec.Replicas)
}

// orphans lists the pods of the namespace that the owner may adopt.
func (l look) orphans() []*corev1.Pod {
	if l.selector.Empty() {
		return nil
	}
	var found []*corev1.Pod
	for p := range projections.List[*corev1.Pod](l.view, pods.Resource, l.rs.Namespace) {
		if adoptable(p) && l.selector.Matches(labels.Set(p.Labels)) {
			found = append(found, p)
		}
	}
	return found
}

func adopt(p *corev1.Pod, owner metav1.OwnerReference) commands.Command {
	adopted := p.DeepCopy()
	adopted.OwnerReferences = append(adopted.OwnerReferences, owner)
	return controllers.Update(resources.Pods, adopted)
}

func release(p *corev1.Pod, owner types.UID) commands.Command {
	released := p.DeepCopy()
	released.OwnerReferences = nil
	for _, ref := range p.OwnerReferences {
		if ref.UID != owner {
			released.OwnerReferences = append(released.OwnerReferences, ref)
		}
	}
	return controllers.Update(resources.Pods, released)
}

func (l look) create(n int, kept []*corev1.Pod) controllers.Decision {
	prefix := l.rs.Name + "-"
	next := controllers.Names(prefix, l.rs.UID, l.at.Position, func(name string) bool {
		_, ok := l.view.Get(pods.Resource, l.rs.Namespace, name)
		return ok
	})
	owner := *metav1.NewControllerRef(l.rs, l.kind.Kind)
	d := controllers.Decision{Careful: true, Commands: make([]commands.Command, 0, n), Then: l.after("FailedCreate", kept)}
	for range n {
		d.Commands = append(d.Commands, controllers.Create(resources.Pods, pods.FromTemplate(&l.rs.Spec.Template, l.rs.Namespace, next(), prefix, owner)))
	}
	if n >= settleFrom {
		d.Settle = settle(n)
	}
	return d
}

func (l look) remove(n int, active, kept []*corev1.Pod) controllers.Decision {
	if n < len(active) {
		pods.RankForDeletion(active, l.related(), l.now)
	}
	d := controllers.Decision{Commands: make([]commands.Command, 0, n), Then: l.after("FailedDelete", kept)}
	for _, p := range active[:n] {
		d.Commands = append(d.Commands, controllers.Delete(resources.Pods, p))
	}
	if n >= settleFrom {
		d.Settle = settle(n)
	}
	return d
}

// related counts, by node, the active pods of all owners that have the same controller as this one (the replica sets of one
// deployment), its own included.
func (l look) related() map[string]int {
	counts := map[string]int{}
	count := func(owner types.UID) {
		for p := range projections.Index[*corev1.Pod](l.view, pods.Resource, domain.OwnerIndex, string(owner)) {
			if pods.Active(p) {
				counts[p.Spec.NodeName]++
			}
		}
	}
	controller := metav1.GetControllerOfNoCopy(l.rs)
	if controller == nil {
		count(l.rs.UID)
		return counts
	}
	for o := range projections.Index[controllers.Object](l.view, l.kind.Resource.GroupResource(), domain.OwnerIndex, string(controller.UID)) {
		count(o.GetUID())
	}
	return counts
}

// after tells the user what became of creations or deletions, and keeps a failure in the status.
func (l look) after(failure string, kept []*corev1.Pod) func([]controllers.Outcome) controllers.Decision {
	about := controllers.Reference(l.at)
	return func(outcomes []controllers.Outcome) controllers.Decision {
		var d controllers.Decision
		var failed error
		for _, o := range outcomes {
			switch {
			case o.Err == nil && failure == "FailedCreate":
				d.Events = append(d.Events, controllers.Event{About: about, Type: corev1.EventTypeNormal, Reason: "SuccessfulCreate", Message: "Created pod: " + o.Command.Name})
			case o.Err == nil:
				d.Events = append(d.Events, controllers.Event{About: about, Type: corev1.EventTypeNormal, Reason: "SuccessfulDelete", Message: "Deleted pod: " + o.Command.Name})
			case benign(o.Err):
			default:
				doing := "creating"
				if failure == "FailedDelete" {
					doing = "deleting"
				}
				d.Events = append(d.Events, controllers.Event{About: about, Type: corev1.EventTypeWarning, Reason: failure, Message: fmt.Sprintf("Error %s: %v", doing, o.Err)})
				if failed == nil {
					failed = o.Err
				}
			}
		}
		if failed != nil {
			condition := appsv1.ReplicaSetCondition{
				Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: failure, Message: failed.Error(),
				LastTransitionTime: metav1.NewTime(l.now),
			}
			if status, _ := l.status(kept, &condition); !equality.Semantic.DeepEqual(status, l.rs.Status) {
				d.Commands = append(d.Commands, l.updateStatus(status))
			}
		}
		return d
	}
}

// benign says whether an error only means that the view was old or that there is nothing left to do.
func benign(err error) bool {
	return errors.Is(err, controllers.ErrSkipped) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) ||
		apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// status counts the pods. It returns when a pod that is ready becomes available, if one will.
func (l look) status(kept []*corev1.Pod, failure *appsv1.ReplicaSetCondition) (appsv1.ReplicaSetStatus, time.Time) {
	status := appsv1.ReplicaSetStatus{ObservedGeneration: l.rs.Generation}
	template := labels.Set(l.rs.Spec.Template.Labels).AsSelectorPreValidated()
	var terminating int32
	var again time.Time
	for _, p := range kept {
		if !pods.Active(p) {
			if !pods.Finished(p) {
				terminating++
			}
			continue
		}
		status.Replicas++
		if template.Matches(labels.Set(p.Labels)) {
			status.FullyLabeledReplicas++
		}
		if !pods.Ready(p) {
			continue
		}
		status.ReadyReplicas++
		available, from := pods.Available(p, l.rs.Spec.MinReadySeconds, l.now)
		if available {
			status.AvailableReplicas++
		} else if !from.IsZero() && (again.IsZero() || from.Before(again)) {
			again = from
		}
	}
	if l.kind.CountsTerminating {
		status.TerminatingReplicas = &terminating
	}
	known := false
	for _, c := range l.rs.Status.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure {
			if failure == nil {
				continue
			}
			known = true
		}
		status.Conditions = append(status.Conditions, c)
	}
	if failure != nil && !known {
		status.Conditions = append(status.Conditions, *failure)
	}
	return status, again
}

func (l look) updateStatus(status appsv1.ReplicaSetStatus) commands.Command {
	return controllers.UpdateStatus(l.kind.Resource, l.kind.WithStatus(l.obj, status))
}
