package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
)

// sender tells the API a pod's status: one at a time, the newest only, and again when the control plane is away.
type sender struct {
	busy bool
}

// report has the decided status sent; the caller holds the pod's lock.
func (p *pod) report() {
	if p.sender.busy {
		return // it looks for the newest when it is through
	}
	p.sender.busy = true
	p.a.background.Go(func() { p.send(p.a.ctx) })
}

func (p *pod) send(ctx context.Context) {
	wait := 200 * time.Millisecond
	for {
		p.mu.Lock()
		base, cause := p.api, p.cause
		status := p.currentStatus()
		decided := p.decided
		stop := p.obs.Removed || ctx.Err() != nil
		if stop {
			p.sender.busy = false
		}
		p.mu.Unlock()
		if stop {
			return
		}
		patch, err := statusPatch(base, status)
		if err != nil {
			p.a.log.Error("making a status patch", "pod", base.Namespace+"/"+base.Name, "error", err)
			patch = nil
		}
		var result commands.Result
		if patch != nil {
			result, err = p.a.cfg.Upstream.Bus.Do(ctx, commands.Command{
				Verb: commands.Patch, Resource: podsVersioned, Subresource: "status", Namespace: base.Namespace, Name: base.Name,
				Patch: patch, PatchType: types.StrategicMergePatchType, Actor: p.a.cfg.actor(), Cause: cause,
			})
		}
		switch {
		case err == nil:
		case apierrors.IsNotFound(err):
			p.mu.Lock()
			p.sender.busy = false
			p.obs.Reported = true
			p.mu.Unlock()
			p.poke()
			return
		default:
			p.a.log.Warn("telling a pod's status", "pod", base.Namespace+"/"+base.Name, "error", err)
			select {
			case <-time.After(wait):
				wait = min(2*wait, 10*time.Second)
			case <-ctx.Done():
			}
			continue
		}
		wait = 200 * time.Millisecond
		p.mu.Lock()
		if now, ok := result.Object.(*corev1.Pod); ok && now.UID == p.api.UID && positionOf(now) > positionOf(p.api) {
			p.api = now
		}
		finished := p.decided == decided
		if finished {
			p.sender.busy = false
			p.obs.Reported = true
		}
		p.mu.Unlock()
		if finished {
			p.poke()
			return
		}
	}
}

// statusPatch is what of the status differs from what the API has; nil when nothing does. It holds the uid, so that it never
// changes a later pod of the same name.
func statusPatch(base *corev1.Pod, status corev1.PodStatus) ([]byte, error) {
	before, err := json.Marshal(corev1.Pod{Status: base.Status})
	if err != nil {
		return nil, fmt.Errorf("writing the status: %w", err)
	}
	after, err := json.Marshal(corev1.Pod{Status: status})
	if err != nil {
		return nil, fmt.Errorf("writing the status: %w", err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("comparing statuses: %w", err)
	}
	if string(patch) == "{}" {
		return nil, nil
	}
	var m map[string]any
	if err := json.Unmarshal(patch, &m); err != nil {
		return nil, fmt.Errorf("comparing statuses: %w", err)
	}
	m["metadata"] = map[string]any{"uid": string(base.UID)}
	return json.Marshal(m)
}

var (
	podsVersioned   = corev1.SchemeGroupVersion.WithResource("pods")
	nodesVersioned  = corev1.SchemeGroupVersion.WithResource("nodes")
	eventsVersioned = corev1.SchemeGroupVersion.WithResource("events")
	accountsVersion = corev1.SchemeGroupVersion.WithResource("serviceaccounts")
)

// causeOf points at the event that made the feed say something.
func causeOf(id string, position uint64) *domain.Cause {
	if id == "" {
		return nil
	}
	return &domain.Cause{ID: id, Position: position}
}
