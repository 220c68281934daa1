package sim

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/internal/due"
	"github.com/shiplog/shiplog/projections"
)

// podState is a pod on a simulated node.
type podState struct {
	due.Place // of its next step
	pod       *corev1.Pod
	position  uint64 // of its last event
	cause     origin
	ip        string
	busy      bool // a command about it is in flight
	gone      bool
}

// origin is the event that a step follows from.
type origin struct {
	cause       domain.Cause
	correlation string // "" where only the position is known: the bus finds it out
}

func (p *podState) key() types.NamespacedName {
	return types.NamespacedName{Namespace: p.pod.Namespace, Name: p.pod.Name}
}

// see takes note of a pod as of a position; it returns nil when the pod is not on a simulated node.
func (x *session) see(pod *corev1.Pod, position uint64, cause origin) *podState {
	if pod.Spec.NodeName == "" || x.nodes[pod.Spec.NodeName] == nil {
		return nil
	}
	key := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	p := x.pods[key]
	if p != nil && p.pod.UID != pod.UID {
		x.forget(p)
		p = nil
	}
	if p == nil {
		p = &podState{ip: pod.Status.PodIP}
		x.pods[key] = p
		x.ips.reserve(p.ip)
	}
	if position >= p.position {
		p.pod, p.position, p.cause = pod, position, cause
	}
	return p
}

func (x *session) forget(p *podState) {
	p.gone = true
	delete(x.pods, p.key())
	x.due.Remove(p)
	if p.ip != "" && !p.pod.Spec.HostNetwork {
		x.ips.release(p.ip)
	}
}

func (x *session) podChanged(ctx context.Context, c *projections.Change) {
	if c.After == nil {
		key := types.NamespacedName{Namespace: c.Event.Ref.Namespace, Name: c.Event.Ref.Name}
		if p := x.pods[key]; p != nil && p.pod.UID == c.Event.Ref.UID {
			x.forget(p)
		}
		return
	}
	pod, ok := projections.As[*corev1.Pod](c.After)
	if !ok {
		x.log.Error("reading a pod", "pod", c.Event.Ref, "position", c.Event.Position)
		return
	}
	if p := x.see(pod, c.Event.Position, origin{domain.Cause{ID: c.Event.ID, Position: c.Event.Position}, c.Event.Correlation}); p != nil {
		x.consider(ctx, p)
	}
}

// consider has the next step of a pod carried out, or notes when it is due.
func (x *session) consider(ctx context.Context, p *podState) {
	node := x.nodes[p.pod.Spec.NodeName]
	if p.busy || p.gone || node == nil {
		return
	}
	x.due.Remove(p)
	if p.ip == "" {
		if p.pod.Spec.HostNetwork {
			p.ip = node.ip
		} else {
			ip, err := x.ips.take()
			if err != nil {
				x.log.Error("giving a pod an address", "pod", p.key(), "err", err)
				x.due.Set(p, x.opts.Now().Add(retryAfter))
				return
			}
			p.ip = ip
		}
	}
	now := x.opts.Now()
	step, ok := Decide(x.opts.Stages, p.pod, Env{Now: now, HostIP: node.ip, PodIP: p.ip})
	switch {
	case !ok:
		return
	case step.At.After(now):
		x.due.Set(p, step.At)
		return
	}
	p.busy = true
	cmd := command(p, node, step)
	sent := p.position
	x.work.Submit(ctx, func(ctx context.Context) func() {
		r, err := x.bus.Do(ctx, cmd)
		return func() {
			p.busy = false
			switch {
			case p.gone || ctx.Err() != nil || apierrors.IsNotFound(err):
				return // its deletion is on its way here, if it is not here yet
			case err == nil:
				if pod, ok := r.Object.(*corev1.Pod); ok && cmd.Verb == commands.Update && r.Position > p.position {
					p.pod, p.position = pod, r.Position
				}
			case p.position == sent:
				if !apierrors.IsConflict(err) { // else the change that was in the way is on its way here
					x.log.Warn("a step of a simulated pod was refused", "pod", p.key(), "stage", step.Stage, "err", err)
				}
				x.due.Set(p, x.opts.Now().Add(retryAfter))
				return
			}
			if p.position > sent {
				x.consider(ctx, p)
			}
		}
	})
}

var podsVersioned = corev1.SchemeGroupVersion.WithResource("pods")

func command(p *podState, node *nodeState, step Step) commands.Command {
	cause := p.cause.cause
	cmd := commands.Command{
		Resource: podsVersioned, Namespace: p.pod.Namespace, Name: p.pod.Name, Actor: node.actor(),
		Cause: &cause, Correlation: p.cause.correlation,
	}
	if step.Delete {
		now, uid := int64(0), p.pod.UID
		cmd.Verb = commands.Delete
		cmd.DeleteOptions = &metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid}}
		return cmd
	}
	updated := *p.pod // the status alone is replaced
	updated.Status = *step.Status
	cmd.Verb, cmd.Subresource, cmd.Object = commands.Update, "status", &updated
	return cmd
}
