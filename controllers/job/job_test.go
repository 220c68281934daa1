package job_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/garbage"
	"github.com/shiplog/shiplog/controllers/job"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

var seed = flag.Uint64("seed", 0, "run the simulations with this seed only")

func seeds(n uint64) []uint64 {
	if *seed != 0 {
		return []uint64{*seed}
	}
	var out []uint64
	for i := range n {
		out = append(out, i+1)
	}
	return out
}

func newJob(completions, parallelism int32, edits ...func(*batchv1.Job)) *batchv1.Job {
	l := map[string]string{"job-name": "work"}
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "work"},
		Spec: batchv1.JobSpec{
			Completions: &completions, Parallelism: &parallelism, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
			},
		},
	}
	for _, e := range edits {
		e(j)
	}
	return j
}

func get(view projections.Reader) *batchv1.Job {
	j, _ := projections.Get[*batchv1.Job](view, resources.Jobs.GroupResource(), "default", "work")
	return j
}

func conditions(j *batchv1.Job) string {
	var out []string
	for _, c := range j.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			out = append(out, fmt.Sprintf("%s(%s)", c.Type, c.Reason))
		}
	}
	return strings.Join(out, " ")
}

// However commands are refused, lost and cut off, and whoever deletes the pods: each that succeeded is counted once, a Job that is
// complete has exactly its completions, and no pod is held for ever.
func TestEveryPodIsCountedOnce(t *testing.T) {
	for _, mode := range []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion} {
		for _, seed := range seeds(25) {
			t.Run(fmt.Sprintf("%s/seed=%d", mode, seed), func(t *testing.T) {
				limit := int32(100)
				c := controllertest.NewCluster(newJob(6, 3, func(j *batchv1.Job) { j.Spec.CompletionMode, j.Spec.BackoffLimit = &mode, &limit }))
				sim := controllertest.NewSimulation(seed, c, job.New())
				sim.Faults = controllertest.Faults{Conflict: 10, Lost: 20, Stale: 2, Crash: 40}
				n := 0
				ends := map[string]corev1.PodPhase{}
				sim.Ends = func(p *corev1.Pod) corev1.PodPhase {
					if _, ok := ends[p.Name]; !ok {
						n++
						ends[p.Name] = corev1.PodSucceeded
						if n%3 == 0 {
							ends[p.Name] = corev1.PodFailed
						}
					}
					return ends[p.Name]
				}
				sim.Check = func(view projections.Reader) error {
					active := 0
					for p := range projections.List[*corev1.Pod](view, pods.Resource, "") {
						if pods.Active(p) {
							active++
						}
					}
					if active > 3 {
						return fmt.Errorf("%d pods at once, more than the parallelism", active)
					}
					return nil
				}
				if err := sim.Settle(20000, 3*time.Hour); err != nil {
					t.Fatalf("%v\n%s\nreplay with -seed %d", err, sim.Trace(), seed)
				}
				j := get(c.Snapshot())
				succeeded, failed := 0, 0
				indexes := map[string]bool{}
				for p := range projections.List[*corev1.Pod](c.Snapshot(), pods.Resource, "") {
					if len(p.Finalizers) != 0 {
						t.Errorf("pod %s is still held", p.Name)
					}
					switch p.Status.Phase {
					case corev1.PodSucceeded:
						succeeded++
						indexes[p.Annotations[batchv1.JobCompletionIndexAnnotation]] = true
					case corev1.PodFailed:
						failed++
					}
				}
				s := j.Status
				if int(s.Succeeded) != 6 || succeeded != 6 || int(s.Failed) != failed || s.Active != 0 || conditions(j) != "SuccessCriteriaMet(CompletionsReached) Complete(CompletionsReached)" || s.CompletionTime == nil {
					t.Errorf("%d pods succeeded and %d failed; status %+v\n%s\nreplay with -seed %d", succeeded, failed, s, sim.Trace(), seed)
				}
				if mode == batchv1.IndexedCompletion && (s.CompletedIndexes != "0-5" || len(indexes) != 6) {
					t.Errorf("completed %q, indexes %v", s.CompletedIndexes, indexes)
				}
			})
		}
	}
}

func run(t *testing.T, j *batchv1.Job, ends corev1.PodPhase, horizon time.Duration) (*controllertest.Cluster, *controllertest.Simulation) {
	t.Helper()
	c := controllertest.NewCluster(j)
	sim := controllertest.NewSimulation(1, c, job.New(), job.NewTTL(), garbage.New(c.Kinds()))
	sim.Ends = func(*corev1.Pod) corev1.PodPhase { return ends }
	if err := sim.Settle(5000, horizon); err != nil {
		t.Fatal(err, "\n", sim.Trace())
	}
	return c, sim
}

func TestHowJobsEnd(t *testing.T) {
	deadline, limit, yes := int64(30), int32(2), true
	for _, c := range []struct {
		what   string
		job    *batchv1.Job
		ends   corev1.PodPhase
		want   string
		failed int32
	}{
		{"too many failures", newJob(1, 1, func(j *batchv1.Job) { j.Spec.BackoffLimit = &limit }), corev1.PodFailed, "FailureTarget(BackoffLimitExceeded) Failed(BackoffLimitExceeded)", 3},
		{"too long", newJob(1, 1, func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = &deadline }), "", "FailureTarget(DeadlineExceeded) Failed(DeadlineExceeded)", 1},
		{"suspended", newJob(1, 1, func(j *batchv1.Job) { j.Spec.Suspend = &yes }), corev1.PodSucceeded, "Suspended(JobSuspended)", 0},
		{"a work queue", newJob(1, 3, func(j *batchv1.Job) { j.Spec.Completions = nil }), corev1.PodSucceeded, "SuccessCriteriaMet(CompletionsReached) Complete(CompletionsReached)", 0},
		{"a failure that ends it", newJob(1, 1, func(j *batchv1.Job) {
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{1}},
			}}}
		}), corev1.PodFailed, "FailureTarget(PodFailurePolicy) Failed(PodFailurePolicy)", 1},
	} {
		t.Run(c.what, func(t *testing.T) {
			cluster, sim := run(t, c.job, c.ends, time.Hour)
			j := get(cluster.Snapshot())
			if conditions(j) != c.want || j.Status.Failed != c.failed || j.Status.Active != 0 {
				t.Errorf("%s, failed %d; want %s, %d\n%s", conditions(j), j.Status.Failed, c.want, c.failed, sim.Trace())
			}
		})
	}
}

func TestResume(t *testing.T) {
	yes, no := true, false
	c, sim := run(t, newJob(2, 2, func(j *batchv1.Job) { j.Spec.Suspend = &yes }), corev1.PodSucceeded, time.Minute)
	if j := get(c.Snapshot()); j.Status.StartTime != nil {
		t.Errorf("a suspended job has started at %v", j.Status.StartTime)
	}
	next := get(c.Snapshot()).DeepCopy()
	next.Spec.Suspend = &no
	c.MustDo(controllers.Update(resources.Jobs, next))
	if err := sim.Settle(5000, time.Minute); err != nil {
		t.Fatal(err)
	}
	if j := get(c.Snapshot()); j.Status.Succeeded != 2 || j.Status.StartTime == nil {
		t.Errorf("status %+v", j.Status)
	}
}

func TestPausesBetweenFailures(t *testing.T) {
	limit := int32(3)
	c, _ := run(t, newJob(1, 1, func(j *batchv1.Job) { j.Spec.BackoffLimit = &limit }), corev1.PodFailed, time.Hour)
	var created []time.Time
	for _, ch := range c.Changes(0) {
		if p, ok := controllers.Of(ch.After).(*corev1.Pod); ok && ch.Before == nil {
			created = append(created, p.CreationTimestamp.Time)
		}
	}
	if len(created) != 4 {
		t.Fatalf("%d pods", len(created))
	}
	for i, least := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
		if gap := created[i+1].Sub(created[i]); gap < least-time.Second {
			t.Errorf("pod %d came %v after the one before, want at least %v", i+1, gap, least)
		}
	}
}

func TestAJobThatIsOverGoes(t *testing.T) {
	ttl := int32(60)
	c, sim := run(t, newJob(1, 1, func(j *batchv1.Job) { j.Spec.TTLSecondsAfterFinished = &ttl }), corev1.PodSucceeded, 50*time.Second)
	if get(c.Snapshot()) == nil {
		t.Fatal("gone too soon")
	}
	if err := sim.Settle(5000, time.Minute); err != nil {
		t.Fatal(err)
	}
	if get(c.Snapshot()) != nil {
		t.Error("still there")
	}
	for o := range c.Snapshot().List(pods.Resource, "") {
		t.Errorf("pod %s is left", o.Ref.Name)
	}
}

// A pod whose Job was deleted without it is let go.
func TestPodsOfAJobThatIsGone(t *testing.T) {
	c, sim := run(t, newJob(2, 2), "", time.Minute)
	c.MustDo(controllers.Delete(resources.Jobs, get(c.Snapshot())))
	if err := sim.Settle(5000, time.Minute); err != nil {
		t.Fatal(err)
	}
	for o := range c.Snapshot().List(pods.Resource, "") {
		t.Errorf("pod %s is left", o.Ref.Name)
	}
}
