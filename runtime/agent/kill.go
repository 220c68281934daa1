package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/runtime/agent/plan"
	"github.com/shiplog/shiplog/runtime/containers"
	"github.com/shiplog/shiplog/runtime/probes"
)

// leastGrace is what a container gets to end in when its preStop hook has used up the grace.
const leastGrace = 2 * time.Second

// kill ends a container: its preStop hook, then its stop signal, and SIGKILL when the time is over. A later wish with less
// patience takes over from an earlier one.
func (p *pod) kill(ctx context.Context, act plan.Action) {
	killCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	me := &stopping{by: act.By, cancel: cancel}
	p.mu.Lock()
	before := p.kills[act.Instance]
	p.kills[act.Instance] = me
	p.mu.Unlock()
	if before != nil {
		before.cancel()
	}
	api := p.snapshot()
	spec := findContainer(api, act.Container)
	p.a.probes.Stop(act.Instance)
	if before == nil {
		p.a.events.normal(api, act.Container, "Killing", killMessage(spec.Name, act.Reason))
		if p.a.now().Before(act.By) {
			p.preStop(killCtx, api, spec, act)
		}
	}
	grace := act.By.Sub(p.a.now())
	if act.By.After(p.a.now()) || before == nil && p.graceful(api) {
		grace = max(grace, leastGrace)
	}
	signal := ""
	if spec.Lifecycle != nil && spec.Lifecycle.StopSignal != nil {
		signal = string(*spec.Lifecycle.StopSignal)
	}
	if _, err := p.a.containers.Stop(killCtx, act.Instance, signal, grace); err != nil && killCtx.Err() == nil && !errors.Is(err, containers.ErrNotFound) {
		p.a.log.Error("stopping a container", "pod", api.Namespace+"/"+api.Name, "container", act.Container, "error", err)
		p.a.events.warn(api, act.Container, "FailedKillPod", err.Error())
		p.with(func(*plan.Observed) {
			if c := p.container(act.Container); c.Last != nil && c.Last.ID == act.Instance {
				c.Last.Stopping = false
			}
		})
	}
	p.mu.Lock()
	if p.kills[act.Instance] == me {
		delete(p.kills, act.Instance)
	}
	p.mu.Unlock()
}

// graceful says whether the pod's containers are to be asked before they are killed at all.
func (p *pod) graceful(api *corev1.Pod) bool {
	if api.DeletionGracePeriodSeconds != nil {
		return *api.DeletionGracePeriodSeconds > 0
	}
	return api.Spec.TerminationGracePeriodSeconds == nil || *api.Spec.TerminationGracePeriodSeconds > 0
}

func killMessage(container, reason string) string {
	switch reason {
	case "", "Killing":
		return "Stopping container " + container
	case "SandboxChanged":
		return "Pod sandbox changed, it will be killed and re-created."
	}
	return fmt.Sprintf("Container %s %s, will be restarted", container, reason)
}

func (p *pod) preStop(ctx context.Context, api *corev1.Pod, spec *corev1.Container, act plan.Action) {
	if spec.Lifecycle == nil || spec.Lifecycle.PreStop == nil {
		return
	}
	ctx, cancel := context.WithDeadline(ctx, act.By)
	defer cancel()
	if err := p.hook(ctx, api, spec, act.Instance, spec.Lifecycle.PreStop); err != nil {
		p.a.events.warn(api, spec.Name, "FailedPreStopHook", "PreStopHook failed: "+err.Error())
	}
}

func (p *pod) postStart(ctx context.Context, api *corev1.Pod, spec *corev1.Container, id string) {
	err := p.hook(ctx, api, spec, id, spec.Lifecycle.PostStart)
	if err != nil {
		p.a.events.warn(api, spec.Name, "FailedPostStartHook", "PostStartHook failed: "+err.Error())
	}
	p.with(func(*plan.Observed) {
		c := p.container(spec.Name)
		if c.Last == nil || c.Last.ID != id {
			return
		}
		c.Last.Hook = plan.HookDone
		if err != nil {
			c.Last.Unhealthy = "failed its postStart hook"
		}
	})
}

// hook runs a lifecycle hook to its end.
func (p *pod) hook(ctx context.Context, api *corev1.Pod, spec *corev1.Container, id string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		out, err := p.a.exec(ctx, id, h.Exec.Command)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	case h.HTTPGet != nil:
		_, err := probes.Get(ctx, p.a.hookTransport, p.target(api, spec, id, time.Time{}, true), h.HTTPGet)
		return err
	case h.Sleep != nil:
		timer := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// exec runs a command in a container for a probe or a hook.
func (a *Agent) exec(ctx context.Context, id string, command []string) (string, error) {
	var out probes.Output
	err := a.containers.Exec(ctx, id, containers.ExecOptions{Command: command, Stdout: &out, Stderr: &out})
	return out.String(), err
}

// probeTarget is what probes ask about a container that an earlier process of the agent has started.
func probeTarget(api *corev1.Pod, spec *corev1.Container, i *plan.Instance, ip string) probes.Target {
	return probes.Target{Pod: api, Container: spec, ID: i.ID, IP: ip, StartedAt: i.StartedAt, Started: i.Started}
}

func trimScheme(containerID string) string { return strings.TrimPrefix(containerID, "shiplog://") }

// probed takes in what a probe has decided.
func (a *Agent) probed(r probes.Result) {
	p := a.pod(string(r.Target.Pod.UID))
	if p == nil {
		return
	}
	p.with(func(*plan.Observed) {
		c := p.container(r.Target.Container.Name)
		if c.Last == nil || c.Last.ID != r.Target.ID {
			return
		}
		switch {
		case r.Kind == probes.Readiness:
			c.Last.Passing = r.Passing
		case r.Passing && r.Kind == probes.Startup:
			c.Last.Started = true
		case !r.Passing && r.Kind == probes.Startup:
			c.Last.Unhealthy = "failed startup probe"
		case !r.Passing:
			c.Last.Unhealthy = "failed liveness probe"
		}
	})
}
