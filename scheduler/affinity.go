package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// podAffinity is what a pod says about the pods next to which it runs.
type podAffinity struct {
	required, requiredAnti   []podTerm
	preferred, preferredAnti []podTerm
}

// podTerm selects pods whose node shares a topology domain.
type podTerm struct {
	key        string
	weight     int64
	selector   labels.Selector
	namespaces map[string]bool
	nsSelector labels.Selector // nil: none
}

// hardWeight is what a required affinity of a pod that runs counts for when a pod that it would like is scored.
const hardWeight = 1

func newPodAffinity(pod *corev1.Pod) *podAffinity {
	a := pod.Spec.Affinity
	if a == nil || a.PodAffinity == nil && a.PodAntiAffinity == nil {
		return nil
	}
	p := &podAffinity{}
	if a.PodAffinity != nil {
		p.required = requiredTerms(pod, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		p.preferred = preferredTerms(pod, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		p.requiredAnti = requiredTerms(pod, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		p.preferredAnti = preferredTerms(pod, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return p
}

func requiredTerms(pod *corev1.Pod, terms []corev1.PodAffinityTerm) []podTerm {
	list := make([]podTerm, 0, len(terms))
	for i := range terms {
		list = append(list, newPodTerm(pod, &terms[i], hardWeight))
	}
	return list
}

func preferredTerms(pod *corev1.Pod, terms []corev1.WeightedPodAffinityTerm) []podTerm {
	list := make([]podTerm, 0, len(terms))
	for i := range terms {
		list = append(list, newPodTerm(pod, &terms[i].PodAffinityTerm, int64(terms[i].Weight)))
	}
	return list
}

func newPodTerm(pod *corev1.Pod, t *corev1.PodAffinityTerm, weight int64) podTerm {
	term := podTerm{key: t.TopologyKey, weight: weight, namespaces: map[string]bool{}}
	var err error
	if term.selector, err = metav1.LabelSelectorAsSelector(t.LabelSelector); err != nil {
		term.selector = labels.Nothing() // the API's validation lets no such selector in
	}
	for _, ns := range t.Namespaces {
		term.namespaces[ns] = true
	}
	if t.NamespaceSelector != nil {
		if term.nsSelector, err = metav1.LabelSelectorAsSelector(t.NamespaceSelector); err != nil {
			term.nsSelector = labels.Nothing()
		}
	}
	if len(t.Namespaces) == 0 && t.NamespaceSelector == nil {
		term.namespaces[pod.Namespace] = true
	}
	return term
}

func (r *round) termMatches(t *podTerm, p *podInfo) bool {
	ns := p.pod.Namespace
	if !t.namespaces[ns] && (t.nsSelector == nil || !t.nsSelector.Matches(r.snapshot.namespaces[ns])) {
		return false
	}
	return t.selector.Matches(labelsOf(p.pod))
}

func (r *round) allMatch(terms []podTerm, p *podInfo) bool {
	for i := range terms {
		if !r.termMatches(&terms[i], p) {
			return false
		}
	}
	return true
}

// domainCount counts pods by the domains of one topology.
type domainCount struct {
	topology *topology
	counts   []int64
	total    int64
}

func (d *domainCount) add(node int, n int64) {
	if i := d.topology.domain[node]; i >= 0 {
		d.counts[i] += n
		d.total += n
	}
}

func (d *domainCount) at(node int) int64 {
	if i := d.topology.domain[node]; i >= 0 {
		return d.counts[i]
	}
	return 0
}

// neighbours is what a class of pods must know of the other pods' places: for its own terms and for theirs about it.
type neighbours struct {
	round    *round
	info     *podInfo
	required []domainCount // pods that match all required terms, by each term's topology
	anti     []domainCount // pods that match the required anti-affinity term
	against  []domainCount // pods whose required anti-affinity term matches this pod, by topology
	likes    []domainCount // preferred terms of either side: weights, by topology
	self     bool          // the pod matches its own required terms
}

// neighbours returns nil when neither the class nor any pod there is has terms about other pods.
func (r *round) neighbours(p *podInfo) *neighbours {
	if p.affinity == nil && !r.withAffinity {
		return nil
	}
	n := &neighbours{round: r, info: p}
	if a := p.affinity; a != nil {
		for i := range a.required {
			n.required = append(n.required, r.newCount(a.required[i].key))
		}
		for i := range a.requiredAnti {
			n.anti = append(n.anti, r.newCount(a.requiredAnti[i].key))
		}
		n.self = len(a.required) > 0 && r.allMatch(a.required, p)
	}
	for i, node := range r.nodes {
		if p.affinity == nil && node.withAffinity == 0 {
			continue
		}
		for _, q := range node.pods {
			n.placed(q, i)
		}
	}
	for _, q := range r.placed {
		n.placed(q.info, q.node)
	}
	r.watchers = append(r.watchers, n)
	return n
}

func (r *round) newCount(key string) domainCount {
	t := r.topology(key)
	return domainCount{topology: t, counts: make([]int64, t.domains)}
}

// count returns the list's counter for a topology, adding one if there is none.
func (n *neighbours) count(list *[]domainCount, key string) *domainCount {
	for i := range *list {
		if (*list)[i].topology.key == key {
			return &(*list)[i]
		}
	}
	*list = append(*list, n.round.newCount(key))
	return &(*list)[len(*list)-1]
}

// placed takes a pod on a node into account.
func (n *neighbours) placed(q *podInfo, node int) {
	r := n.round
	if a := n.info.affinity; a != nil {
		if len(a.required) > 0 && r.allMatch(a.required, q) {
			for i := range n.required {
				n.required[i].add(node, 1)
			}
		}
		for i := range a.requiredAnti {
			if r.termMatches(&a.requiredAnti[i], q) {
				n.anti[i].add(node, 1)
			}
		}
		for i := range a.preferred {
			if t := &a.preferred[i]; r.termMatches(t, q) {
				n.count(&n.likes, t.key).add(node, t.weight)
			}
		}
		for i := range a.preferredAnti {
			if t := &a.preferredAnti[i]; r.termMatches(t, q) {
				n.count(&n.likes, t.key).add(node, -t.weight)
			}
		}
	}
	b := q.affinity
	if b == nil {
		return
	}
	for i := range b.requiredAnti {
		if t := &b.requiredAnti[i]; r.termMatches(t, n.info) {
			n.count(&n.against, t.key).add(node, 1)
		}
	}
	for i := range b.required {
		if t := &b.required[i]; r.termMatches(t, n.info) {
			n.count(&n.likes, t.key).add(node, t.weight)
		}
	}
	for i := range b.preferred {
		if t := &b.preferred[i]; r.termMatches(t, n.info) {
			n.count(&n.likes, t.key).add(node, t.weight)
		}
	}
	for i := range b.preferredAnti {
		if t := &b.preferredAnti[i]; r.termMatches(t, n.info) {
			n.count(&n.likes, t.key).add(node, -t.weight)
		}
	}
}

// Reasons of the filter, as Kubernetes words them.
const (
	reasonAffinity     = "node(s) didn't match pod affinity rules"
	reasonAntiAffinity = "node(s) didn't match pod anti-affinity rules"
	reasonExistingAnti = "node(s) didn't satisfy existing pods anti-affinity rules"
)

// refuses returns why the required terms refuse a node, or "".
func (n *neighbours) refuses(node int) string {
	met, any := true, false
	for i := range n.required {
		d := &n.required[i]
		if d.topology.domain[node] < 0 {
			return reasonAffinity // without the label no pod can be near
		}
		met = met && d.at(node) > 0
		any = any || d.total > 0
	}
	// The first pod of a group that wants to be together has nobody to join: it may start the group.
	if !met && (any || !n.self) {
		return reasonAffinity
	}
	for i := range n.anti {
		if n.anti[i].at(node) > 0 {
			return reasonAntiAffinity
		}
	}
	for i := range n.against {
		if n.against[i].at(node) > 0 {
			return reasonExistingAnti
		}
	}
	return ""
}

// liking is the sum of the weights of the preferred terms that a node meets.
func (n *neighbours) liking(node int) int64 {
	var sum int64
	for i := range n.likes {
		sum += n.likes[i].at(node)
	}
	return sum
}
