package scheduler

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Victim is a pod that has to go so that one of higher priority can run in its place.
type Victim struct {
	info *podInfo
}

// Pod returns the pod.
func (v Victim) Pod() *corev1.Pod { return v.info.pod }

// budget is what a PodDisruptionBudget allows.
type budget struct {
	name     string
	selector labels.Selector
	allowed  int32
}

// sacrifice is what it would take to make room on a node.
type sacrifice struct {
	node     int
	victims  []*podInfo
	breaches int   // victims that a disruption budget protects
	highest  int32 // priority among the victims
	sum      int64 // of their priorities
	started  int64 // when the oldest of the victims of the highest priority started, Unix seconds
	tie      uint64
}

// better tells whether a sacrifice costs less than another: by Kubernetes' order.
func (s *sacrifice) better(o *sacrifice) bool {
	return cmp.Or(
		cmp.Compare(s.breaches, o.breaches),
		cmp.Compare(s.highest, o.highest),
		cmp.Compare(s.sum, o.sum),
		cmp.Compare(len(s.victims), len(o.victims)),
		cmp.Compare(o.started, s.started),
		cmp.Compare(o.tie, s.tie),
	) < 0
}

// preempt looks for the node on which making room for a pod that no node takes costs least. Nodes that something else than
// resources and ports keeps the pod from are no use, whoever goes.
func (r *round) preempt(c *class, p Pending) *sacrifice {
	pod := p.info.pod
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == corev1.PreemptNever {
		return nil
	}
	var best *sacrifice
	seed := hashString(string(pod.UID)) ^ hashString(pod.Name) ^ r.opts.Seed
	for _, i := range c.feasible {
		node := int(i)
		if refusesAny(c.hard, node) != "" || c.neighbours != nil && c.neighbours.refuses(node) != "" {
			continue
		}
		s := r.sacrifice(p, node)
		if s == nil {
			continue
		}
		s.tie = mix(seed ^ r.nodes[node].hash)
		if best == nil || s.better(best) {
			best = s
		}
	}
	return best
}

// makingRoom tells whether pods of lower priority are on their way out of the node that a pod was promised.
func (r *round) makingRoom(p Pending) bool {
	for _, n := range r.nodes {
		if n.name != p.nominated {
			continue
		}
		for _, q := range n.pods {
			if q.terminating && priorityOf(q.pod) < priorityOf(p.info.pod) {
				return true
			}
		}
	}
	return false
}

// sacrifice works out which pods would have to go from a node; nil when that is of no use.
func (r *round) sacrifice(p Pending, node int) *sacrifice {
	n := r.nodes[node]
	priority := priorityOf(p.info.pod)
	used := r.promised(r.used[node], n, p)
	gone := map[*podInfo]bool{}
	var lower []*podInfo
	for _, q := range n.pods {
		switch {
		case r.evicted[podKey(q.pod)]: // it goes for another pod, which r.used has
			used = used.plus(q, -1)
			gone[q] = true
		case priorityOf(q.pod) < priority:
			lower = append(lower, q)
		}
	}
	if len(lower) == 0 {
		return nil
	}
	for _, q := range lower {
		used = used.plus(q, -1)
		gone[q] = true
	}
	if !fits(p.info, &used, n) || r.portHeld(p.info, node, gone) {
		return nil
	}
	// Give back as many as possible: first those that a budget protects, then the most important and the oldest.
	breaches := r.breaches(lower)
	slices.SortStableFunc(lower, func(a, b *podInfo) int {
		return cmp.Or(
			-cmp.Compare(breaches[a], breaches[b]),
			-cmp.Compare(priorityOf(a.pod), priorityOf(b.pod)),
			cmp.Compare(startOf(a.pod), startOf(b.pod)),
			cmp.Compare(a.pod.Name, b.pod.Name),
		)
	})
	s := &sacrifice{node: node}
	for _, q := range lower {
		with := used.plus(q, 1)
		delete(gone, q)
		if fits(p.info, &with, n) && !r.portHeld(p.info, node, gone) {
			used = with
			continue
		}
		gone[q] = true
		s.victims = append(s.victims, q)
		s.breaches += breaches[q]
		pr := priorityOf(q.pod)
		s.sum += int64(pr)
		switch {
		case len(s.victims) == 1 || pr > s.highest:
			s.highest, s.started = pr, startOf(q.pod)
		case pr == s.highest:
			s.started = min(s.started, startOf(q.pod))
		}
	}
	if len(s.victims) == 0 {
		return nil // it is something else
	}
	return s
}

func startOf(pod *corev1.Pod) int64 {
	if pod.Status.StartTime == nil {
		return pod.CreationTimestamp.Unix()
	}
	return pod.Status.StartTime.Unix()
}

// breaches tells which of the pods could not go without breaking a disruption budget, should all of them go: 1 or 0 each.
func (r *round) breaches(pods []*podInfo) map[*podInfo]int {
	out := map[*podInfo]int{}
	left := map[*budget]int32{}
	for _, p := range pods {
		if p.terminating || len(p.pod.Labels) == 0 {
			continue
		}
		list := r.snapshot.budgets[p.pod.Namespace]
		for i := range list {
			b := &list[i]
			if !b.selector.Matches(labelsOf(p.pod)) {
				continue
			}
			if _, ok := left[b]; !ok {
				left[b] = b.allowed
			}
			if left[b]--; left[b] < 0 {
				out[p] = 1
			}
		}
	}
	return out
}

// portHeld tells whether a port that a pod wants would still be taken on a node when some pods are gone.
func (r *round) portHeld(p *podInfo, node int, gone map[*podInfo]bool) bool {
	for _, want := range p.ports {
		for _, q := range r.nodes[node].pods {
			if !gone[q] && slices.ContainsFunc(q.ports, want.conflicts) {
				return true
			}
		}
		if slices.ContainsFunc(r.ports[node], want.conflicts) {
			return true
		}
	}
	return false
}

// promised adds to the usage of a node what is held there for pods that wait for others to go: it counts for all pods but those of
// higher priority.
func (r *round) promised(u usage, n *nodeInfo, p Pending) usage {
	for _, q := range n.nominated {
		if q.pod.UID != p.info.pod.UID && priorityOf(q.pod) >= priorityOf(p.info.pod) && !r.settled[podKey(q.pod)] {
			u = u.plus(q, 1)
		}
	}
	return u
}

// promise holds the room that a sacrifice makes for a pod, for the rest of the round. The victims are still there: what they take is
// nobody's yet.
func (r *round) promise(p Pending, s *sacrifice) {
	for _, q := range s.victims {
		r.evicted[podKey(q.pod)] = true
	}
	r.used[s.node] = r.used[s.node].plus(p.info, 1)
	r.version[s.node]++
	r.settled[podKey(p.info.pod)] = true
}

// Nominate holds room on a node for a pod that waits for others to go from it, against pods of no higher priority. A pod is
// nominated for one node at a time; "" takes the nomination back.
func (s *State) Nominate(p Pending, node string) {
	key := podKey(p.info.pod)
	if old, ok := s.nominations[key]; ok {
		n := s.own(old)
		n.nominated = slices.DeleteFunc(n.nominated, func(q *podInfo) bool { return podKey(q.pod) == key })
		delete(s.nominations, key)
		s.dropIfEmpty(n)
	}
	if node == "" {
		return
	}
	n := s.own(node)
	n.nominated = append(n.nominated, p.info)
	s.nominations[key] = node
}

// Nominated returns the node that a pod is nominated for; "" for none.
func (s *State) Nominated(key types.NamespacedName) string { return s.nominations[key] }
