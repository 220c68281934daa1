package scheduler

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/projections"
)

// sayAgainAfter bounds how often the same refusal of a pod is told by an Event.
const sayAgainAfter = time.Minute

// sayUnschedulable writes the condition of a pod that no node takes, and an Event.
func (x *session) sayUnschedulable(ctx context.Context, e *entry) {
	pod, message := e.pending.Pod(), e.reasons.Message
	now := x.cfg.Now()
	if e.said != message || now.Sub(e.saidAt) >= sayAgainAfter {
		e.said, e.saidAt = message, now
		x.event(ctx, e, corev1.EventTypeWarning, "FailedScheduling", message)
	}
	if e.saying {
		return
	}
	updated := withCondition(pod, message, e.pending.nominated, now)
	if updated == nil {
		return
	}
	e.saying = true
	cmd := commands.Command{
		Verb: commands.Update, Resource: podsVersioned, Subresource: "status", Namespace: pod.Namespace, Name: pod.Name,
		Object: updated, Actor: x.actor(), Cause: e.cause, Correlation: e.correlation,
	}
	x.notes.Submit(ctx, func(ctx context.Context) func() {
		_, err := x.bus.Do(ctx, cmd)
		return func() {
			e.saying = false
			if err == nil || ctx.Err() != nil || apierrors.IsNotFound(err) {
				return
			}
			x.log.Debug("writing why a pod cannot be scheduled", "pod", podKey(pod), "err", err)
			// The pod changed under our hands: tell it again on what is known of it by now, if there is anything newer.
			if apierrors.IsConflict(err) && x.queue.has(podKey(pod), e) && e.state == waiting && e.pending.Pod() != pod {
				x.sayUnschedulable(ctx, e)
			}
		}
	})
}

// withCondition returns the pod with the condition PodScheduled=False, the message and the nominated node, or nil when it says so
// already.
func withCondition(pod *corev1.Pod, message, nominated string, now time.Time) *corev1.Pod {
	cond := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	}
	at := -1
	for i := range pod.Status.Conditions {
		old := &pod.Status.Conditions[i]
		if old.Type != corev1.PodScheduled {
			continue
		}
		at = i
		if old.Status == cond.Status {
			cond.LastTransitionTime = old.LastTransitionTime
			if old.Reason == cond.Reason && old.Message == message && pod.Status.NominatedNodeName == nominated {
				return nil
			}
		}
	}
	updated := pod.DeepCopy()
	updated.Status.NominatedNodeName = nominated
	if at < 0 {
		updated.Status.Conditions = append(updated.Status.Conditions, cond)
	} else {
		updated.Status.Conditions[at] = cond
	}
	return updated
}

func (x *session) sayScheduled(ctx context.Context, e *entry, node string) {
	key := podKey(e.pending.Pod())
	x.event(ctx, e, corev1.EventTypeNormal, "Scheduled", fmt.Sprintf("Successfully assigned %s to %s", key, node))
}

var eventsVersioned = corev1.SchemeGroupVersion.WithResource("events")

// event writes a core Event about a pod. The name is made of what it says, so that saying it again raises its count.
func (x *session) event(ctx context.Context, e *entry, kind, reason, message string) {
	x.eventAbout(ctx, e.pending.Pod(), e, kind, reason, message)
}

// eventAbout writes a core Event about a pod that follows from a decision about an entry.
func (x *session) eventAbout(ctx context.Context, pod *corev1.Pod, e *entry, kind, reason, message string) {
	if x.notes.Waiting() >= maxNotes {
		return
	}
	now := metav1.NewTime(x.cfg.Now().Truncate(time.Second))
	ev := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: eventName(pod, reason, message)},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
		},
		Type: kind, Reason: reason, Message: message, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: x.cfg.Name}, ReportingController: x.cfg.Name,
	}
	cmd := commands.Command{
		Verb: commands.Create, Resource: eventsVersioned, Namespace: ev.Namespace, Name: ev.Name, Object: ev,
		Actor: x.actor(), Cause: e.cause, Correlation: e.correlation,
	}
	x.notes.Submit(ctx, func(ctx context.Context) func() {
		old, there := projections.Get[*corev1.Event](x.live.Snapshot(), eventsResource, ev.Namespace, ev.Name)
		if there {
			again := old.DeepCopy()
			again.Count++
			again.LastTimestamp = now
			again.ResourceVersion = ""
			cmd.Verb, cmd.Object = commands.Update, again
		}
		_, err := x.bus.Do(ctx, cmd)
		return func() {
			// Events are a courtesy: one that is lost (the namespace is going, the live view was a little behind) is no loss.
			if err != nil && ctx.Err() == nil {
				x.log.Debug("writing an event", "pod", podKey(pod), "reason", reason, "err", err)
			}
		}
	})
}

func eventName(pod *corev1.Pod, reason, message string) string {
	name := pod.Name
	const suffix, longest = 17, 253
	if len(name) > longest-suffix {
		name = name[:longest-suffix]
	}
	return fmt.Sprintf("%s.%016x", name, mix(hashString(string(pod.UID))^mix(hashString(reason)^mix(hashString(message)))))
}
