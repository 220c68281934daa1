package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// topology sorts the nodes into domains by the value of one label.
type topology struct {
	key     string
	domain  []int32 // by node; -1 for a node without the label
	domains int
}

func (r *round) topology(key string) *topology {
	if t, ok := r.topologies[key]; ok {
		return t
	}
	t := &topology{key: key, domain: make([]int32, len(r.nodes))}
	ids := map[string]int32{}
	for i, n := range r.nodes {
		value, ok := n.node.Labels[key]
		if !ok {
			t.domain[i] = -1
			continue
		}
		id, ok := ids[value]
		if !ok {
			id = int32(len(ids))
			ids[value] = id
		}
		t.domain[i] = id
	}
	t.domains = len(ids)
	r.topologies[key] = t
	return t
}

// watcher keeps a count up to date while the round places pods.
type watcher interface {
	placed(p *podInfo, node int)
}

// spread is one topology spread constraint of a class of pods.
type spread struct {
	topology  *topology
	maxSkew   int32
	minDomain int32
	self      int32 // 1 when the pod counts itself
	namespace string
	selector  labels.Selector
	eligible  []bool  // nodes whose pods count
	present   []bool  // domains that hold an eligible node
	counts    []int32 // by domain
	domains   int32   // how many domains are present
	minimum   int32   // of counts; refreshed once a pod
}

func (s *spread) matches(p *podInfo) bool {
	return !p.terminating && p.pod.Namespace == s.namespace && s.selector.Matches(labelsOf(p.pod))
}

func (s *spread) placed(p *podInfo, node int) {
	if d := s.topology.domain[node]; d >= 0 && s.eligible[node] && s.matches(p) {
		s.counts[d]++
	}
}

func (s *spread) refresh() {
	s.minimum = math.MaxInt32
	for d, n := range s.counts {
		if s.present[d] && n < s.minimum {
			s.minimum = n
		}
	}
	if s.domains < s.minDomain || s.minimum == math.MaxInt32 {
		s.minimum = 0
	}
}

// Reasons of the filter, as Kubernetes words them.
const (
	reasonSpread      = "node(s) didn't match pod topology spread constraints"
	reasonSpreadLabel = reasonSpread + " (missing required label)"
)

// refuses returns why the constraint refuses a node, or "".
func (s *spread) refuses(node int) string {
	d := s.topology.domain[node]
	if d < 0 {
		return reasonSpreadLabel
	}
	if s.counts[d]+s.self-s.minimum > s.maxSkew {
		return reasonSpread
	}
	return ""
}

// spreads works out the constraints of a class that say what to do when they cannot be met.
func (r *round) spreads(c *class, when corev1.UnsatisfiableConstraintAction) []*spread {
	pod := c.info.pod
	var list []*spread
	for i := range pod.Spec.TopologySpreadConstraints {
		tc := &pod.Spec.TopologySpreadConstraints[i]
		if tc.WhenUnsatisfiable != when {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(tc.LabelSelector)
		if err != nil {
			selector = labels.Nothing() // the API's validation lets no such selector in
		}
		for _, key := range tc.MatchLabelKeys {
			if value, ok := pod.Labels[key]; ok {
				if req, err := labels.NewRequirement(key, "in", []string{value}); err == nil {
					selector = selector.Add(*req)
				}
			}
		}
		s := &spread{
			topology: r.topology(tc.TopologyKey), maxSkew: tc.MaxSkew, minDomain: 1,
			namespace: pod.Namespace, selector: selector,
		}
		if tc.MinDomains != nil {
			s.minDomain = *tc.MinDomains
		}
		if selector.Matches(labelsOf(pod)) {
			s.self = 1
		}
		honourAffinity := tc.NodeAffinityPolicy == nil || *tc.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
		honourTaints := tc.NodeTaintsPolicy != nil && *tc.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
		s.eligible = make([]bool, len(r.nodes))
		for n, node := range r.nodes {
			s.eligible[n] = (!honourAffinity || c.selects(node.node)) && (!honourTaints || c.untolerated(node.node) == nil)
		}
		list = append(list, s)
	}
	// Only nodes that have the labels of all constraints count, for each of them.
	for n := range r.nodes {
		for _, s := range list {
			if s.topology.domain[n] < 0 {
				for _, t := range list {
					t.eligible[n] = false
				}
				break
			}
		}
	}
	for _, s := range list {
		s.count(r)
		r.watchers = append(r.watchers, s)
	}
	return list
}

// count counts the pods that are there.
func (s *spread) count(r *round) {
	s.present = make([]bool, s.topology.domains)
	s.counts = make([]int32, s.topology.domains)
	for n, node := range r.nodes {
		if !s.eligible[n] {
			continue
		}
		if d := s.topology.domain[n]; !s.present[d] {
			s.present[d] = true
			s.domains++
		}
		for _, p := range node.pods {
			s.placed(p, n)
		}
	}
	for _, p := range r.placed {
		s.placed(p.info, p.node)
	}
}

// group counts the pods of one owner (or of one service, for pods without an owner) by node and by zone, so that pods without
// constraints of their own are spread over both.
type group struct {
	nodes      []int32
	zones      []int32
	zone       *topology
	nodeWeight float64
	zoneWeight float64
	// Of a group by service:
	namespace string
	selector  labels.Selector
}

func (r *round) newGroup() *group {
	zone := r.topology(corev1.LabelTopologyZone)
	return &group{
		nodes: make([]int32, len(r.nodes)), zones: make([]int32, zone.domains), zone: zone,
		// The more domains there are the less each pod in one of them says: Kubernetes' normalising weight.
		nodeWeight: math.Log(float64(len(r.nodes) + 2)), zoneWeight: math.Log(float64(zone.domains + 2)),
	}
}

func (g *group) count(node int, n int32) {
	g.nodes[node] += n
	if z := g.zone.domain[node]; z >= 0 {
		g.zones[z] += n
	}
}

// crowd is how crowded with the group a node is.
func (g *group) crowd(node int) float64 {
	c := float64(g.nodes[node]) * g.nodeWeight
	if z := g.zone.domain[node]; z >= 0 {
		c += float64(g.zones[z]) * g.zoneWeight
	}
	return c
}

func (g *group) placed(p *podInfo, node int) {
	if g.matches(p) {
		g.count(node, 1)
	}
}

func (g *group) matches(p *podInfo) bool {
	return !p.terminating && p.pod.Namespace == g.namespace && g.selector.Matches(labelsOf(p.pod))
}

// group returns the group that a pod belongs to, or nil.
func (r *round) group(p *podInfo) *group {
	if p.owner != "" {
		return r.ownerGroup(p.owner)
	}
	for _, svc := range r.snapshot.services[p.pod.Namespace] {
		if svc.selector.Matches(labelsOf(p.pod)) {
			return r.serviceGroup(types.NamespacedName{Namespace: p.pod.Namespace, Name: svc.name}, svc.selector)
		}
	}
	return nil
}

func (r *round) ownerGroup(owner types.UID) *group {
	if g, ok := r.owners[owner]; ok {
		return g
	}
	g := r.newGroup()
	for i, n := range r.nodes {
		if c := n.ownerCount(owner); c != 0 {
			g.count(i, c)
		}
	}
	for _, p := range r.placed {
		if p.info.owner == owner {
			g.count(p.node, 1)
		}
	}
	r.owners[owner] = g
	return g
}

func (r *round) serviceGroup(key types.NamespacedName, selector labels.Selector) *group {
	if g, ok := r.services[key]; ok {
		return g
	}
	g := r.newGroup()
	g.namespace, g.selector = key.Namespace, selector
	for i, n := range r.nodes {
		for _, p := range n.pods {
			g.placed(p, i)
		}
	}
	for _, p := range r.placed {
		g.placed(p.info, p.node)
	}
	r.services[key] = g
	r.watchers = append(r.watchers, g)
	return g
}
