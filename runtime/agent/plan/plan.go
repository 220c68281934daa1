// Package plan decides what a node does next about one pod: from what is wanted (the pod) and what is there (Observed) to
// ordered actions, a status and a time to look again. It is a function of values: no clock, no randomness, no IO.
package plan

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Stage of something that takes time to make.
type Stage string

// Stages.
const (
	Absent   Stage = ""
	Making   Stage = "making"
	Ready    Stage = "ready"
	Removing Stage = "removing"
)

// Failure of an attempt. The zero value is none.
type Failure struct {
	Reason  string // a word of the API: ErrImagePull, CreateContainerConfigError, ...
	Message string
	At      time.Time
	Count   int // in a row
}

// Observed is what there is of a pod on this node.
type Observed struct {
	StartTime time.Time // when this node first saw the pod
	HostIPs   []string

	Sandbox     Stage
	SandboxLost bool // it was there and is not whole any more: a new one is needed
	SandboxFail Failure
	PodIPs      []string // kept after the sandbox has gone, for the status

	Volumes    Stage
	VolumeFail Failure

	Containers map[string]*Container // by name, init containers too

	// Terminal is why the node itself ends the pod (DeadlineExceeded, Evicted, admission); the zero value is: it does not.
	Terminal Failure
	// Removed: the API has no such pod any more; only the node still has something of it.
	Removed bool
	// Deleted: the final delete has been asked for.
	Deleted bool
	// Reported: the API has the status that this decision would give (asked before the final delete).
	Reported bool
	// Cleaned: volumes, logs and the sandbox are gone.
	Cleaned Stage
}

// Container is what there is of one of the pod's containers.
type Container struct {
	Last     *Instance // the latest; nil before the first
	Previous *Instance // the one before that ended
	Restarts int
	// Crashes counts restarts that followed each other too quickly: the back-off grows with it.
	Crashes int

	Starting  bool
	StartFail Failure

	Image    bool // the image is in the store
	Pulling  bool
	Pulled   bool // pulled for the start that comes next (pull policy Always)
	PullFail Failure
}

// Hook is where a postStart hook stands.
type Hook string

// Hook states.
const (
	NoHook      Hook = ""
	HookRunning Hook = "running"
	HookDone    Hook = "done"
)

// Instance is one run of a container.
type Instance struct {
	ID      string
	Attempt int
	ImageID string // as a status names it

	Running    bool
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int32
	Reason     string
	Message    string

	Stopping bool
	StopBy   time.Time

	Hook Hook
	// Started: the startup probe has succeeded, or there is none.
	Started bool
	// Passing: the readiness probe says yes, or there is none.
	Passing bool
	// Unhealthy says why the container must be killed (liveness or startup probe, failed hook); empty: it must not.
	Unhealthy string
}

// Kind of an action.
type Kind string

// Actions. Those of one decision may be carried out side by side.
const (
	MakeSandbox   Kind = "make-sandbox"
	RemoveSandbox Kind = "remove-sandbox"
	MountVolumes  Kind = "mount-volumes"
	Pull          Kind = "pull"
	Start         Kind = "start"
	Kill          Kind = "kill"
	Forget        Kind = "forget" // remove the remains of an instance that nobody can ask for any more
	Cleanup       Kind = "cleanup"
	DeletePod     Kind = "delete-pod"
)

// Action is one thing to do.
type Action struct {
	Kind      Kind
	Container string // name
	Instance  string // id
	Attempt   int
	By        time.Time // Kill: when the grace ends
	Reason    string    // Kill: why, for the event
}

func (a Action) String() string {
	s := string(a.Kind)
	if a.Container != "" {
		s += " " + a.Container
	}
	if a.Kind == Start {
		s += fmt.Sprintf(" #%d", a.Attempt)
	}
	if a.Reason != "" {
		s += " (" + a.Reason + ")"
	}
	return s
}

// Decision is what to do now, what to report, and when to look again (zero: when something happens).
type Decision struct {
	Actions []Action
	Status  corev1.PodStatus
	Wake    time.Time
	// Gone: nothing is left to do about the pod, ever.
	Gone bool
}

func (d *Decision) do(a Action) { d.Actions = append(d.Actions, a) }

// wake looks again at t, if nothing else makes it earlier.
func (d *Decision) wake(t time.Time) {
	if !t.IsZero() && (d.Wake.IsZero() || t.Before(d.Wake)) {
		d.Wake = t
	}
}

// IsSidecar tells whether an init container is one that runs beside the others.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// Back-off, as Kubernetes documents it.
const (
	backoffFirst = 10 * time.Second
	backoffMax   = 5 * time.Minute
	// BackoffReset is how long a container must run for its past crashes to be forgotten.
	BackoffReset = 10 * time.Minute
	// justFailed is how long a failed pull is shown as such before the status says that it is backed off from.
	justFailed = 2 * time.Second
)

// Backoff is how long to wait after the nth failure in a row: 10 s, doubling up to 5 minutes; nothing for n = 0.
func Backoff(n int) time.Duration {
	if n <= 0 {
		return 0
	}
	if n > 5 {
		return backoffMax
	}
	return min(backoffFirst<<(n-1), backoffMax)
}

// retryAt is when to try again after a failure.
func (f Failure) retryAt() time.Time {
	if f.Count == 0 {
		return time.Time{}
	}
	return f.At.Add(Backoff(f.Count))
}

// quick retries are for what may be there in a moment (a missing config map): the feed wakes the pod as well.
func (f Failure) quickRetryAt() time.Time {
	if f.Count == 0 {
		return time.Time{}
	}
	return f.At.Add(min(time.Duration(1<<min(f.Count-1, 6))*500*time.Millisecond, 30*time.Second))
}
