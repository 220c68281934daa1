package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// count moves pods that have ended towards the sums, one step each.
func (l *look) count() {
	s := &l.job.Status
	if s.UncountedTerminatedPods == nil {
		s.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	u := s.UncountedTerminatedPods
	l.ignored = map[types.UID]bool{}
	held := map[types.UID]*corev1.Pod{} // that still have their finalizer
	for _, p := range l.owned {
		if tracked(p) {
			held[p.UID] = p
		}
	}
	known := map[types.UID]bool{}
	sum := func(list []types.UID, total *int32) (rest []types.UID) {
		for _, uid := range list {
			known[uid] = true
			if p, ok := held[uid]; ok {
				l.commands = append(l.commands, untrack(p))
				rest = append(rest, uid)
			} else {
				*total++
			}
		}
		return rest
	}
	u.Succeeded, u.Failed = sum(u.Succeeded, &s.Succeeded), sum(u.Failed, &s.Failed)
	room := maxPerDecision - len(u.Succeeded) - len(u.Failed)
	if indexed(l.job) {
		l.countIndexes(held)
	}
	for _, p := range l.succeeded {
		if _, ok := held[p.UID]; ok && !known[p.UID] && !indexed(l.job) && room > 0 {
			u.Succeeded = append(u.Succeeded, p.UID)
			room--
		}
	}
	for _, p := range l.failed {
		if _, ok := held[p.UID]; !ok || known[p.UID] {
			continue
		}
		switch l.judge(p) {
		case ignore:
			l.commands = append(l.commands, untrack(p))
			l.ignored[p.UID] = true
		default:
			if room > 0 {
				u.Failed = append(u.Failed, p.UID)
				room--
			}
		}
	}
	l.counted = int(s.Failed) + len(u.Failed)
	l.successes = int(s.Succeeded) + len(u.Succeeded)
}

// countIndexes adds the indexes of pods that have succeeded; a pod is let go when the view shows that its index is kept.
func (l *look) countIndexes(held map[types.UID]*corev1.Pod) {
	kept := parseIndexes(l.was.Status.CompletedIndexes)
	done := parseIndexes(l.was.Status.CompletedIndexes)
	for _, p := range l.succeeded {
		i, ok := indexOf(p)
		if _, mine := held[p.UID]; !mine || !ok {
			continue
		}
		if kept[i] || i >= number(l.job.Spec.Completions, 0) {
			l.commands = append(l.commands, untrack(p))
			continue
		}
		done[i] = true
	}
	l.job.Status.CompletedIndexes = formatIndexes(done)
	l.job.Status.Succeeded = int32(len(done))
}

func (l *look) completedIndexes() map[int]bool { return parseIndexes(l.job.Status.CompletedIndexes) }

func indexOf(p *corev1.Pod) (int, bool) {
	i, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	return i, err == nil && i >= 0
}

// parseIndexes reads "1,3-5,7".
func parseIndexes(text string) map[int]bool {
	out := map[int]bool{}
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		if err != nil {
			continue
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(last); err != nil {
				continue
			}
		}
		for i := a; i <= b; i++ {
			out[i] = true
		}
	}
	return out
}

// formatIndexes writes "1,3-5,7": runs of three and more, and of two, as ranges.
func formatIndexes(set map[int]bool) string {
	var all []int
	for i := range set {
		all = append(all, i)
	}
	slices.Sort(all)
	var parts []string
	for from := 0; from < len(all); {
		to := from
		for to+1 < len(all) && all[to+1] == all[to]+1 {
			to++
		}
		if to == from {
			parts = append(parts, strconv.Itoa(all[from]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", all[from], all[to]))
		}
		from = to + 1
	}
	return strings.Join(parts, ",")
}

// met says whether a rule of a success policy holds.
func met(rule batchv1.SuccessPolicyRule, done map[int]bool, completions int) bool {
	of := map[int]bool{}
	if rule.SucceededIndexes != nil {
		of = parseIndexes(*rule.SucceededIndexes)
	} else {
		for i := range completions {
			of[i] = true
		}
	}
	n := 0
	for i := range of {
		if done[i] {
			n++
		}
	}
	if rule.SucceededCount != nil {
		return n >= int(*rule.SucceededCount)
	}
	return n == len(of)
}

// judgement is what the Job's policy says of a failure.
type judgement int

const (
	counts judgement = iota
	ignore
)

// judge applies the pod failure policy to a failed pod: the first rule that matches decides.
func (l *look) judge(p *corev1.Pod) judgement {
	if l.job.Spec.PodFailurePolicy == nil {
		return counts
	}
	for i := range l.job.Spec.PodFailurePolicy.Rules {
		rule := &l.job.Spec.PodFailurePolicy.Rules[i]
		why, ok := matches(rule, p)
		if !ok {
			continue
		}
		switch rule.Action {
		case batchv1.PodFailurePolicyActionIgnore:
			return ignore
		case batchv1.PodFailurePolicyActionFailJob:
			l.verdict = &end{batchv1.JobReasonPodFailurePolicy, fmt.Sprintf("%s matching FailJob rule at index %d", why, i)}
		}
		return counts
	}
	return counts
}

// matches says whether a rule is about a failed pod, and by what.
func matches(rule *batchv1.PodFailurePolicyRule, p *corev1.Pod) (string, bool) {
	if on := rule.OnExitCodes; on != nil {
		for _, cs := range slices.Concat(p.Status.ContainerStatuses, p.Status.InitContainerStatuses) {
			t := cs.State.Terminated
			if t == nil || t.ExitCode == 0 || on.ContainerName != nil && *on.ContainerName != cs.Name {
				continue
			}
			if slices.Contains(on.Values, t.ExitCode) == (on.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
				return fmt.Sprintf("Container %s for pod %s/%s failed with exit code %d", cs.Name, p.Namespace, p.Name, t.ExitCode), true
			}
		}
	}
	for _, pattern := range rule.OnPodConditions {
		for _, c := range p.Status.Conditions {
			if c.Type == pattern.Type && (pattern.Status == "" && c.Status == corev1.ConditionTrue || c.Status == pattern.Status) {
				return fmt.Sprintf("Pod %s/%s has condition %s", p.Namespace, p.Name, c.Type), true
			}
		}
	}
	return "", false
}
