package sim

import (
	_ "embed"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Stage is one step in the life of a pod: which pods take it, when, and what they are then.
type Stage struct {
	Name  string `json:"name"`
	When  When   `json:"when"`
	After After  `json:"after,omitzero"`
	Next  Next   `json:"next"`
}

// When selects pods. An empty field selects all, but Deleting always counts: a pod on its way out takes no other steps.
type When struct {
	Deleting bool              `json:"deleting,omitempty"`
	Phases   []corev1.PodPhase `json:"phases,omitempty"`
	// Containers is the state of the containers, as the first one has it: running, waiting or terminated.
	Containers      string                 `json:"containers,omitempty"`
	Ready           *bool                  `json:"ready,omitempty"`
	Annotation      string                 `json:"annotation,omitempty"` // must be there
	Without         string                 `json:"without,omitempty"`    // must not be there
	RestartPolicies []corev1.RestartPolicy `json:"restartPolicies,omitempty"`
}

// After says when the step is due: a duration after a moment in the pod's life.
type After struct {
	Duration metav1.Duration `json:"duration,omitzero"`
	// Annotation, where the pod has it and it holds a duration, is used in place of Duration.
	Annotation string `json:"annotation,omitempty"`
	// Since is creation, deletion, start (of the first container) or finish (of its last run).
	Since string `json:"since,omitempty"`
}

// Next is what the pod is after the step. An empty field changes nothing.
type Next struct {
	Delete     bool            `json:"delete,omitempty"` // it goes, as a kubelet lets it: without a grace period
	Phase      corev1.PodPhase `json:"phase,omitempty"`
	Containers string          `json:"containers,omitempty"` // running, waiting or terminated
	ExitCode   int32           `json:"exitCode,omitempty"`
	Reason     string          `json:"reason,omitempty"`
	Restart    bool            `json:"restart,omitempty"` // counts as a restart
	Ready      *bool           `json:"ready,omitempty"`
}

// The states of containers that stages name.
const (
	running    = "running"
	waiting    = "waiting"
	terminated = "terminated"
)

//go:embed stages.yaml
var defaultStages []byte

// DefaultStages are those that let pods start at once and live until they are deleted, unless annotations say otherwise.
func DefaultStages() ([]Stage, error) { return ParseStages(defaultStages) }

// ParseStages reads stages from YAML; a field that is not known is an error.
func ParseStages(data []byte) ([]Stage, error) {
	var stages []Stage
	if err := yaml.UnmarshalStrict(data, &stages); err != nil {
		return nil, fmt.Errorf("reading stages: %w", err)
	}
	for i := range stages {
		if err := stages[i].check(); err != nil {
			return nil, fmt.Errorf("reading stage %q: %w", stages[i].Name, err)
		}
	}
	return stages, nil
}

func (s *Stage) check() error {
	if !slices.Contains([]string{"", "creation", "deletion", "start", "finish"}, s.After.Since) {
		return fmt.Errorf("since %q is none of creation, deletion, start, finish", s.After.Since)
	}
	for _, state := range []string{s.When.Containers, s.Next.Containers} {
		if !slices.Contains([]string{"", running, waiting, terminated}, state) {
			return fmt.Errorf("containers %q is none of running, waiting, terminated", state)
		}
	}
	return nil
}

// Env is what a pod gets from the node that it is on, and the time.
type Env struct {
	Now           time.Time
	HostIP, PodIP string
}

// Step is what becomes of a pod, at a moment that may lie ahead.
type Step struct {
	Stage  string
	At     time.Time
	Delete bool
	Status *corev1.PodStatus // nil when Delete is set, or the moment lies ahead
}

// Decide returns the next step of a pod, or false when there is none. It is a function of its arguments.
func Decide(stages []Stage, pod *corev1.Pod, env Env) (Step, bool) {
	for i := range stages {
		s := &stages[i]
		if !s.When.admits(pod) {
			continue
		}
		if s.Next.Delete && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0 {
			return Step{}, false // it was let go; finalizers hold it
		}
		step := Step{Stage: s.Name, At: s.After.at(pod), Delete: s.Next.Delete}
		if !step.At.After(env.Now) && !step.Delete {
			step.Status = s.Next.status(pod, env)
		}
		return step, true
	}
	if pod.Status.Phase == corev1.PodRunning && len(pod.Spec.ReadinessGates) > 0 && pod.DeletionTimestamp == nil {
		// What others say of the pod's readiness is no stage: it is taken in at any time.
		s := (&Next{}).status(pod, env)
		if isTrue(pod, corev1.PodReady) != isTrue(&corev1.Pod{Status: *s}, corev1.PodReady) {
			return Step{Stage: "readiness-gate", Status: s}, true
		}
	}
	return Step{}, false
}

func (w *When) admits(pod *corev1.Pod) bool {
	if w.Deleting != (pod.DeletionTimestamp != nil) {
		return false
	}
	phase := pod.Status.Phase
	if phase == "" {
		phase = corev1.PodPending
	}
	if len(w.Phases) > 0 && !slices.Contains(w.Phases, phase) {
		return false
	}
	if w.Containers != "" && w.Containers != stateOf(pod) {
		return false
	}
	if w.Ready != nil && *w.Ready != isTrue(pod, corev1.ContainersReady) {
		return false
	}
	if w.Annotation != "" {
		if _, ok := pod.Annotations[w.Annotation]; !ok {
			return false
		}
	}
	if w.Without != "" {
		if _, ok := pod.Annotations[w.Without]; ok {
			return false
		}
	}
	return len(w.RestartPolicies) == 0 || slices.Contains(w.RestartPolicies, pod.Spec.RestartPolicy)
}

func (a *After) at(pod *corev1.Pod) time.Time {
	d := a.Duration.Duration
	if value, ok := pod.Annotations[a.Annotation]; ok && a.Annotation != "" {
		// A value that is no duration ("true") means at once.
		d, _ = time.ParseDuration(value)
	}
	var since time.Time
	switch a.Since {
	case "creation":
		since = pod.CreationTimestamp.Time
	case "deletion":
		if pod.DeletionTimestamp != nil {
			// The API sets the timestamp to when the grace period ends.
			since = pod.DeletionTimestamp.Time
			if g := pod.DeletionGracePeriodSeconds; g != nil {
				since = since.Add(-time.Duration(*g) * time.Second)
			}
		}
	case "start":
		if len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].State.Running != nil {
			since = pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time
		}
	case "finish":
		if len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].LastTerminationState.Terminated != nil {
			since = pod.Status.ContainerStatuses[0].LastTerminationState.Terminated.FinishedAt.Time
		}
	}
	return since.Add(d)
}

func stateOf(pod *corev1.Pod) string {
	if len(pod.Status.ContainerStatuses) == 0 {
		return ""
	}
	switch s := pod.Status.ContainerStatuses[0].State; {
	case s.Running != nil:
		return running
	case s.Terminated != nil:
		return terminated
	default:
		return waiting
	}
}

func isTrue(pod *corev1.Pod, t corev1.PodConditionType) bool {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return pod.Status.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	return false
}
