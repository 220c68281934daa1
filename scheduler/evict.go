package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/commands"
)

// nominate holds room for a waiting pod on a node; "" lets go of what was held.
func (x *session) nominate(e *entry, node string) {
	if e.pending.nominated == "" && node == "" {
		return
	}
	e.pending = e.pending.For(node)
	x.state.Nominate(e.pending, node)
}

// preempt asks the victims of a pod to go. Their deletion is seen in the live view like any other, and gives the pod its chance.
func (x *session) preempt(ctx context.Context, e *entry, p Placement) {
	if len(p.Victims) == 0 {
		return
	}
	evidence, err := json.Marshal(p.Reasons)
	if err != nil {
		x.log.Error("encoding the reasons of a preemption", "pod", podKey(e.pending.Pod()), "err", err)
		return
	}
	for _, v := range p.Victims {
		victim := v.Pod()
		x.bind.Submit(ctx, func(ctx context.Context) func() {
			err := x.evict(ctx, e, victim, evidence)
			return func() {
				switch {
				case err == nil:
					x.eventAbout(ctx, victim, e, corev1.EventTypeNormal, "Preempted",
						fmt.Sprintf("Preempted by pod %s on node %s", e.pending.Pod().UID, p.Nominated))
				case ctx.Err() != nil || apierrors.IsNotFound(err):
				default:
					// The pod tries again, on what is so by then.
					x.log.Warn("preempting a pod", "pod", podKey(victim), "for", podKey(e.pending.Pod()), "err", err)
					if x.queue.has(podKey(e.pending.Pod()), e) && e.state == waiting {
						x.nominate(e, "")
						x.queue.backOff(e, x.cfg.Now())
					}
				}
			}
		})
	}
}

// evict says on a pod why it goes, and deletes it.
func (x *session) evict(ctx context.Context, e *entry, victim *corev1.Pod, evidence []byte) error {
	condition := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
		Message:            x.cfg.Name + ": preempting to accommodate a higher priority pod",
		ObservedGeneration: victim.Generation, LastTransitionTime: metav1.NewTime(x.cfg.Now().Truncate(time.Second)),
	}
	// A patch of the one condition: the pod's node writes the rest of the status at the same time.
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": victim.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{condition}},
	})
	if err != nil {
		return fmt.Errorf("describing the condition of pod %s: %w", podKey(victim), err)
	}
	cmd := commands.Command{
		Verb: commands.Patch, Resource: podsVersioned, Subresource: "status", Namespace: victim.Namespace, Name: victim.Name,
		Patch: patch, PatchType: types.StrategicMergePatchType,
		Actor: x.actor(), Cause: e.cause, Correlation: e.correlation, Evidence: evidence,
	}
	if _, err := x.bus.Do(ctx, cmd); err != nil {
		return fmt.Errorf("marking pod %s: %w", podKey(victim), err)
	}
	uid := victim.UID
	cmd.Verb, cmd.Subresource, cmd.Patch, cmd.PatchType = commands.Delete, "", nil, ""
	cmd.DeleteOptions = &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
	if _, err := x.bus.Do(ctx, cmd); err != nil {
		return fmt.Errorf("deleting pod %s: %w", podKey(victim), err)
	}
	return nil
}
