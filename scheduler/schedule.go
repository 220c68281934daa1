package scheduler

import (
	"math"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// Options of a round of scheduling.
type Options struct {
	// Seed breaks ties between nodes that are worth the same.
	Seed uint64
	// Name of the scheduler, for the reasons; "default-scheduler" when empty.
	Name string
	// NamedNodes bounds how many nodes a refusal names (default 3), TopScores how many nodes' scores are kept (default 3).
	NamedNodes, TopScores int
	// NoPreemption: no pod has to go for one of higher priority.
	NoPreemption bool
}

// DefaultName is the name of the scheduler that pods ask for when they ask for none.
const DefaultName = "default-scheduler"

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if o.NamedNodes == 0 {
		o.NamedNodes = 3
	}
	if o.TopScores == 0 {
		o.TopScores = 3
	}
	return o
}

// Placement is the decision about one pod.
type Placement struct {
	Pending Pending
	Node    string // "" when no node takes the pod
	Reasons Reasons
	// Nominated is the node from which the victims have to go to make room for the pod; "" when none was chosen. A pod that was
	// nominated before and for which room is still being made keeps its nomination and has no new victims.
	Nominated string
	Victims   []Victim
	// Claims are the pod's claims whose volumes wait to be made on its node.
	Claims []string
}

// Schedule decides for each pod on which node it runs, in the order of priority, then age. Each decision counts on those before
// it. The snapshot does not change. The placements are in the order in which they were decided.
func Schedule(snapshot Snapshot, pods []Pending, opts Options) []Placement {
	r := newRound(snapshot, opts.withDefaults(), len(pods))
	order := slices.Clone(pods)
	slices.SortStableFunc(order, Pending.compare)
	placements := make([]Placement, len(order))
	for i, p := range order {
		placements[i] = r.decide(p)
	}
	return placements
}

// round is the working state of one call of Schedule.
type round struct {
	snapshot Snapshot
	opts     Options
	nodes    []*nodeInfo
	used     []usage            // by node; with the pods placed in this round
	version  []uint32           // by node; 1 more for each pod placed on it
	ports    map[int][]hostPort // taken in this round, by node
	placed   []placedPod

	classes    map[string]*class
	topologies map[string]*topology
	owners     map[types.UID]*group
	services   map[types.NamespacedName]*group
	watchers   []watcher

	evicted, settled map[types.NamespacedName]bool // victims, and nominated pods that were decided on, of this round
	withNominated    bool                          // room is held on some node

	withAffinity bool // a pod that is there has terms about other pods
	withImages   bool // a node tells which images it has

	candidates []candidate // scratch
	top        []scored    // scratch
}

type placedPod struct {
	info *podInfo
	node int
}

// candidate is a node that no filter refused.
type candidate struct {
	k     int // index in class.feasible
	node  int
	crowd float64
	likes int64
}

type scored struct {
	score NodeScore
	node  int
	tie   uint64
}

func newRound(snapshot Snapshot, opts Options, pods int) *round {
	r := &round{
		snapshot: snapshot, opts: opts, nodes: snapshot.nodes,
		used:       make([]usage, len(snapshot.nodes)),
		version:    make([]uint32, len(snapshot.nodes)),
		ports:      map[int][]hostPort{},
		placed:     make([]placedPod, 0, pods),
		classes:    map[string]*class{},
		topologies: map[string]*topology{},
		owners:     map[types.UID]*group{},
		services:   map[types.NamespacedName]*group{},
		evicted:    map[types.NamespacedName]bool{},
		settled:    map[types.NamespacedName]bool{},
		candidates: make([]candidate, 0, len(snapshot.nodes)),
	}
	for i, n := range snapshot.nodes {
		r.used[i] = n.used
		r.version[i] = 1
		r.withAffinity = r.withAffinity || n.withAffinity > 0
		r.withImages = r.withImages || len(n.images) > 0
		r.withNominated = r.withNominated || len(n.nominated) > 0
	}
	return r
}

func (r *round) decide(p Pending) Placement {
	c, ok := r.classes[p.class]
	if !ok {
		c = r.newClass(p.info)
		r.classes[p.class] = c
	}
	if c.hopeless != nil {
		return r.refuse(c, p, *c.hopeless)
	}
	refused := r.filter(c, p)
	reasons := Reasons{Scheduler: r.opts.Name, Position: r.snapshot.Position, Nodes: len(r.nodes), Feasible: len(r.candidates)}
	if len(r.candidates) == 0 {
		reasons.Message = refused.message(len(r.nodes))
		reasons.Refused = refused.list
		// Within a round nodes only fill up; only terms about other pods can turn in a pod's favour, and who
		// room is held for differs from pod to pod.
		if len(c.hard) == 0 && c.neighbours == nil && !r.withNominated {
			kept := reasons
			c.hopeless = &kept
		}
		return r.refuse(c, p, reasons)
	}
	best := r.score(c, p)
	reasons.Node = r.nodes[best.node].name
	reasons.Refused = refused.list
	reasons.Scores = make([]NodeScore, len(r.top))
	for i := range r.top {
		reasons.Scores[i] = r.top[i].score
	}
	r.place(p.info, best.node)
	return Placement{Pending: p, Node: reasons.Node, Reasons: reasons, Claims: c.volumes.late}
}

// refuse decides about a pod that no node takes as things are: others may have to go for it.
func (r *round) refuse(c *class, p Pending, reasons Reasons) Placement {
	out := Placement{Pending: p, Reasons: reasons}
	if r.opts.NoPreemption {
		return out
	}
	if p.nominated != "" && r.makingRoom(p) {
		out.Nominated, out.Reasons.Nominated = p.nominated, p.nominated
		return out
	}
	s := r.preempt(c, p)
	if s == nil {
		return out
	}
	out.Nominated = r.nodes[s.node].name
	out.Reasons.Nominated = out.Nominated
	for _, v := range s.victims {
		if !v.terminating { // one that is on its way out need not be asked
			out.Victims = append(out.Victims, Victim{v})
		}
		out.Reasons.Victims = append(out.Reasons.Victims, podKey(v.pod).String())
	}
	r.promise(p, s)
	return out
}

// filter leaves in r.candidates the nodes that no rule refuses, and returns why the others were refused.
func (r *round) filter(c *class, p Pending) refusals {
	refused := c.refused
	copied := false
	refuse := func(f Filter, reason string, node int) {
		if !copied {
			refused, copied = c.refused.clone(), true
		}
		refused.add(f, reason, r.nodes[node].name)
	}
	for _, s := range c.hard {
		s.refresh()
	}
	r.candidates = r.candidates[:0]
	for k, i32 := range c.feasible {
		i := int(i32)
		if len(c.info.ports) > 0 && r.portTaken(c.info, i) {
			refuse(NodePorts, "node(s) didn't have free ports for the requested pod ports", i)
			continue
		}
		if c.version[k] != r.version[i] {
			c.version[k] = r.version[i]
			c.room[k] = c.roomOn(&r.used[i], r.nodes[i])
		}
		if !c.room[k].fits {
			misfits(c.info, &r.used[i], r.nodes[i], func(reason string) { refuse(NodeResourcesFit, reason, i) })
			continue
		}
		if r.withNominated && len(r.nodes[i].nominated) > 0 {
			held := r.promised(r.used[i], r.nodes[i], p)
			if !fits(c.info, &held, r.nodes[i]) {
				misfits(c.info, &held, r.nodes[i], func(reason string) { refuse(NodeResourcesFit, reason, i) })
				continue
			}
		}
		if len(c.hard) > 0 {
			if reason := refusesAny(c.hard, i); reason != "" {
				refuse(PodTopologySpread, reason, i)
				continue
			}
		}
		if c.neighbours != nil {
			if reason := c.neighbours.refuses(i); reason != "" {
				refuse(InterPodAffinity, reason, i)
				continue
			}
		}
		r.candidates = append(r.candidates, candidate{k: k, node: i})
	}
	return refused
}

func refusesAny(spreads []*spread, node int) string {
	for _, s := range spreads {
		if reason := s.refuses(node); reason != "" {
			return reason
		}
	}
	return ""
}

func (r *round) portTaken(p *podInfo, node int) bool {
	for _, want := range p.ports {
		for _, have := range r.nodes[node].ports {
			if want.conflicts(have) {
				return true
			}
		}
		for _, have := range r.ports[node] {
			if want.conflicts(have) {
				return true
			}
		}
	}
	return false
}

// score leaves the best candidates in r.top and returns the very best.
func (r *round) score(c *class, p Pending) scored {
	least, most := math.Inf(1), 0.0
	liked, disliked := int64(math.MinInt64), int64(math.MaxInt64)
	for j := range r.candidates {
		cand := &r.candidates[j]
		if cand.crowd = c.crowd(cand.node); cand.crowd >= 0 {
			least, most = min(least, cand.crowd), max(most, cand.crowd)
		}
		if c.neighbours != nil {
			cand.likes = c.neighbours.liking(cand.node)
			liked, disliked = max(liked, cand.likes), min(disliked, cand.likes)
		}
	}
	r.top = r.top[:0]
	pod := hashString(string(p.info.pod.UID)) ^ hashString(p.info.pod.Name) ^ r.opts.Seed
	for j := range r.candidates {
		cand := &r.candidates[j]
		s := &c.static[cand.k]
		rm := c.room[cand.k]
		spread := int64(maxScore)
		if cand.crowd < 0 {
			spread = 0
		} else if most > 0 {
			spread = int64(maxScore * (most + least - cand.crowd) / most)
		}
		var friends int64
		if liked > disliked {
			friends = maxScore * (cand.likes - disliked) / (liked - disliked)
		}
		total := int64(rm.resources) + int64(rm.balance) + s.Taints + s.NodeAffinity + s.Images + weightSpread*spread + weightPodAffinity*friends
		full := len(r.top) == r.opts.TopScores
		if full && total < r.top[len(r.top)-1].score.Total {
			continue
		}
		e := scored{node: cand.node, tie: mix(pod ^ r.nodes[cand.node].hash)}
		at := len(r.top)
		for at > 0 && (r.top[at-1].score.Total < total || r.top[at-1].score.Total == total && r.top[at-1].tie < e.tie) {
			at--
		}
		if full && at == len(r.top) {
			continue
		}
		e.score = NodeScore{
			Node: r.nodes[cand.node].name, Total: total, Resources: int64(rm.resources), Balance: int64(rm.balance),
			Taints: s.Taints, NodeAffinity: s.NodeAffinity, Images: s.Images,
			Spread: weightSpread * spread, PodAffinity: weightPodAffinity * friends,
		}
		if full {
			r.top = r.top[:len(r.top)-1]
		}
		r.top = slices.Insert(r.top, at, e)
	}
	return r.top[0]
}

// crowd is how crowded a node is with pods that this one is to be spread from; negative for a node that is in no domain of a
// constraint that the pod has.
func (c *class) crowd(node int) float64 {
	if c.group != nil {
		return c.group.crowd(node)
	}
	var sum float64
	for _, s := range c.soft {
		d := s.topology.domain[node]
		if d < 0 {
			return -1
		}
		sum += float64(s.counts[d])*math.Log(float64(s.domains+2)) + float64(s.maxSkew-1)
	}
	return sum
}

// place counts a pod as placed on a node.
func (r *round) place(p *podInfo, node int) {
	r.used[node] = r.used[node].plus(p, 1)
	r.version[node]++
	if len(p.ports) > 0 {
		r.ports[node] = append(r.ports[node], p.ports...)
	}
	r.placed = append(r.placed, placedPod{p, node})
	if r.withNominated {
		r.settled[podKey(p.pod)] = true
	}
	r.withAffinity = r.withAffinity || p.affinity != nil
	if g, ok := r.owners[p.owner]; ok && p.owner != "" {
		g.count(node, 1)
	}
	for _, w := range r.watchers {
		w.placed(p, node)
	}
	if p.affinity != nil {
		// A class that had no neighbours to think of has one now.
		for _, c := range r.classes {
			if c.neighbours == nil {
				c.neighbours = r.neighbours(c.info)
			}
		}
	}
}
