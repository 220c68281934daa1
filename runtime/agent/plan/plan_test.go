package plan_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/runtime/agent/plan"
	"github.com/shiplog/shiplog/runtime/internal/runtimetest"
)

var t0 = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// given is a pod and what there is of it: sandbox and volumes ready, images present, unless the case says otherwise.
type given struct {
	pod *corev1.Pod
	o   plan.Observed
}

func pod(names ...string) given {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "u"}, Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways}}
	g := given{pod: p, o: plan.Observed{StartTime: t0, HostIPs: []string{"10.0.0.1"}, PodIPs: []string{"10.1.0.2"}, Sandbox: plan.Ready, Volumes: plan.Ready, Containers: map[string]*plan.Container{}}}
	always := corev1.ContainerRestartPolicyAlways
	for _, n := range names {
		c := corev1.Container{Name: strings.TrimLeft(n, "+~"), Image: "img"}
		switch n[0] {
		case '+': // an init container
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		case '~': // a sidecar
			c.RestartPolicy = &always
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		default:
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
		g.o.Containers[c.Name] = &plan.Container{Image: true}
	}
	return g
}

func (g given) with(change ...func(*corev1.Pod, *plan.Observed)) given {
	for _, c := range change {
		c(g.pod, &g.o)
	}
	return g
}

type change = func(*corev1.Pod, *plan.Observed)

func runs(name string) change {
	return func(_ *corev1.Pod, o *plan.Observed) {
		o.Containers[name].Last = &plan.Instance{ID: name + "-id", Running: true, Started: true, Passing: true, StartedAt: t0, ImageID: "sha256:1"}
	}
}

func ended(name string, code int32) change {
	return func(_ *corev1.Pod, o *plan.Observed) {
		reason := "Completed"
		if code != 0 {
			reason = "Error"
		}
		o.Containers[name].Last = &plan.Instance{ID: name + "-id", StartedAt: t0, FinishedAt: t0.Add(time.Second), ExitCode: code, Reason: reason, ImageID: "sha256:1"}
	}
}

func policy(r corev1.RestartPolicy) change {
	return func(p *corev1.Pod, _ *plan.Observed) { p.Spec.RestartPolicy = r }
}

func deleted(grace int64) change {
	return func(p *corev1.Pod, _ *plan.Observed) {
		at := metav1.NewTime(t0.Add(time.Duration(grace) * time.Second))
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, &grace
	}
}

func observed(f func(*plan.Observed)) change { return func(_ *corev1.Pod, o *plan.Observed) { f(o) } }

func of(name string, f func(*plan.Container)) change {
	return func(_ *corev1.Pod, o *plan.Observed) { f(o.Containers[name]) }
}

func describe(d plan.Decision) string {
	var b strings.Builder
	for _, a := range d.Actions {
		fmt.Fprintf(&b, "do %s\n", a)
	}
	if !d.Wake.IsZero() {
		fmt.Fprintf(&b, "look again after %s\n", d.Wake.Sub(t0))
	}
	if d.Gone {
		b.WriteString("gone\n")
	}
	fmt.Fprintf(&b, "phase %s", d.Status.Phase)
	if d.Status.Reason != "" {
		fmt.Fprintf(&b, " (%s)", d.Status.Reason)
	}
	b.WriteByte('\n')
	for _, c := range d.Status.Conditions {
		fmt.Fprintf(&b, "  %s=%s", c.Type, c.Status)
		if c.Reason != "" {
			fmt.Fprintf(&b, " (%s)", c.Reason)
		}
		b.WriteByte('\n')
	}
	for _, cs := range slices.Concat(d.Status.InitContainerStatuses, d.Status.ContainerStatuses) {
		fmt.Fprintf(&b, "  %s: ", cs.Name)
		switch s := cs.State; {
		case s.Running != nil:
			b.WriteString("running")
		case s.Terminated != nil:
			fmt.Fprintf(&b, "terminated %d %s", s.Terminated.ExitCode, s.Terminated.Reason)
		case s.Waiting != nil:
			fmt.Fprintf(&b, "waiting %s", s.Waiting.Reason)
			if s.Waiting.Message != "" {
				fmt.Fprintf(&b, " %q", s.Waiting.Message)
			}
		}
		if l := cs.LastTerminationState.Terminated; l != nil {
			fmt.Fprintf(&b, ", before: terminated %d %s", l.ExitCode, l.Reason)
		}
		if cs.Ready {
			b.WriteString(", ready")
		}
		if cs.RestartCount > 0 {
			fmt.Fprintf(&b, ", %d restarts", cs.RestartCount)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestDecide is what the node does and says, case by case, as a text that is read in one sitting: testdata/decide.txt.
func TestDecide(t *testing.T) {
	now := t0.Add(2 * time.Second)
	bare := func(o *plan.Observed) { o.Sandbox, o.Volumes, o.PodIPs = plan.Absent, plan.Absent, nil }
	deadline := int64(1)
	cases := []struct {
		name string
		g    given
	}{
		{"a new pod", pod("c").with(observed(bare))},
		{"a new pod whose image is not there", pod("c").with(observed(bare), of("c", func(c *plan.Container) { c.Image = false }))},
		{"its sandbox is being made", pod("c").with(observed(func(o *plan.Observed) { o.Sandbox = plan.Making }))},
		{"the sandbox stands", pod("a", "b")},
		{"the sandbox failed a moment ago", pod("c").with(observed(func(o *plan.Observed) {
			bare(o)
			o.SandboxFail = plan.Failure{Message: "no", At: t0, Count: 1}
		}))},
		{"it runs", pod("c").with(runs("c"))},
		{"it runs and is not ready", pod("c").with(runs("c"), of("c", func(c *plan.Container) { c.Last.Passing = false }))},
		{"one runs, one is starting", pod("a", "b").with(runs("a"), of("b", func(c *plan.Container) { c.Starting = true }))},
		{"readiness gate", pod("c").with(runs("c"), func(p *corev1.Pod, _ *plan.Observed) {
			p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
		})},
		{"pull policy Always", pod("c").with(func(p *corev1.Pod, _ *plan.Observed) { p.Spec.Containers[0].ImagePullPolicy = corev1.PullAlways })},
		{"pull policy Never, no image", pod("c").with(of("c", func(c *plan.Container) { c.Image = false }), func(p *corev1.Pod, _ *plan.Observed) {
			p.Spec.Containers[0].ImagePullPolicy = corev1.PullNever
		})},
		{"the pull has just failed", pod("c").with(of("c", func(c *plan.Container) {
			c.Image, c.PullFail = false, plan.Failure{Reason: plan.ErrImagePull, Message: "no such image", At: now, Count: 1}
		}))},
		{"the pull is backed off from", pod("c").with(of("c", func(c *plan.Container) {
			c.Image, c.PullFail = false, plan.Failure{Reason: plan.ErrImagePull, Message: "no such image", At: t0, Count: 2}
		}))},
		{"it ended well, policy Always", pod("c").with(ended("c", 0))},
		{"it ended again and again", pod("c").with(ended("c", 1), of("c", func(c *plan.Container) { c.Restarts, c.Crashes = 3, 3 }))},
		{"it could not be run", pod("c").with(of("c", func(c *plan.Container) {
			c.Last = &plan.Instance{ID: "x", StartedAt: t0.Add(time.Second), FinishedAt: t0.Add(time.Second), ExitCode: 128, Reason: plan.StartError, Message: "no such program"}
			c.Crashes = 1
		}))},
		{"its configuration lacks something", pod("c").with(of("c", func(c *plan.Container) {
			c.StartFail = plan.Failure{Reason: plan.ConfigError, Message: "configmap not found", At: now, Count: 1}
		}))},
		{"policy Never, ended well", pod("c").with(policy(corev1.RestartPolicyNever), ended("c", 0))},
		{"policy Never, failed", pod("c").with(policy(corev1.RestartPolicyNever), ended("c", 2))},
		{"policy OnFailure, one failed, one done", pod("a", "b").with(policy(corev1.RestartPolicyOnFailure), ended("a", 2), ended("b", 0))},
		{"initialising", pod("+one", "+two", "c")},
		{"the first is through", pod("+one", "+two", "c").with(ended("one", 0))},
		{"initialised", pod("+one", "+two", "c").with(ended("one", 0), ended("two", 0))},
		{"initialisation failed, policy Never", pod("+one", "c").with(policy(corev1.RestartPolicyNever), ended("one", 1))},
		{"initialisation failed, policy Always", pod("+one", "c").with(ended("one", 1))},
		{"the sidecar has not started", pod("~side", "+two", "c").with(runs("side"), of("side", func(c *plan.Container) { c.Last.Started = false }))},
		{"the sidecar has started", pod("~side", "+two", "c").with(runs("side"))},
		{"the sidecar crashed under the others", pod("~side", "c").with(ended("side", 1), runs("c"))},
		{"all but the sidecars are through", pod("~s1", "~s2", "c").with(policy(corev1.RestartPolicyNever), runs("s1"), runs("s2"), ended("c", 0))},
		{"unhealthy", pod("c").with(runs("c"), of("c", func(c *plan.Container) { c.Last.Unhealthy = "failed liveness probe" }))},
		{"the sandbox is lost", pod("a", "b").with(runs("a"), ended("b", 137), observed(func(o *plan.Observed) { o.SandboxLost = true }))},
		{"active for too long", pod("c").with(runs("c"), func(p *corev1.Pod, _ *plan.Observed) { p.Spec.ActiveDeadlineSeconds = &deadline })},
		{"evicted", pod("c").with(runs("c"), observed(func(o *plan.Observed) { o.Terminal = plan.Failure{Reason: "Evicted", Message: "no room"} }))},
		{"deleted while it runs", pod("~side", "c").with(runs("side"), runs("c"), deleted(30))},
		{"deleted, being stopped", pod("c").with(runs("c"), deleted(30), of("c", func(c *plan.Container) { c.Last.Stopping, c.Last.StopBy = true, t0.Add(30*time.Second) }))},
		{"deleted again with less patience", pod("c").with(runs("c"), deleted(1), of("c", func(c *plan.Container) { c.Last.Stopping, c.Last.StopBy = true, t0.Add(30*time.Second) }))},
		{"deleted, all stopped", pod("c").with(ended("c", 143), deleted(30))},
		{"deleted before it ran", pod("c").with(observed(bare), deleted(30))},
		{"deleted, cleaned, not told", pod("c").with(ended("c", 0), deleted(30), observed(func(o *plan.Observed) { o.Cleaned, o.Sandbox = plan.Ready, plan.Absent }))},
		{"deleted, cleaned, told", pod("c").with(ended("c", 0), deleted(30), observed(func(o *plan.Observed) { o.Cleaned, o.Sandbox, o.Reported = plan.Ready, plan.Absent, true }))},
		{"removed from the API", pod("c").with(runs("c"), observed(func(o *plan.Observed) { o.Removed = true }))},
		{"removed and cleaned", pod("c").with(ended("c", 0), observed(func(o *plan.Observed) { o.Removed, o.Cleaned = true, plan.Ready }))},
		{"the API says it is through, nothing is left here", pod("c").with(observed(bare), func(p *corev1.Pod, _ *plan.Observed) {
			p.Status.Phase = corev1.PodSucceeded
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", ContainerID: "shiplog://old", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}}}
		})},
	}
	var b strings.Builder
	for _, c := range cases {
		fmt.Fprintf(&b, "== %s\n%s\n", c.name, describe(plan.Decide(c.g.pod, &c.g.o, now)))
	}
	runtimetest.Golden(t, "decide.txt", b.String())
}

func TestBackoffGrowsToFiveMinutes(t *testing.T) {
	var got []time.Duration
	for n := range 8 {
		got = append(got, plan.Backoff(n)/time.Second)
	}
	if want := []time.Duration{0, 10, 20, 40, 80, 160, 300, 300}; !slices.Equal(got, want) {
		t.Errorf("the waits are %v s, want %v", got, want)
	}
}

func TestConditionsKeepTheTimeOfTheirChange(t *testing.T) {
	g := pod("c").with(runs("c"))
	g.pod.Status = plan.Decide(g.pod, &g.o, t0).Status
	later := plan.Decide(g.pod, &g.o, t0.Add(time.Hour)).Status
	for i, c := range later.Conditions {
		if !c.LastTransitionTime.Equal(&g.pod.Status.Conditions[i].LastTransitionTime) {
			t.Errorf("%s did not change and has a new time", c.Type)
		}
	}
	g.o.Containers["c"].Last.Passing = false
	for _, c := range plan.Decide(g.pod, &g.o, t0.Add(time.Hour)).Status.Conditions {
		if c.Type == corev1.PodReady && !c.LastTransitionTime.Time.Equal(t0.Add(time.Hour)) {
			t.Errorf("Ready changed and has the time %s", c.LastTransitionTime)
		}
	}
}

// TestEveryPodEnds walks pods through random fates on a world that does what it is told, and deletes them at some moment: in
// the end nothing runs, everything is cleaned, and the API's object is deleted, whatever happened before.
func TestEveryPodEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SampledFrom([][]string{{"c"}, {"a", "b"}, {"+i", "c"}, {"~s", "c"}, {"~s", "+i", "a", "b"}}).Draw(t, "containers")
		g := pod(names...).with(policy(rapid.SampledFrom([]corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}).Draw(t, "policy")))
		g.o.Sandbox, g.o.Volumes = plan.Absent, plan.Absent
		now := t0
		deleteAt := rapid.IntRange(0, 30).Draw(t, "deleted at step")
		for step := range 400 {
			if step == deleteAt {
				grace := rapid.Int64Range(0, 30).Draw(t, "grace")
				at := metav1.NewTime(now.Add(time.Duration(grace) * time.Second))
				g.pod.DeletionTimestamp, g.pod.DeletionGracePeriodSeconds = &at, &grace
			}
			d := plan.Decide(g.pod, &g.o, now)
			g.pod.Status = d.Status
			if d.Gone {
				for n, c := range g.o.Containers {
					if c.Last != nil && c.Last.Running {
						t.Fatalf("the pod is gone and %s runs", n)
					}
				}
				return
			}
			for _, a := range d.Actions {
				carryOut(t, &g.o, a, now)
			}
			g.o.Reported = true
			if step > deleteAt && len(d.Actions) == 0 && d.Wake.IsZero() {
				t.Fatalf("at step %d nothing is done and nothing waited for: %s", step, describe(d))
			}
			switch {
			case len(d.Actions) > 0:
			case !d.Wake.IsZero():
				now = d.Wake
			default: // a steady state: something ends by itself
				now = now.Add(time.Minute)
			}
			if rapid.Bool().Draw(t, "something ends") {
				for _, n := range names {
					c := g.o.Containers[strings.TrimLeft(n, "+~")]
					if c.Last != nil && c.Last.Running {
						c.Last.Running, c.Last.FinishedAt = false, now
						c.Last.ExitCode = rapid.SampledFrom([]int32{0, 1}).Draw(t, "code")
						break
					}
				}
			}
		}
		t.Fatal("the pod does not end")
	})
}

// carryOut does what an action says, at once.
func carryOut(t *rapid.T, o *plan.Observed, a plan.Action, now time.Time) {
	c := o.Containers[a.Container]
	switch a.Kind {
	case plan.MakeSandbox:
		o.Sandbox = plan.Ready
	case plan.RemoveSandbox:
		o.Sandbox = plan.Absent
	case plan.MountVolumes:
		o.Volumes = plan.Ready
	case plan.Pull:
		c.Image, c.Pulled = true, true
	case plan.Start:
		if c.Last != nil && c.Last.Running {
			t.Fatalf("%s is started while it runs", a.Container)
		}
		if o.Sandbox != plan.Ready || o.Volumes != plan.Ready {
			t.Fatalf("%s is started without a sandbox or volumes", a.Container)
		}
		c.Previous, c.Restarts = c.Last, a.Attempt
		c.Last = &plan.Instance{ID: fmt.Sprint(a.Container, a.Attempt), Attempt: a.Attempt, Running: true, Started: true, Passing: true, StartedAt: now}
	case plan.Kill:
		c.Last.Running, c.Last.FinishedAt, c.Last.ExitCode = false, now, 137
	case plan.Cleanup:
		for n, c := range o.Containers {
			if c.Last != nil && c.Last.Running {
				t.Fatalf("the pod is cleaned up while %s runs", n)
			}
		}
		o.Cleaned, o.Sandbox = plan.Ready, plan.Absent
	case plan.DeletePod:
		o.Deleted, o.Removed = true, true
	}
}
