package replicas

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
			d.Commands = append(d.Commands, pods.Release(p, l.rs))
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
				d.Commands = append(d.Commands, pods.Adopt(p, owner))
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
		if pods.Adoptable(p) && l.selector.Matches(labels.Set(p.Labels)) {
			found = append(found, p)
		}
	}
	return found
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
		d.Events, failed = pods.Told(about, outcomes)
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
