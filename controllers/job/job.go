// Package job runs the pods of Jobs until enough of them have succeeded, and removes Jobs whose time after that is over.
package job

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

var (
	kind = batchv1.SchemeGroupVersion.WithKind("Job")
	jobs = resources.Jobs.GroupResource()
)

// maxPerDecision is how many pods are created, deleted or counted at once.
const maxPerDecision = 500

// Controller runs Jobs.
//
// A pod of a Job holds a finalizer until it is counted, so that none is counted twice and none is missed, whoever deletes it: its
// uid is first written to status.uncountedTerminatedPods, then its finalizer is taken away, then it becomes part of the sum.
type Controller struct{}

// New makes the controller.
func New() controllers.Controller { return Controller{} }

// Name implements controllers.Controller.
func (Controller) Name() string { return "job-controller" }

// Inputs implements controllers.Controller.
func (Controller) Inputs() []controllers.Input {
	owners := controllers.OwnerKeys(kind, jobs)
	return []controllers.Input{
		{Resource: jobs, Why: "what is wanted", Keys: func(view projections.Reader, ch projections.Change) []controllers.Key {
			keys := []controllers.Key{controllers.KeyOf(jobs, ch.Event.Ref.Namespace, ch.Event.Ref.Name)}
			if ch.After == nil && ch.Before != nil { // nobody counts its pods any more
				owned, err := pods.OwnedBy(view, uidOf(ch.Before))
				if err == nil {
					for _, p := range owned {
						keys = append(keys, controllers.KeyOf(pods.Resource, p.Namespace, p.Name))
					}
				}
			}
			return keys
		}},
		{Resource: pods.Resource, Why: "its pods", Keys: func(view projections.Reader, ch projections.Change) []controllers.Key {
			keys := owners(view, ch)
			if p, ok := controllers.Of(ch.After).(*corev1.Pod); ok && tracked(p) && len(keys) > 0 {
				if j, ok := projections.Get[*batchv1.Job](view, jobs, p.Namespace, keys[0].Name); !ok || j.UID != metav1.GetControllerOfNoCopy(p).UID {
					keys = append(keys, controllers.KeyOf(pods.Resource, p.Namespace, p.Name))
				}
			}
			return keys
		}},
	}
}

func uidOf(o *projections.Object) types.UID {
	if obj := controllers.Of(o); obj != nil {
		return obj.GetUID()
	}
	return ""
}

// Outputs implements controllers.Controller.
func (Controller) Outputs() []controllers.Output {
	return []controllers.Output{
		{Resource: jobs, Fields: []string{"status"}},
		{Resource: pods.Resource, Of: "controlled by jobs.batch", Creates: true, Deletes: true, Fields: []string{"metadata.ownerReferences", "metadata.finalizers[" + batchv1.JobTrackingFinalizer + "]"}},
	}
}

func tracked(p *corev1.Pod) bool { return slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) }

// untrack takes the finalizer from a pod.
func untrack(p *corev1.Pod) commands.Command {
	free := p.DeepCopy()
	free.Finalizers = slices.DeleteFunc(free.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
	return controllers.Update(resources.Pods, free)
}

// Reconcile implements controllers.Controller. The key is a Job, or a pod whose Job is gone.
func (Controller) Reconcile(view projections.Reader, key controllers.Key, now time.Time) (controllers.Decision, error) {
	if key.GroupResource() == pods.Resource {
		return orphan(view, key), nil
	}
	j, at, ok := controllers.Fetch[*batchv1.Job](view, key)
	if !ok || j.Spec.ManagedBy != nil && *j.Spec.ManagedBy != batchv1.JobControllerName {
		return controllers.Decision{}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	if err != nil || selector.Empty() {
		return controllers.Decision{}, nil // validation refuses such selectors
	}
	owned, claims, err := pods.Claim(view, j, kind, selector, false)
	if err != nil || len(claims) > 0 {
		return controllers.Decision{Commands: claims}, err
	}
	if finished(&j.Status) || j.DeletionTimestamp != nil {
		var d controllers.Decision
		for _, p := range owned {
			if tracked(p) {
				d.Commands = append(d.Commands, untrack(p))
			}
		}
		return d, nil
	}
	l := &look{view: view, was: j, job: j.DeepCopy(), at: at, now: now, owned: owned}
	l.sort()
	l.count()
	l.steer()
	return l.commit(), nil
}

// orphan lets go of a pod whose Job is gone.
func orphan(view projections.Reader, key controllers.Key) controllers.Decision {
	p, _, ok := controllers.Fetch[*corev1.Pod](view, key)
	if !ok || !tracked(p) {
		return controllers.Decision{}
	}
	if owner := metav1.GetControllerOfNoCopy(p); owner != nil && owner.Kind == kind.Kind {
		if j, ok := projections.Get[*batchv1.Job](view, jobs, p.Namespace, owner.Name); ok && j.UID == owner.UID {
			return controllers.Decision{}
		}
	}
	return controllers.Decision{Commands: []commands.Command{untrack(p)}}
}

// look is one look at one Job.
type look struct {
	view projections.Reader
	was  *batchv1.Job
	job  *batchv1.Job // a copy, whose status is edited
	at   *projections.Object
	now  time.Time

	owned                                  []*corev1.Pod
	active, terminating, succeeded, failed []*corev1.Pod
	commands                               []commands.Command
	create                                 []commands.Command
	events                                 []controllers.Event
	again                                  time.Time
	ignored                                map[types.UID]bool // failures that the policy does not count
	verdict                                *end               // why the Job has failed, as the pods say
	counted                                int                // failures so far, those not yet in the sum included
	successes                              int                // the same of successes
}

// end is how a Job ends.
type end struct{ reason, message string }

func (l *look) wake(at time.Time) {
	if l.again.IsZero() || at.Before(l.again) {
		l.again = at
	}
}

// replacesTerminating says whether a pod that is being deleted counts as failed at once.
func (l *look) replacesTerminating() bool {
	policy := l.job.Spec.PodReplacementPolicy
	if policy == nil {
		return l.job.Spec.PodFailurePolicy == nil
	}
	return *policy == batchv1.TerminatingOrFailed
}

func (l *look) sort() {
	for _, p := range l.owned {
		switch {
		case p.Status.Phase == corev1.PodSucceeded:
			l.succeeded = append(l.succeeded, p)
		case p.Status.Phase == corev1.PodFailed:
			l.failed = append(l.failed, p)
		case p.DeletionTimestamp != nil:
			l.terminating = append(l.terminating, p)
			if l.replacesTerminating() {
				l.failed = append(l.failed, p)
			}
		default:
			l.active = append(l.active, p)
		}
	}
}

func (l *look) commit() controllers.Decision {
	d := controllers.Decision{Commands: l.commands, Events: l.events, Again: l.again}
	if !equality.Semantic.DeepEqual(l.was.Status, l.job.Status) {
		d.Commands = append(d.Commands, controllers.UpdateStatus(resources.Jobs, l.job))
	}
	about := controllers.Reference(l.at)
	d.Then = func(outcomes []controllers.Outcome) controllers.Decision {
		events, _ := pods.Told(about, outcomes)
		return controllers.Decision{Events: events, Commands: l.create, Careful: true, Then: func(outcomes []controllers.Outcome) controllers.Decision {
			events, _ := pods.Told(about, outcomes)
			return controllers.Decision{Events: events}
		}}
	}
	if len(l.owned) > 50 {
		d.Settle = min(time.Duration(len(l.owned))*100*time.Microsecond, 500*time.Millisecond)
	}
	return d
}

func (l *look) tell(eventType, reason, message string) {
	l.events = append(l.events, controllers.Event{About: controllers.Reference(l.at), Type: eventType, Reason: reason, Message: message})
}

func finished(s *batchv1.JobStatus) bool {
	return is(s, batchv1.JobComplete) || is(s, batchv1.JobFailed)
}

func condition(s *batchv1.JobStatus, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

func is(s *batchv1.JobStatus, t batchv1.JobConditionType) bool {
	c := condition(s, t)
	return c != nil && c.Status == corev1.ConditionTrue
}

// set sets a condition and says whether it was another.
func (l *look) set(t batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) bool {
	c := batchv1.JobCondition{Type: t, Status: status, Reason: reason, Message: message, LastProbeTime: metav1.NewTime(l.now), LastTransitionTime: metav1.NewTime(l.now)}
	if have := condition(&l.job.Status, t); have != nil {
		if have.Status == status && have.Reason == reason && have.Message == message {
			return false
		}
		*have = c
		return true
	}
	l.job.Status.Conditions = append(l.job.Status.Conditions, c)
	return true
}

func suspended(j *batchv1.Job) bool { return j.Spec.Suspend != nil && *j.Spec.Suspend }

func indexed(j *batchv1.Job) bool {
	return j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
}

func number(n *int32, otherwise int) int {
	if n == nil {
		return otherwise
	}
	return int(*n)
}

// steer decides what the counts mean: an end, a pause, or more pods.
func (l *look) steer() {
	s := &l.job.Status
	active, terminating, ready := int32(len(l.active)), int32(len(l.terminating)), int32(0)
	for _, p := range l.active {
		if pods.Ready(p) {
			ready++
		}
	}
	s.Active, s.Terminating, s.Ready = active, &terminating, &ready
	if s.StartTime == nil && !suspended(l.job) {
		at := metav1.NewTime(l.now)
		s.StartTime = &at
	}
	switch {
	case is(s, batchv1.JobFailureTarget):
		c := condition(s, batchv1.JobFailureTarget)
		l.finish(batchv1.JobFailed, end{c.Reason, c.Message})
	case is(s, batchv1.JobSuccessCriteriaMet):
		c := condition(s, batchv1.JobSuccessCriteriaMet)
		l.finish(batchv1.JobComplete, end{c.Reason, c.Message})
	case l.failure() != nil:
		e := l.failure()
		l.set(batchv1.JobFailureTarget, corev1.ConditionTrue, e.reason, e.message)
		l.deleteActive(len(l.active))
	case l.success() != nil:
		e := l.success()
		l.set(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, e.reason, e.message)
		l.deleteActive(len(l.active))
	case suspended(l.job):
		if l.set(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended") {
			l.tell(corev1.EventTypeNormal, "Suspended", "Job suspended")
		}
		l.deleteActive(len(l.active))
	default:
		if is(s, batchv1.JobSuspended) {
			l.set(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
			at := metav1.NewTime(l.now)
			s.StartTime = &at
			l.tell(corev1.EventTypeNormal, "Resumed", "Job resumed")
		}
		l.manage()
	}
}

// finish ends what runs, and ends the Job when nothing runs and everything is counted.
func (l *look) finish(t batchv1.JobConditionType, e end) {
	l.deleteActive(len(l.active))
	u := l.job.Status.UncountedTerminatedPods
	if len(l.active)+len(l.terminating) > 0 || len(l.commands) > 0 || u != nil && len(u.Succeeded)+len(u.Failed) > 0 {
		return
	}
	l.set(t, corev1.ConditionTrue, e.reason, e.message)
	if t == batchv1.JobComplete {
		at := metav1.NewTime(l.now)
		l.job.Status.CompletionTime = &at
		l.tell(corev1.EventTypeNormal, "Completed", "Job completed")
		return
	}
	l.tell(corev1.EventTypeWarning, e.reason, e.message)
}

func (l *look) deleteActive(n int) {
	if n < len(l.active) {
		pods.RankForDeletion(l.active, nil, l.now)
	}
	for _, p := range l.active[:n] {
		l.commands = append(l.commands, controllers.Delete(resources.Pods, p))
	}
}

// failure says why the Job has failed, if it has.
func (l *look) failure() *end {
	if l.verdict != nil {
		return l.verdict
	}
	limit := number(l.job.Spec.BackoffLimit, 6)
	if l.counted > limit {
		return &end{batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit"}
	}
	if l.job.Spec.Template.Spec.RestartPolicy == corev1.RestartPolicyOnFailure {
		restarts := 0
		for _, p := range l.active {
			for _, cs := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
				restarts += int(cs.RestartCount)
			}
		}
		if restarts > 0 && restarts >= max(1, limit) {
			return &end{batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit"}
		}
	}
	if d := l.job.Spec.ActiveDeadlineSeconds; d != nil && !suspended(l.job) && l.job.Status.StartTime != nil {
		at := l.job.Status.StartTime.Add(time.Duration(*d) * time.Second)
		if !at.After(l.now) {
			return &end{batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline"}
		}
		l.wake(at)
	}
	return nil
}

// success says that enough pods have succeeded, if they have.
func (l *look) success() *end {
	reached := &end{batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods"}
	if l.job.Spec.Completions == nil {
		if l.successes > 0 && len(l.active) == 0 {
			return reached
		}
		return nil
	}
	if l.successes >= int(*l.job.Spec.Completions) {
		return reached
	}
	if indexed(l.job) && l.job.Spec.SuccessPolicy != nil {
		done := l.completedIndexes()
		for i, rule := range l.job.Spec.SuccessPolicy.Rules {
			if met(rule, done, int(*l.job.Spec.Completions)) {
				return &end{batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", i)}
			}
		}
	}
	return nil
}
