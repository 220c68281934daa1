package job

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
)

// The pause before a pod that failed is replaced, which doubles with each failure since the last success.
const (
	firstPause = 10 * time.Second
	lastPause  = 10 * time.Minute
)

// manage brings the number of active pods to what the Job still needs.
func (l *look) manage() {
	parallelism := number(l.job.Spec.Parallelism, 1)
	want := parallelism
	switch {
	case l.job.Spec.Completions != nil:
		want = min(int(*l.job.Spec.Completions)-l.successes, parallelism)
	case l.successes > 0: // the others may end, none is added
		want = min(len(l.active), parallelism)
	}
	have := len(l.active)
	if have > want {
		l.deleteActive(have - max(0, want))
		return
	}
	if !l.replacesTerminating() {
		have += len(l.terminating)
	}
	missing := min(want-have, maxPerDecision)
	if missing <= 0 {
		return
	}
	if until := l.pausedUntil(); until.After(l.now) {
		l.wake(until)
		return
	}
	next := controllers.Names(l.job.Name+"-", l.job.UID, l.at.Position, func(name string) bool {
		_, ok := l.view.Get(pods.Resource, l.job.Namespace, name)
		return ok
	})
	if !indexed(l.job) {
		for range missing {
			l.start(next(), l.job.Name+"-", nil)
		}
		return
	}
	for _, i := range l.freeIndexes(missing) {
		prefix := fmt.Sprintf("%s-%d-", l.job.Name, i)
		named := controllers.Names(prefix, l.job.UID, l.at.Position, func(name string) bool {
			_, ok := l.view.Get(pods.Resource, l.job.Namespace, name)
			return ok
		})
		l.start(named(), prefix, &i)
	}
}

// freeIndexes returns the lowest indexes that are neither completed nor worked at.
func (l *look) freeIndexes(n int) []int {
	busy := maps.Clone(l.completedIndexes())
	at := l.active
	if !l.replacesTerminating() {
		at = slices.Concat(l.active, l.terminating)
	}
	for _, p := range at {
		if i, ok := indexOf(p); ok {
			busy[i] = true
		}
	}
	var free []int
	for i := 0; i < number(l.job.Spec.Completions, 0) && len(free) < n; i++ {
		if !busy[i] {
			free = append(free, i)
		}
	}
	return free
}

// pausedUntil is when the next pod may start, after failures.
func (l *look) pausedUntil() time.Time {
	var lastSuccess time.Time
	for _, p := range l.succeeded {
		if t := endOf(p); t.After(lastSuccess) {
			lastSuccess = t
		}
	}
	failures := 0
	var lastFailure time.Time
	for _, p := range l.failed {
		t := endOf(p)
		if l.ignored[p.UID] || !t.After(lastSuccess) {
			continue
		}
		failures++
		if t.After(lastFailure) {
			lastFailure = t
		}
	}
	if failures == 0 {
		return time.Time{}
	}
	pause := firstPause
	for i := 1; i < failures && pause < lastPause; i++ {
		pause *= 2
	}
	return lastFailure.Add(min(pause, lastPause))
}

// endOf is when a pod's last container ended, or the best that is known of that.
func endOf(p *corev1.Pod) time.Time {
	var end time.Time
	for _, cs := range p.Status.ContainerStatuses {
		if t := cs.State.Terminated; t != nil && t.FinishedAt.After(end) {
			end = t.FinishedAt.Time
		}
	}
	if end.IsZero() {
		if c := pods.Condition(p, corev1.PodReady); c != nil {
			end = c.LastTransitionTime.Time
		}
	}
	if end.IsZero() && p.DeletionTimestamp != nil {
		end = p.DeletionTimestamp.Time
	}
	if end.IsZero() {
		end = p.CreationTimestamp.Time
	}
	return end
}

// start creates a pod, of an index for an indexed Job.
func (l *look) start(name, generateName string, index *int) {
	p := pods.FromTemplate(&l.job.Spec.Template, l.job.Namespace, name, generateName, *metav1.NewControllerRef(l.job, kind))
	p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
	if index != nil {
		value := strconv.Itoa(*index)
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Annotations[batchv1.JobCompletionIndexAnnotation] = value
		p.Labels[batchv1.JobCompletionIndexAnnotation] = value
		p.Spec.Hostname = fmt.Sprintf("%s-%d", l.job.Name, *index)
		for _, cs := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range cs {
				addIndex(&cs[i])
			}
		}
	}
	l.create = append(l.create, controllers.Create(resources.Pods, p))
}

// addIndex tells a container its index, unless it sets the variable itself.
func addIndex(c *corev1.Container) {
	const variable = "JOB_COMPLETION_INDEX"
	if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == variable }) {
		return
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: variable, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)},
	}})
}
