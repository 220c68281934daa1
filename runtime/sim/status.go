package sim

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// status is the pod's status after the step.
func (n *Next) status(pod *corev1.Pod, env Env) *corev1.PodStatus {
	s := pod.Status.DeepCopy()
	now := metav1.NewTime(env.Now.Truncate(time.Second).UTC())
	if s.StartTime == nil {
		s.StartTime = &now
	}
	s.HostIP, s.HostIPs = env.HostIP, []corev1.HostIP{{IP: env.HostIP}}
	if n.Phase != "" {
		s.Phase = n.Phase
	}
	if s.PodIP == "" && s.Phase == corev1.PodRunning {
		s.PodIP, s.PodIPs = env.PodIP, []corev1.PodIP{{IP: env.PodIP}}
	}
	ready := isTrue(pod, corev1.ContainersReady)
	if n.Ready != nil {
		ready = *n.Ready
	}
	if n.Containers != "" {
		s.InitContainerStatuses = initStatuses(pod, s.InitContainerStatuses, n, now)
		s.ContainerStatuses = n.containerStatuses(pod, s.ContainerStatuses, now)
	}
	for i := range s.ContainerStatuses {
		s.ContainerStatuses[i].Ready = ready
	}
	finished := s.Phase == corev1.PodSucceeded || s.Phase == corev1.PodFailed
	reason, message := "", ""
	switch {
	case finished && s.Phase == corev1.PodSucceeded:
		reason = "PodCompleted"
	case finished:
		reason = "PodFailed"
	case !ready:
		reason, message = "ContainersNotReady", "containers with unready status: ["+namesOf(pod)+"]"
	}
	up := corev1.ConditionTrue
	if finished {
		up = corev1.ConditionFalse
	}
	set := func(t corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) {
		setCondition(s, corev1.PodCondition{
			Type: t, Status: status, Reason: reason, Message: message, ObservedGeneration: pod.Generation, LastTransitionTime: now,
		})
	}
	set(corev1.PodReadyToStartContainers, up, "", "")
	set(corev1.PodInitialized, corev1.ConditionTrue, "", "")
	set(corev1.ContainersReady, status(ready), reason, message)
	for _, gate := range pod.Spec.ReadinessGates {
		if ready && !isTrue(pod, gate.ConditionType) {
			ready, reason, message = false, "ReadinessGatesNotReady", "the status of pod readiness gate \""+string(gate.ConditionType)+"\" is not \"True\""
		}
	}
	set(corev1.PodReady, status(ready), reason, message)
	return s
}

func status(b bool) corev1.ConditionStatus {
	if b {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

func namesOf(pod *corev1.Pod) string {
	var s string
	for i := range pod.Spec.Containers {
		if i > 0 {
			s += " "
		}
		s += pod.Spec.Containers[i].Name
	}
	return s
}

func setCondition(s *corev1.PodStatus, c corev1.PodCondition) {
	for i := range s.Conditions {
		old := &s.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		*old = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}

func (n *Next) containerStatuses(pod *corev1.Pod, old []corev1.ContainerStatus, now metav1.Time) []corev1.ContainerStatus {
	list := make([]corev1.ContainerStatus, len(pod.Spec.Containers))
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		list[i] = n.containerStatus(pod, c, statusOf(old, c.Name), now)
	}
	return list
}

func statusOf(list []corev1.ContainerStatus, name string) corev1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return list[i]
		}
	}
	return corev1.ContainerStatus{Name: name}
}

func (n *Next) containerStatus(pod *corev1.Pod, c *corev1.Container, s corev1.ContainerStatus, now metav1.Time) corev1.ContainerStatus {
	s.Image, s.ImageID = c.Image, "sim://"+c.Image
	s.ContainerID = "sim://" + string(pod.UID) + "/" + c.Name
	started := n.Containers == running
	s.Started = &started
	ended := &corev1.ContainerStateTerminated{ExitCode: n.ExitCode, Reason: n.Reason, FinishedAt: now, ContainerID: s.ContainerID}
	if r := s.State.Running; r != nil {
		ended.StartedAt = r.StartedAt
	}
	if n.Restart {
		s.RestartCount++
	}
	switch n.Containers {
	case running:
		s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}
	case terminated:
		if s.State.Terminated == nil {
			s.State = corev1.ContainerState{Terminated: ended}
		}
	case waiting:
		ended.Reason = "Error"
		s.LastTerminationState = corev1.ContainerState{Terminated: ended}
		s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
			Reason: n.Reason, Message: "back-off restarting failed container=" + c.Name + " pod=" + pod.Name + "_" + pod.Namespace,
		}}
	}
	return s
}

// initStatuses are those of init containers that have done their work; sidecars live with the pod.
func initStatuses(pod *corev1.Pod, old []corev1.ContainerStatus, n *Next, now metav1.Time) []corev1.ContainerStatus {
	if len(pod.Spec.InitContainers) == 0 {
		return old
	}
	list := make([]corev1.ContainerStatus, len(pod.Spec.InitContainers))
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		s := statusOf(old, c.Name)
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		switch {
		case sidecar:
			was := s.State
			s = n.containerStatus(pod, c, s, now)
			if n.Containers == waiting {
				s.State, s.LastTerminationState = was, corev1.ContainerState{} // only the main containers crash
			}
			s.Ready = s.State.Running != nil
		case s.State.Terminated == nil:
			done := Next{Containers: terminated, Reason: "Completed"}
			s = done.containerStatus(pod, c, s, now)
			s.State.Terminated.StartedAt = now
			s.Ready = true
		}
		list[i] = s
	}
	return list
}
