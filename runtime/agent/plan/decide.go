package plan

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Decide says what to do next about a pod.
func Decide(pod *corev1.Pod, o *Observed, now time.Time) Decision {
	var d Decision
	p := planner{pod: pod, o: o, now: now, d: &d}
	switch {
	case pod.DeletionTimestamp != nil || o.Removed:
		p.terminate()
	case o.Terminal.Reason != "" || isTerminal(pod.Status.Phase) || p.deadline():
		p.end()
	case p.complete():
		p.end()
	default:
		p.run()
	}
	d.Status = p.status()
	return d
}

type planner struct {
	pod *corev1.Pod
	o   *Observed
	now time.Time
	d   *Decision
}

func (p *planner) container(name string) *Container {
	if c := p.o.Containers[name]; c != nil {
		return c
	}
	return &Container{}
}

// deadline says whether the pod has been active for longer than it may, and notes it.
func (p *planner) deadline() bool {
	s := p.pod.Spec.ActiveDeadlineSeconds
	if s == nil || p.o.StartTime.IsZero() {
		return false
	}
	end := p.o.StartTime.Add(time.Duration(*s) * time.Second)
	if p.now.Before(end) {
		p.d.wake(end)
		return false
	}
	return true
}

// restarts says whether a container that ended with a code is to run again.
func (p *planner) restarts(c *corev1.Container, init bool, code int32) bool {
	policy := p.pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return code != 0
	}
	// An init container that has done its work is not run again, whatever the policy; a sidecar is.
	return !init || code != 0 || IsSidecar(c)
}

// ended returns a container's latest instance if it has ended.
func ended(c *Container) *Instance {
	if c.Last != nil && !c.Last.Running {
		return c.Last
	}
	return nil
}

// complete says whether all has run that was to run, for good or ill.
func (p *planner) complete() bool {
	for i := range p.pod.Spec.InitContainers {
		spec := &p.pod.Spec.InitContainers[i]
		if IsSidecar(spec) {
			continue
		}
		if e := ended(p.container(spec.Name)); e != nil && e.ExitCode != 0 && !p.restarts(spec, true, e.ExitCode) {
			return true
		}
	}
	for i := range p.pod.Spec.Containers {
		spec := &p.pod.Spec.Containers[i]
		c := p.container(spec.Name)
		e := ended(c)
		if e == nil || c.Starting || p.restarts(spec, false, e.ExitCode) {
			return false
		}
	}
	return true
}

// each calls f for every container of the pod: those that initialise first.
func (p *planner) each(f func(spec *corev1.Container, init bool, c *Container)) {
	for i := range p.pod.Spec.InitContainers {
		s := &p.pod.Spec.InitContainers[i]
		f(s, true, p.container(s.Name))
	}
	for i := range p.pod.Spec.Containers {
		s := &p.pod.Spec.Containers[i]
		f(s, false, p.container(s.Name))
	}
}

// grace is how long the pod's containers may take to end.
func (p *planner) grace() time.Duration {
	s := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if p.pod.Spec.TerminationGracePeriodSeconds != nil {
		s = *p.pod.Spec.TerminationGracePeriodSeconds
	}
	if p.pod.DeletionGracePeriodSeconds != nil {
		s = *p.pod.DeletionGracePeriodSeconds
	}
	if p.o.Removed {
		s = min(s, 2)
	}
	return time.Duration(max(s, 0)) * time.Second
}

// stopAll kills what runs, the sidecars after the others, and says whether all has ended.
func (p *planner) stopAll(reason string) bool {
	stopBy := p.now.Add(p.grace())
	if p.pod.DeletionTimestamp != nil && p.pod.DeletionTimestamp.Time.Before(stopBy) {
		stopBy = p.pod.DeletionTimestamp.Time
	}
	busy, mainBusy := false, false
	p.each(func(spec *corev1.Container, _ bool, c *Container) {
		if c.Starting || c.Last != nil && c.Last.Running {
			busy = true
			mainBusy = mainBusy || !IsSidecar(spec)
		}
	})
	// Sidecars serve the others to the end, and then stop in the reverse of their order, one after the other.
	lastSidecar := ""
	for i := range p.pod.Spec.InitContainers {
		s := &p.pod.Spec.InitContainers[i]
		if c := p.container(s.Name); IsSidecar(s) && (c.Starting || c.Last != nil && c.Last.Running) {
			lastSidecar = s.Name
		}
	}
	p.each(func(spec *corev1.Container, _ bool, c *Container) {
		if c.Last == nil || !c.Last.Running {
			return
		}
		if IsSidecar(spec) && (mainBusy || spec.Name != lastSidecar) && p.now.Before(stopBy) {
			return
		}
		p.kill(spec.Name, c, stopBy, reason)
	})
	if busy && p.now.Before(stopBy) {
		p.d.wake(stopBy)
	}
	return !busy
}

// kill asks for a container's end, unless that has been asked for already with no more patience.
func (p *planner) kill(name string, c *Container, by time.Time, reason string) {
	if c.Last.Stopping && !by.Before(c.Last.StopBy) {
		return
	}
	p.d.do(Action{Kind: Kill, Container: name, Instance: c.Last.ID, By: by, Reason: reason})
}

// terminate ends the pod for good: containers, then the sandbox, then volumes and logs, then the API's object.
func (p *planner) terminate() {
	if !p.stopAll("Killing") {
		return
	}
	switch p.o.Cleaned {
	case Absent:
		if p.o.Sandbox == Making || p.o.Volumes == Making {
			return // its end wakes us
		}
		p.d.do(Action{Kind: Cleanup})
	case Ready:
		switch {
		case p.o.Removed:
			p.d.Gone = true
		case !p.o.Deleted && p.o.Reported:
			p.d.do(Action{Kind: DeletePod})
		}
	}
}

// end stops a pod that is over but stays in the API: its logs stay too, its address goes.
func (p *planner) end() {
	if p.stopAll("Killing") && p.o.Sandbox == Ready {
		p.d.do(Action{Kind: RemoveSandbox})
	}
}

// run brings the pod to where it is wanted.
func (p *planner) run() {
	if p.o.SandboxLost {
		// What shared the sandbox cannot go on in another one.
		if p.stopAll("SandboxChanged") && p.o.Sandbox == Ready {
			p.d.do(Action{Kind: RemoveSandbox})
		}
		return
	}
	p.prepare()
	next, initialised := p.initialise()
	for _, s := range next {
		p.want(s, true)
	}
	if initialised {
		for i := range p.pod.Spec.Containers {
			p.want(&p.pod.Spec.Containers[i], false)
		}
	}
	p.each(func(spec *corev1.Container, _ bool, c *Container) {
		if c.Last != nil && c.Last.Running && c.Last.Unhealthy != "" {
			by := p.now.Add(p.grace())
			if g := probeGrace(spec); g != nil {
				by = p.now.Add(*g)
			}
			p.kill(spec.Name, c, by, c.Last.Unhealthy)
		}
	})
}

// probeGrace is the grace period of a probe, which comes before the pod's.
func probeGrace(spec *corev1.Container) *time.Duration {
	for _, probe := range []*corev1.Probe{spec.LivenessProbe, spec.StartupProbe} {
		if probe != nil && probe.TerminationGracePeriodSeconds != nil {
			g := time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
			return &g
		}
	}
	return nil
}

// prepare makes the sandbox and the volumes, side by side.
func (p *planner) prepare() {
	if p.o.Sandbox == Absent {
		if at := p.o.SandboxFail.retryAt(); at.After(p.now) {
			p.d.wake(at)
		} else {
			p.d.do(Action{Kind: MakeSandbox})
		}
	}
	if p.o.Volumes == Absent {
		if at := p.o.VolumeFail.quickRetryAt(); at.After(p.now) {
			p.d.wake(at)
		} else {
			p.d.do(Action{Kind: MountVolumes})
		}
	}
}

// initialise returns the init containers that are to run now, and whether the pod is initialised.
func (p *planner) initialise() (next []*corev1.Container, done bool) {
	mainStarted := false
	for i := range p.pod.Spec.Containers {
		c := p.container(p.pod.Spec.Containers[i].Name)
		mainStarted = mainStarted || c.Last != nil && c.Last.Running
	}
	done = true
	for i := range p.pod.Spec.InitContainers {
		s := &p.pod.Spec.InitContainers[i]
		c := p.container(s.Name)
		if IsSidecar(s) {
			next = append(next, s)
			if !mainStarted && (c.Last == nil || !c.Last.Running || !c.Last.Started || c.Last.Hook == HookRunning) {
				return next, false
			}
			continue
		}
		if mainStarted && c.Last == nil {
			continue // its remains are gone, its work is done
		}
		if e := ended(c); e != nil && e.ExitCode == 0 && !c.Starting {
			continue
		}
		return append(next, s), false
	}
	return next, done
}

// want makes a container run: its image first, then itself, both with the patience that past failures call for.
func (p *planner) want(spec *corev1.Container, init bool) {
	c := p.container(spec.Name)
	if c.Starting || c.Last != nil && c.Last.Running {
		return
	}
	attempt := 0
	if c.Previous != nil {
		attempt = c.Previous.Attempt + 1 // it was initialised before, in a sandbox that is gone
	}
	if e := c.Last; e != nil {
		if !p.restarts(spec, init, e.ExitCode) {
			return
		}
		attempt = e.Attempt + 1
		if at := e.FinishedAt.Add(Backoff(c.Crashes)); at.After(p.now) {
			if shown := e.FinishedAt.Add(justFailed); e.Reason == StartError && shown.After(p.now) {
				p.d.wake(shown)
			}
			p.d.wake(at)
			return
		}
	}
	if !p.image(spec, c) {
		return
	}
	if at := c.StartFail.quickRetryAt(); at.After(p.now) {
		p.d.wake(at)
		return
	}
	if p.o.Sandbox != Ready || p.o.Volumes != Ready {
		return
	}
	p.d.do(Action{Kind: Start, Container: spec.Name, Attempt: attempt})
}

// image says whether the image is as the pull policy wants it, and asks for a pull if not.
func (p *planner) image(spec *corev1.Container, c *Container) bool {
	if c.Pulling {
		return false
	}
	switch spec.ImagePullPolicy {
	case corev1.PullNever:
		return c.Image
	case corev1.PullAlways:
		if c.Pulled {
			return true
		}
	default:
		if c.Image {
			return true
		}
	}
	if c.PullFail.Count > 0 {
		if shown := c.PullFail.At.Add(justFailed); shown.After(p.now) {
			p.d.wake(shown)
		}
		if at := c.PullFail.retryAt(); at.After(p.now) {
			p.d.wake(at)
			return false
		}
	}
	p.d.do(Action{Kind: Pull, Container: spec.Name})
	return false
}
