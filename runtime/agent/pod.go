package agent

import (
	"context"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/runtime/agent/plan"
	"github.com/shiplog/shiplog/runtime/containers"
)

// pod is one pod on this node: what is wanted, what there is, and one goroutine that decides when either changes. Actions run
// on goroutines of their own and come back with what they found.
type pod struct {
	a                    *Agent
	uid, namespace, name string

	wake chan struct{}
	done chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	api     *corev1.Pod       // the newest that the API is known to have
	decided *corev1.PodStatus // the newest that was decided
	cause   *domain.Cause
	obs     plan.Observed
	kills   map[string]*stopping // by instance
	refresh time.Time            // when the volumes are to be looked at again
	sender  sender
}

type stopping struct {
	by     time.Time
	cancel context.CancelFunc
}

func newPod(a *Agent, api *corev1.Pod) *pod {
	p := &pod{
		a: a, uid: string(api.UID), namespace: api.Namespace, name: api.Name, api: api, wake: make(chan struct{}, 1), done: make(chan struct{}), kills: map[string]*stopping{},
	}
	p.obs = plan.Observed{HostIPs: []string{a.cfg.NodeIP.String()}, Containers: map[string]*plan.Container{}}
	p.obs.StartTime = a.now()
	if api.Status.StartTime != nil {
		p.obs.StartTime = api.Status.StartTime.Time
	}
	return p
}

// poke has the pod looked at again.
func (p *pod) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// update takes in what the feed says of the pod.
func (p *pod) update(api *corev1.Pod, cause *domain.Cause) {
	p.mu.Lock()
	if positionOf(api) >= positionOf(p.api) {
		p.api = api
		if cause != nil {
			p.cause = cause
		}
	}
	p.mu.Unlock()
	p.poke()
}

// removed says that the API has the pod no more.
func (p *pod) removed() {
	p.mu.Lock()
	p.obs.Removed = true
	p.mu.Unlock()
	p.poke()
}

// positionOf an object's last event in the log: its resourceVersion.
func positionOf(o metav1.Object) uint64 {
	n, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// run decides, acts and waits until nothing is left of the pod or the agent goes.
func (p *pod) run(ctx context.Context) {
	defer close(p.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d := p.decide()
		for _, act := range d.Actions {
			p.a.background.Go(func() { p.execute(ctx, act) })
		}
		if d.Gone {
			p.a.forget(p)
			return
		}
		timer.Stop()
		if !d.Wake.IsZero() {
			timer.Reset(max(d.Wake.Sub(p.a.now()), 0))
		}
		select {
		case <-p.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// decide asks the planner, notes what is now under way, and hands the status on.
func (p *pod) decide() plan.Decision {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.a.now()
	for _, list := range [][]corev1.Container{p.api.Spec.InitContainers, p.api.Spec.Containers} {
		for i := range list {
			c := p.container(list[i].Name)
			c.Image = p.a.images.Has(list[i].Image)
		}
	}
	want := *p.api
	want.Status = p.currentStatus()
	if want.Status.PodIP != "" && len(p.obs.PodIPs) == 0 && !want.Spec.HostNetwork {
		for _, ip := range want.Status.PodIPs {
			p.obs.PodIPs = append(p.obs.PodIPs, ip.IP)
		}
	}
	d := plan.Decide(&want, &p.obs, now)
	if p.decided == nil || !apiequality.Semantic.DeepEqual(*p.decided, d.Status) {
		status := d.Status
		p.decided = &status
		p.obs.Reported = false
	}
	if !p.obs.Reported && !p.obs.Removed {
		p.report()
	}
	kept := d.Actions[:0]
	for _, act := range d.Actions {
		if act.Kind == plan.DeletePod && !p.obs.Reported {
			continue // the last status goes first
		}
		p.begin(act)
		kept = append(kept, act)
	}
	d.Actions = kept
	if !p.refresh.IsZero() && p.obs.Volumes == plan.Ready && !p.obs.Removed {
		if d.Wake.IsZero() || p.refresh.Before(d.Wake) {
			d.Wake = p.refresh
		}
		if !now.Before(p.refresh) {
			p.refresh = time.Time{}
			p.a.background.Go(func() { p.refreshVolumes(p.a.ctx) })
		}
	}
	return d
}

// currentStatus is what the API has, with what this node has decided since.
func (p *pod) currentStatus() corev1.PodStatus {
	s := *p.api.Status.DeepCopy()
	if p.decided == nil {
		return s
	}
	d := p.decided.DeepCopy()
	s.Phase, s.Reason, s.Message = d.Phase, d.Reason, d.Message
	s.ObservedGeneration = d.ObservedGeneration
	if s.QOSClass == "" {
		s.QOSClass = d.QOSClass
	}
	s.StartTime, s.PodIP, s.PodIPs, s.HostIP, s.HostIPs = d.StartTime, d.PodIP, d.PodIPs, d.HostIP, d.HostIPs
	s.ContainerStatuses, s.InitContainerStatuses = d.ContainerStatuses, d.InitContainerStatuses
	for _, own := range d.Conditions {
		if !ownCondition(own.Type) {
			continue
		}
		found := false
		for i := range s.Conditions {
			if s.Conditions[i].Type == own.Type {
				s.Conditions[i], found = own, true
			}
		}
		if !found {
			s.Conditions = append(s.Conditions, own)
		}
	}
	return s
}

func ownCondition(t corev1.PodConditionType) bool {
	switch t {
	case corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady:
		return true
	}
	return false
}

// container returns what is observed of a container; the caller holds the lock.
func (p *pod) container(name string) *plan.Container {
	c := p.obs.Containers[name]
	if c == nil {
		c = &plan.Container{}
		p.obs.Containers[name] = c
	}
	return c
}

// begin notes that an action is under way, so that it is not decided again; the caller holds the lock.
func (p *pod) begin(act plan.Action) {
	switch act.Kind {
	case plan.MakeSandbox:
		p.obs.Sandbox = plan.Making
	case plan.RemoveSandbox:
		p.obs.Sandbox = plan.Removing
	case plan.MountVolumes:
		p.obs.Volumes = plan.Making
	case plan.Pull:
		p.container(act.Container).Pulling = true
	case plan.Start:
		p.container(act.Container).Starting = true
	case plan.Kill:
		c := p.container(act.Container)
		c.Last.Stopping, c.Last.StopBy = true, act.By
	case plan.Cleanup:
		p.obs.Cleaned = plan.Making
	case plan.DeletePod:
		p.obs.Deleted = true
	}
}

// with changes what is observed, and has the pod looked at again.
func (p *pod) with(change func(o *plan.Observed)) {
	p.mu.Lock()
	change(&p.obs)
	p.mu.Unlock()
	p.poke()
}

// snapshot returns the pod as the API has it, with the status as decided here.
func (p *pod) snapshot() *corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := *p.api
	c.Status = p.currentStatus()
	return &c
}

// exited takes in that a container has ended.
func (p *pod) exited(st containers.Status) {
	p.mu.Lock()
	for _, c := range p.obs.Containers {
		if c.Last != nil && c.Last.ID == st.ID {
			c.Last.Running = false
			c.Last.Started, c.Last.Passing = false, false
			c.Last.FinishedAt, c.Last.ExitCode, c.Last.Reason, c.Last.Message = st.FinishedAt, int32(st.ExitCode), st.Reason, st.Message
			c.Pulled = false
		}
	}
	p.mu.Unlock()
	p.a.probes.Stop(st.ID)
	p.poke()
}
