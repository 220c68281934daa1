package pods

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RankForDeletion sorts pods so that those to be deleted first come first, as Kubernetes' ReplicaSets choose: not assigned,
// pending, not ready, of a low deletion cost, on a node with many related pods, ready for a short time, restarted often,
// young. Ages are compared by their order of magnitude, so that long-lived pods share the fate evenly.
// https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-a-replicaset
func RankForDeletion(ps []*corev1.Pod, related map[string]int, now time.Time) {
	ranked := make([]rank, len(ps))
	for i, p := range ps {
		ranked[i] = rankOf(p, related[p.Spec.NodeName], now)
	}
	slices.SortFunc(ranked, rank.compare)
	for i := range ranked {
		ps[i] = ranked[i].pod
	}
}

type rank struct {
	pod      *corev1.Pod
	assigned bool
	phase    int
	ready    bool
	cost     int
	related  int
	readyAge int // order of magnitude; larger is older
	restarts int32
	sidecars int32
	age      int
}

func rankOf(p *corev1.Pod, related int, now time.Time) rank {
	r := rank{pod: p, assigned: p.Spec.NodeName != "", related: related, age: magnitude(p.CreationTimestamp, now)}
	switch p.Status.Phase {
	case corev1.PodPending:
		r.phase = 0
	case corev1.PodUnknown:
		r.phase = 1
	default:
		r.phase = 2
	}
	if c := Condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		r.ready, r.readyAge = true, magnitude(c.LastTransitionTime, now)
	}
	// An annotation that is no 32-bit number is refused by validation; one from elsewhere counts as 0.
	if cost, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32); err == nil {
		r.cost = int(cost)
	}
	for i := range p.Status.ContainerStatuses {
		r.restarts = max(r.restarts, p.Status.ContainerStatuses[i].RestartCount)
	}
	always := map[string]bool{}
	for i := range p.Spec.InitContainers {
		if rp := p.Spec.InitContainers[i].RestartPolicy; rp != nil && *rp == corev1.ContainerRestartPolicyAlways {
			always[p.Spec.InitContainers[i].Name] = true
		}
	}
	for i := range p.Status.InitContainerStatuses {
		if s := &p.Status.InitContainerStatuses[i]; always[s.Name] {
			r.sidecars = max(r.sidecars, s.RestartCount)
		}
	}
	return r
}

// magnitude is the power of two of an age in seconds; -1 for no time at all, which is younger than any.
func magnitude(t metav1.Time, now time.Time) int {
	if t.IsZero() {
		return -1
	}
	age := int64(now.Sub(t.Time) / time.Second)
	if age <= 0 {
		return 0
	}
	return int(math.Log2(float64(age))) + 1
}

func (r rank) compare(s rank) int {
	return cmp.Or(
		boolCompare(r.assigned, s.assigned),
		cmp.Compare(r.phase, s.phase),
		boolCompare(r.ready, s.ready),
		cmp.Compare(r.cost, s.cost),
		cmp.Compare(s.related, r.related),
		cmp.Compare(r.readyAge, s.readyAge),
		cmp.Compare(s.restarts, r.restarts),
		cmp.Compare(s.sidecars, r.sidecars),
		cmp.Compare(r.age, s.age),
		strings.Compare(string(r.pod.UID), string(s.pod.UID)),
	)
}

// boolCompare puts false first.
func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}
