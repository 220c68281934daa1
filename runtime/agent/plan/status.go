package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/runtime/containers"
)

// Reasons that the API knows.
const (
	ContainerCreating      = "ContainerCreating"
	PodInitializing        = "PodInitializing"
	CrashLoopBackOff       = "CrashLoopBackOff"
	ImagePullBackOff       = "ImagePullBackOff"
	ErrImagePull           = "ErrImagePull"
	ErrImageNeverPull      = "ErrImageNeverPull"
	InvalidImageName       = "InvalidImageName"
	ConfigError            = "CreateContainerConfigError"
	RunContainerError      = "RunContainerError"
	StartError             = "StartError"
	DeadlineExceeded       = "DeadlineExceeded"
	StatusUnknown          = "ContainerStatusUnknown"
	containersNotReady     = "ContainersNotReady"
	containersNotInit      = "ContainersNotInitialized"
	podCompleted           = "PodCompleted"
	podFailed              = "PodFailed"
	readinessGatesNotReady = "ReadinessGatesNotReady"
)

// status is what the API is to say of the pod. Conditions of others stay as they are.
func (p *planner) status() corev1.PodStatus {
	s := *p.pod.Status.DeepCopy()
	s.ObservedGeneration = p.pod.Generation
	s.QOSClass = containers.QOSClass(p.pod)
	if s.StartTime == nil && !p.o.StartTime.IsZero() {
		t := metav1.NewTime(p.o.StartTime.Truncate(time.Second))
		s.StartTime = &t
	}
	s.HostIP, s.HostIPs = "", nil
	for _, ip := range p.o.HostIPs {
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip})
	}
	if len(s.HostIPs) > 0 {
		s.HostIP = s.HostIPs[0].IP
	}
	ips := p.o.PodIPs
	if p.pod.Spec.HostNetwork {
		ips = p.o.HostIPs
	}
	if len(ips) > 0 {
		s.PodIP, s.PodIPs = ips[0], nil
		for _, ip := range ips {
			s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
		}
	}
	_, initialised := p.initialise()
	s.InitContainerStatuses, s.ContainerStatuses = nil, nil
	p.each(func(spec *corev1.Container, init bool, c *Container) {
		cs := p.containerStatus(spec, init, c, initialised)
		if init {
			s.InitContainerStatuses = append(s.InitContainerStatuses, cs)
		} else {
			s.ContainerStatuses = append(s.ContainerStatuses, cs)
		}
	})
	s.Phase, s.Reason, s.Message = p.phase(initialised)
	p.conditions(&s, initialised)
	return s
}

func (p *planner) containerStatus(spec *corev1.Container, init bool, c *Container, initialised bool) corev1.ContainerStatus {
	cs := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, RestartCount: int32(c.Restarts)}
	no, yes := false, true
	cs.Started = &no
	last := c.Last
	if last == nil {
		if before, ok := p.remembered(spec.Name, init); ok && p.over() {
			return before
		}
		cs.State.Waiting = p.waiting(spec, init, c, initialised)
		return cs
	}
	cs.ContainerID, cs.ImageID = "shiplog://"+last.ID, last.ImageID
	if c.Previous != nil {
		cs.LastTerminationState.Terminated = terminated(c.Previous)
	}
	switch {
	case last.Running:
		cs.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(last.StartedAt.Truncate(time.Second))}
		cs.Ready = last.Started && last.Passing && last.Hook != HookRunning
		if last.Started && last.Hook != HookRunning {
			cs.Started = &yes
		}
	case p.over() || !p.restarts(spec, init, last.ExitCode):
		cs.State.Terminated = terminated(last)
		cs.Ready = init && last.ExitCode == 0
	case c.Starting:
		// Between two runs: the end of the last one is what can be said.
		cs.State.Terminated = terminated(last)
	case last.Reason == StartError && p.now.Before(last.FinishedAt.Add(justFailed)):
		cs.State.Waiting = &corev1.ContainerStateWaiting{Reason: RunContainerError, Message: last.Message}
		cs.LastTerminationState.Terminated = terminated(last)
	default:
		w := p.waiting(spec, init, c, initialised)
		if w.Reason == ContainerCreating || w.Reason == PodInitializing {
			if p.now.Before(last.FinishedAt.Add(Backoff(c.Crashes))) {
				w = &corev1.ContainerStateWaiting{Reason: CrashLoopBackOff, Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
					Backoff(c.Crashes), spec.Name, p.pod.Name, p.pod.Namespace, p.pod.UID)}
			} else {
				cs.State.Terminated = terminated(last)
				return cs
			}
		}
		cs.State.Waiting = w
		cs.LastTerminationState.Terminated = terminated(last)
	}
	return cs
}

// waiting says what a container that does not run waits for.
func (p *planner) waiting(spec *corev1.Container, init bool, c *Container, initialised bool) *corev1.ContainerStateWaiting {
	switch {
	case c.PullFail.Count > 0 && !c.Pulling:
		reason := c.PullFail.Reason
		message := c.PullFail.Message
		if reason == ErrImagePull && !p.now.Before(c.PullFail.At.Add(justFailed)) {
			reason = ImagePullBackOff
			message = fmt.Sprintf("Back-off pulling image %q: %s", spec.Image, c.PullFail.Message)
		}
		return &corev1.ContainerStateWaiting{Reason: reason, Message: message}
	case spec.ImagePullPolicy == corev1.PullNever && !c.Image && (init || initialised):
		return &corev1.ContainerStateWaiting{
			Reason:  ErrImageNeverPull,
			Message: fmt.Sprintf("Container image %q is not present with pull policy of Never: load it with \"shiplog image load FILE\"", spec.Image),
		}
	case c.StartFail.Count > 0:
		return &corev1.ContainerStateWaiting{Reason: c.StartFail.Reason, Message: c.StartFail.Message}
	case init || len(p.pod.Spec.InitContainers) > 0 && !initialised:
		return &corev1.ContainerStateWaiting{Reason: PodInitializing}
	}
	return &corev1.ContainerStateWaiting{Reason: ContainerCreating}
}

func terminated(i *Instance) *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{
		ExitCode: i.ExitCode, Reason: i.Reason, Message: i.Message, ContainerID: "shiplog://" + i.ID,
		StartedAt: metav1.NewTime(i.StartedAt.Truncate(time.Second)), FinishedAt: metav1.NewTime(i.FinishedAt.Truncate(time.Second)),
	}
}

// remembered is what the API was last told of a container that has left nothing here: one that was told to run has ended,
// and nobody knows how.
func (p *planner) remembered(name string, init bool) (corev1.ContainerStatus, bool) {
	list := p.pod.Status.ContainerStatuses
	if init {
		list = p.pod.Status.InitContainerStatuses
	}
	for _, cs := range list {
		if cs.Name != name || cs.ContainerID == "" {
			continue
		}
		cs = *cs.DeepCopy()
		if r := cs.State.Running; r != nil {
			cs.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: 137, Reason: StatusUnknown, Message: "the container could not be found when the pod ended",
				StartedAt: r.StartedAt, FinishedAt: metav1.NewTime(p.now.Truncate(time.Second)), ContainerID: cs.ContainerID,
			}}
		}
		no := false
		cs.Ready, cs.Started = false, &no
		return cs, true
	}
	return corev1.ContainerStatus{}, false
}

// over says that nothing of the pod is to run any more.
func (p *planner) over() bool {
	return p.pod.DeletionTimestamp != nil || p.o.Removed || isTerminal(p.pod.Status.Phase) || p.o.Terminal.Reason != "" || p.pastDeadline() || p.complete()
}

func (p *planner) pastDeadline() bool {
	s := p.pod.Spec.ActiveDeadlineSeconds
	return s != nil && !p.o.StartTime.IsZero() && !p.now.Before(p.o.StartTime.Add(time.Duration(*s)*time.Second))
}

// phase sums the containers up.
func (p *planner) phase(initialised bool) (phase corev1.PodPhase, reason, message string) {
	running, failed, waiting := 0, 0, 0
	p.each(func(spec *corev1.Container, init bool, c *Container) {
		switch {
		case c.Last != nil && c.Last.Running:
			running++
		case IsSidecar(spec):
		case c.Last == nil && !init:
			waiting++
		case c.Last != nil && c.Last.ExitCode != 0:
			failed++
		}
	})
	// The pod is not over before its containers are: until then only the reason says what is coming.
	if running == 0 {
		phase = corev1.PodFailed
	} else if phase = corev1.PodRunning; !initialised || waiting > 0 {
		phase = corev1.PodPending
	}
	switch {
	case p.o.Terminal.Reason != "":
		return phase, p.o.Terminal.Reason, p.o.Terminal.Message
	case p.pastDeadline() && !isTerminal(p.pod.Status.Phase):
		return phase, DeadlineExceeded, "Pod was active on the node longer than the specified deadline"
	case isTerminal(p.pod.Status.Phase):
		return p.pod.Status.Phase, p.pod.Status.Reason, p.pod.Status.Message
	case p.over() && running == 0:
		if p.pod.DeletionTimestamp != nil && !p.complete() && waiting > 0 {
			// Deleted before it ran: it never got anywhere.
			return corev1.PodFailed, "", ""
		}
		if failed > 0 {
			return corev1.PodFailed, "", ""
		}
		return corev1.PodSucceeded, "", ""
	case !initialised, waiting > 0:
		return corev1.PodPending, "", ""
	}
	return corev1.PodRunning, "", ""
}

func isTerminal(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

// conditions sets those that are the node's: a changed one gets the time of now, an unchanged one keeps its own.
func (p *planner) conditions(s *corev1.PodStatus, initialised bool) {
	set := func(kind corev1.PodConditionType, ok bool, reason, message string) bool {
		status := corev1.ConditionFalse
		if ok {
			status = corev1.ConditionTrue
		}
		c := corev1.PodCondition{
			Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: p.pod.Generation,
			LastTransitionTime: metav1.NewTime(p.now.Truncate(time.Second)),
		}
		at := slices.IndexFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind })
		if at < 0 {
			s.Conditions = append(s.Conditions, c)
			return ok
		}
		if s.Conditions[at].Status == status {
			c.LastTransitionTime = s.Conditions[at].LastTransitionTime
		}
		c.LastProbeTime = s.Conditions[at].LastProbeTime
		s.Conditions[at] = c
		return ok
	}
	set(corev1.PodReadyToStartContainers, p.o.Sandbox == Ready, "", "")

	completed := s.Phase == corev1.PodSucceeded
	var uninitialised []string
	for i, c := range s.InitContainerStatuses {
		if IsSidecar(&p.pod.Spec.InitContainers[i]) && (c.Started == nil || !*c.Started) && !initialised ||
			!IsSidecar(&p.pod.Spec.InitContainers[i]) && !c.Ready && !initialised {
			uninitialised = append(uninitialised, c.Name)
		}
	}
	switch {
	case completed:
		set(corev1.PodInitialized, true, podCompleted, "")
	case len(uninitialised) > 0:
		set(corev1.PodInitialized, false, containersNotInit, fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(uninitialised, " ")))
	default:
		set(corev1.PodInitialized, true, "", "")
	}
	var unready []string
	for i, c := range s.InitContainerStatuses {
		if IsSidecar(&p.pod.Spec.InitContainers[i]) && !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	for _, c := range s.ContainerStatuses {
		if !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	why, message := containersNotReady, fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	switch {
	case completed:
		why, message = podCompleted, ""
	case s.Phase == corev1.PodFailed:
		why, message = podFailed, ""
	case len(unready) == 0:
		why, message = "", ""
	}
	ready := set(corev1.ContainersReady, why == "", why, message)
	if ready {
		var gates []string
		for _, g := range p.pod.Spec.ReadinessGates {
			if !slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == g.ConditionType && c.Status == corev1.ConditionTrue
			}) {
				gates = append(gates, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist or is not True.", g.ConditionType))
			}
		}
		if len(gates) > 0 {
			ready, why, message = false, readinessGatesNotReady, strings.Join(gates, ", ")
		}
	}
	set(corev1.PodReady, ready, why, message)
}
