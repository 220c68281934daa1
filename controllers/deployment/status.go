package deployment

import (
	"fmt"
	"math"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The reasons of the Progressing condition; kubectl rollout status reads the last.
const (
	reasonAvailable = "NewReplicaSetAvailable"
	reasonUpdated   = "ReplicaSetUpdated"
	reasonPaused    = "DeploymentPaused"
	reasonResumed   = "DeploymentResumed"
	reasonTimedOut  = "ProgressDeadlineExceeded"
)

// hasDeadline says whether progress is watched; the largest number stands for never.
func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func condition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

func removeCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	var rest []appsv1.DeploymentCondition
	for _, c := range s.Conditions {
		if c.Type != t {
			rest = append(rest, c)
		}
	}
	s.Conditions = rest
}

// setCondition sets a condition unless it already has the status and the reason.
func (r *rollout) setCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	r.putCondition(s, appsv1.DeploymentCondition{
		Type: t, Status: status, Reason: reason, Message: message,
		LastUpdateTime: metav1.NewTime(r.now), LastTransitionTime: metav1.NewTime(r.now),
	})
}

func (r *rollout) putCondition(s *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	if have := condition(s, c.Type); have != nil {
		if have.Status == c.Status && have.Reason == c.Reason {
			return
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
	}
	removeCondition(s, c.Type)
	s.Conditions = append(s.Conditions, c)
}

// pauseCondition tells that the deployment is paused or resumed, so that the time in between does not count as lack of
// progress.
func (r *rollout) pauseCondition() {
	if !hasDeadline(r.d) {
		return
	}
	c := condition(&r.d.Status, appsv1.DeploymentProgressing)
	if c != nil && c.Reason == reasonTimedOut {
		return
	}
	told := c != nil && c.Reason == reasonPaused
	switch {
	case r.d.Spec.Paused && !told:
		r.setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	case !r.d.Spec.Paused && told:
		r.setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
	}
}

// count sums up the sets.
func (r *rollout) count(current *set) appsv1.DeploymentStatus {
	status := appsv1.DeploymentStatus{ObservedGeneration: r.d.Generation, CollisionCount: r.d.Status.CollisionCount}
	var terminating int32
	known := true
	for _, s := range r.sets {
		rs := &s.now.Status
		status.Replicas += rs.Replicas
		status.ReadyReplicas += rs.ReadyReplicas
		status.AvailableReplicas += rs.AvailableReplicas
		if rs.TerminatingReplicas == nil {
			known = false
		} else {
			terminating += *rs.TerminatingReplicas
		}
	}
	if known && len(r.sets) > 0 {
		status.TerminatingReplicas = &terminating
	}
	if current != nil {
		status.UpdatedReplicas = current.now.Status.Replicas
	}
	status.UnavailableReplicas = max(0, total(r.sets)-status.AvailableReplicas)
	status.Conditions = append(status.Conditions, r.d.Status.Conditions...)
	if status.AvailableReplicas >= *r.d.Spec.Replicas-maxUnavailable(r.d) {
		r.setCondition(&status, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		r.setCondition(&status, appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
	return status
}

// complete says whether all replicas are of the current template and available.
func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	n := *d.Spec.Replicas
	return s.UpdatedReplicas == n && s.Replicas == n && s.AvailableReplicas == n && s.ObservedGeneration >= d.Generation
}

// progressed says whether the new status is nearer to the goal than the old one.
func progressed(before, after *appsv1.DeploymentStatus) bool {
	return after.UpdatedReplicas > before.UpdatedReplicas ||
		after.Replicas-after.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		after.ReadyReplicas > before.ReadyReplicas ||
		after.AvailableReplicas > before.AvailableReplicas
}

// progress is count, with the conditions of a rollout under way.
func (r *rollout) progress(current *set) appsv1.DeploymentStatus {
	status := r.count(current)
	have := condition(&r.d.Status, appsv1.DeploymentProgressing)
	if !hasDeadline(r.d) {
		removeCondition(&status, appsv1.DeploymentProgressing)
	} else if finished := status.Replicas == status.UpdatedReplicas && have != nil && have.Reason == reasonAvailable; !finished {
		subject := fmt.Sprintf("Deployment %q", r.d.Name)
		if current != nil {
			subject = fmt.Sprintf("ReplicaSet %q", current.now.Name)
		}
		switch {
		case complete(r.d, &status):
			r.setCondition(&status, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, subject+" has successfully progressed.")
		case progressed(&r.d.Status, &status):
			// The time of the last progress counts, so that the condition is replaced even by an equal one.
			transition := metav1.NewTime(r.now)
			if have != nil && have.Status == corev1.ConditionTrue {
				transition = have.LastTransitionTime
			}
			removeCondition(&status, appsv1.DeploymentProgressing)
			status.Conditions = append(status.Conditions, appsv1.DeploymentCondition{
				Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reasonUpdated, Message: subject + " is progressing.",
				LastUpdateTime: metav1.NewTime(r.now), LastTransitionTime: transition,
			})
		case r.timedOut(have):
			r.setCondition(&status, appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, subject+" has timed out progressing.")
		}
	}
	if failure := r.failure(current); failure != nil {
		r.putCondition(&status, *failure)
	} else {
		removeCondition(&status, appsv1.DeploymentReplicaFailure)
	}
	return status
}

func (r *rollout) timedOut(c *appsv1.DeploymentCondition) bool {
	switch {
	case c == nil, c.Reason == reasonAvailable:
		return false
	case c.Reason == reasonTimedOut:
		return true
	}
	return c.LastUpdateTime.Add(time.Duration(*r.d.Spec.ProgressDeadlineSeconds) * time.Second).Before(r.now)
}

// deadline is when lack of progress is to be looked for; zero when nothing is under way.
func (r *rollout) deadline() time.Time {
	c := condition(&r.d.Status, appsv1.DeploymentProgressing)
	if r.d.Spec.Paused || r.d.DeletionTimestamp != nil || !hasDeadline(r.d) || c == nil || c.Reason == reasonTimedOut || complete(r.d, &r.d.Status) {
		return time.Time{}
	}
	// A second more than the deadline, as conditions hold whole seconds.
	at := c.LastUpdateTime.Add(time.Duration(*r.d.Spec.ProgressDeadlineSeconds)*time.Second + time.Second)
	if !at.After(r.now) {
		return r.now.Add(time.Second)
	}
	return at
}

// failure is the failure to create or delete pods that a set reports, the current one's first.
func (r *rollout) failure(current *set) *appsv1.DeploymentCondition {
	sets := r.sets
	if current != nil {
		sets = append([]*set{current}, sets...)
	}
	for _, s := range sets {
		for _, c := range s.now.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastUpdateTime: c.LastTransitionTime, LastTransitionTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}
