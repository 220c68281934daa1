package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/runtime/agent/plan"
	"github.com/shiplog/shiplog/runtime/containers"
	"github.com/shiplog/shiplog/runtime/probes"
)

func (p *pod) start(ctx context.Context, act plan.Action) {
	api := p.snapshot()
	spec := findContainer(api, act.Container)
	p.mu.Lock()
	pulled := p.container(act.Container).Pulled
	p.mu.Unlock()
	st, err := p.a.startContainer(ctx, api, spec, act.Attempt)
	if err != nil {
		p.startFailed(api, spec, act, err)
		return
	}
	if !pulled {
		p.a.events.normal(api, spec.Name, "Pulled", fmt.Sprintf("Container image %q already present on machine", spec.Image))
	}
	p.a.events.normal(api, spec.Name, "Created", "Container created")
	p.a.events.normal(api, spec.Name, "Started", "Container started")
	hook := plan.NoHook
	if spec.Lifecycle != nil && spec.Lifecycle.PostStart != nil {
		hook = plan.HookRunning
	}
	instance := &plan.Instance{
		ID: st.ID, Attempt: act.Attempt, ImageID: st.ImageRef, Running: true, StartedAt: st.StartedAt, Hook: hook,
		Started: spec.StartupProbe == nil, Passing: spec.ReadinessProbe == nil,
	}
	p.with(func(o *plan.Observed) {
		c := p.container(spec.Name)
		turnover(c, instance.StartedAt)
		c.Starting, c.StartFail, c.Pulled, c.Last = false, plan.Failure{}, false, instance
		if act.Attempt > c.Restarts {
			c.Restarts = act.Attempt
		}
	})
	// It may have ended before it was noted.
	if now, err := p.a.containers.Get(st.ID); err == nil && now.State == containers.Exited {
		p.exited(now)
		return
	}
	p.a.probes.Start(p.target(api, spec, st.ID, st.StartedAt, false))
	if hook == plan.HookRunning {
		// It may take as long as it likes, but not longer than the agent.
		p.postStart(p.a.ctx, api, spec, st.ID)
	}
	p.a.background.Go(func() { p.forgetOld(spec.Name, act.Attempt) })
}

// turnover makes a container's latest run its previous one, and counts the crash.
func turnover(c *plan.Container, now time.Time) {
	if c.Last == nil {
		return
	}
	if now.Sub(c.Last.StartedAt) >= plan.BackoffReset && c.Last.FinishedAt.Sub(c.Last.StartedAt) >= plan.BackoffReset {
		c.Crashes = 0
	}
	c.Crashes++
	c.Previous = c.Last
}

func (p *pod) target(api *corev1.Pod, spec *corev1.Container, id string, at time.Time, started bool) probes.Target {
	p.mu.Lock()
	defer p.mu.Unlock()
	ip := firstOf(p.obs.PodIPs)
	if api.Spec.HostNetwork {
		ip = p.a.cfg.NodeIP.String()
	}
	return probes.Target{Pod: api, Container: spec, ID: id, IP: ip, StartedAt: at, Started: started}
}

// startFailed notes why a container does not run. What was never configured is tried again as it is; what could not be run
// counts as a run that failed at once, with the back-off of those.
func (p *pod) startFailed(api *corev1.Pod, spec *corev1.Container, act plan.Action, err error) {
	now := p.a.now()
	p.a.events.warn(api, spec.Name, "Failed", "Error: "+err.Error())
	if errors.Is(err, errEnv) || errors.Is(err, containers.ErrConfig) || errors.Is(err, errMounts) {
		p.with(func(*plan.Observed) {
			c := p.container(spec.Name)
			c.Starting, c.StartFail = false, again(c.StartFail, plan.ConfigError, err, now)
		})
		return
	}
	p.with(func(*plan.Observed) {
		c := p.container(spec.Name)
		turnover(c, now)
		c.Starting, c.Pulled = false, false
		c.StartFail = plan.Failure{}
		c.Last = &plan.Instance{
			ID: p.a.newID(), Attempt: act.Attempt, StartedAt: now, FinishedAt: now, ExitCode: 128, Reason: plan.StartError, Message: err.Error(),
		}
		c.Crashes = max(c.Crashes, 1)
		c.Restarts = max(c.Restarts, act.Attempt)
	})
}

// errMounts says that a container's volumes cannot be mounted as it wants them.
var errMounts = errors.New("volumes cannot be mounted")

func (a *Agent) startContainer(ctx context.Context, api *corev1.Pod, spec *corev1.Container, attempt int) (containers.Status, error) {
	img, err := a.images.Resolve(spec.Image)
	if err != nil {
		return containers.Status{}, err
	}
	env, err := environment(environmentInput{
		pod: api, container: spec, services: a.cluster.servicesFor(api.Namespace), objects: a.cluster, fields: a.fields,
	})
	if err != nil {
		return containers.Status{}, err
	}
	mounts, err := a.volumes.Mounts(api, spec, env)
	if err != nil {
		return containers.Status{}, fmt.Errorf("%w: %w", errMounts, err)
	}
	return a.containers.Start(ctx, containers.ContainerConfig{
		ID: a.newID(), Pod: api, Container: spec, Image: img, Attempt: attempt, Env: env,
		Mounts:  append(mounts, a.fileMounts(api, mounts)...),
		LogPath: filepath.Join(a.logDir(api), spec.Name, strconv.Itoa(attempt)+".log"),
	})
}

// fileMounts are the pod's files where the container does not mount its own.
func (a *Agent) fileMounts(api *corev1.Pod, have []containers.Mount) []containers.Mount {
	var out []containers.Mount
	for _, f := range podFiles {
		taken := false
		for _, m := range have {
			taken = taken || filepath.Clean(m.ContainerPath) == f.at
		}
		if !taken {
			out = append(out, containers.Mount{HostPath: filepath.Join(a.podDir(string(api.UID)), f.name), ContainerPath: f.at})
		}
	}
	return out
}

// forgetOld removes what is left of runs that nobody can ask about any more: those before the previous one.
func (p *pod) forgetOld(name string, attempt int) {
	ctx, cancel := context.WithTimeout(context.Background(), makeTimeout)
	defer cancel()
	for _, st := range p.a.containers.List() {
		if st.PodUID != p.uid || st.Name != name || st.Attempt >= attempt-1 || st.State == containers.Running {
			continue
		}
		if err := p.a.containers.Remove(ctx, st.ID); err != nil {
			p.a.log.Warn("removing an old container", "container", name, "error", err)
			continue
		}
		removeLog(st.LogPath)
	}
}
