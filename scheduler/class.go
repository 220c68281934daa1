package scheduler

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// Weights of the scores that have one other than 1, those of Kubernetes' default profile.
const (
	weightTaints       = 3
	weightNodeAffinity = 2
	weightPodAffinity  = 2
	weightSpread       = 2
	maxScore           = 100
)

// class is what pods that every node treats alike share in one round: which nodes the rules that do not depend on other pods
// refuse, and what the nodes are worth as far as that does not depend on other pods.
type class struct {
	info     *podInfo
	required nodeaffinity.RequiredNodeAffinity
	log      klog.Logger

	feasible []int32     // nodes that no static rule refuses
	static   []NodeScore // by index in feasible: taints, node affinity, images
	refused  refusals    // by the static rules

	// The score of what is left of a node, by index in feasible, as of the node's version.
	version []uint32
	room    []room

	hard, soft []*spread
	group      *group
	neighbours *neighbours
	volumes    volumeNeeds

	// hopeless: no node took the last pod of the class, and nothing that the round does can change that.
	hopeless *Reasons
}

// room says whether a pod of the class fits on a node now, and how well.
type room struct {
	fits               bool
	resources, balance uint8
}

func (r *round) newClass(info *podInfo) *class {
	c := &class{
		info: info, log: klog.Background(),
		required: nodeaffinity.GetRequiredNodeAffinity(info.pod),
		refused:  refusals{named: r.opts.NamedNodes},
	}
	c.volumes = r.snapshot.volumeNeeds(info)
	if c.volumes.unready != "" {
		c.refused.whole = c.volumes.unready
		c.refused.list = []Refusal{{Filter: VolumeBinding, Reason: c.volumes.unready, Count: len(r.nodes)}}
		return c
	}
	c.feasible = make([]int32, 0, len(r.nodes))
	for i, n := range r.nodes {
		if filter, reason := c.refuses(&r.snapshot, n.node); reason != "" {
			c.refused.add(filter, reason, n.name)
			continue
		}
		c.feasible = append(c.feasible, int32(i))
	}
	c.static = make([]NodeScore, len(c.feasible))
	c.version = make([]uint32, len(c.feasible))
	c.room = make([]room, len(c.feasible))
	c.scoreTaints(r)
	c.scoreNodeAffinity(r)
	c.scoreImages(r)
	c.hard = r.spreads(c, corev1.DoNotSchedule)
	if len(info.pod.Spec.TopologySpreadConstraints) > 0 {
		c.soft = r.spreads(c, corev1.ScheduleAnyway)
	} else {
		c.group = r.group(info)
	}
	c.neighbours = r.neighbours(info)
	return c
}

// refuses returns the first static rule that refuses a node, and why.
func (c *class) refuses(s *Snapshot, node *corev1.Node) (Filter, string) {
	pod := c.info.pod
	if node.Spec.Unschedulable && !c.tolerates(&corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		return NodeUnschedulable, "node(s) were unschedulable"
	}
	if pod.Spec.NodeName != "" && pod.Spec.NodeName != node.Name {
		return NodeName, "node(s) didn't match the requested node name"
	}
	if t := c.untolerated(node); t != nil {
		return TaintToleration, "node(s) had untolerated taint {" + t.Key + ": " + t.Value + "}"
	}
	if !c.selects(node) {
		return NodeAffinity, "node(s) didn't match Pod's node affinity/selector"
	}
	if reason := c.volumes.refuses(s, node); reason != "" {
		return VolumeBinding, reason
	}
	return "", ""
}

func (c *class) tolerates(t *corev1.Taint) bool {
	for i := range c.info.pod.Spec.Tolerations {
		if c.info.pod.Spec.Tolerations[i].ToleratesTaint(c.log, t, true) {
			return true
		}
	}
	return false
}

// untolerated returns the first taint that keeps the pod off a node.
func (c *class) untolerated(node *corev1.Node) *corev1.Taint {
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect != corev1.TaintEffectPreferNoSchedule && !c.tolerates(t) {
			return t
		}
	}
	return nil
}

// selects tells whether the node selector and the required node affinity admit a node. A selector that cannot be parsed
// admits none.
func (c *class) selects(node *corev1.Node) bool {
	ok, err := c.required.Match(node)
	return ok && err == nil
}

func (c *class) scoreTaints(r *round) {
	bad := make([]int64, len(c.feasible))
	var most int64
	for k, i := range c.feasible {
		for t := range r.nodes[i].node.Spec.Taints {
			taint := &r.nodes[i].node.Spec.Taints[t]
			if taint.Effect == corev1.TaintEffectPreferNoSchedule && !c.tolerates(taint) {
				bad[k]++
			}
		}
		most = max(most, bad[k])
	}
	for k := range c.static {
		score := int64(maxScore)
		if most > 0 {
			score = maxScore - maxScore*bad[k]/most
		}
		c.static[k].Taints = weightTaints * score
	}
}

func (c *class) scoreNodeAffinity(r *round) {
	a := c.info.pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return // the API's validation lets no such term in; a preference that cannot be read prefers nothing
	}
	raw := make([]int64, len(c.feasible))
	var most int64
	for k, i := range c.feasible {
		raw[k] = terms.Score(r.nodes[i].node)
		most = max(most, raw[k])
	}
	if most == 0 {
		return
	}
	for k := range c.static {
		c.static[k].NodeAffinity = weightNodeAffinity * (maxScore * raw[k] / most)
	}
}

// Bounds between which the size of the images that are there already makes a difference.
const (
	imagesFrom         = 23 << 20
	imagesPerContainer = 1000 << 20
)

func (c *class) scoreImages(r *round) {
	if !r.withImages {
		return
	}
	spec := &c.info.pod.Spec
	names := make([]string, 0, len(spec.Containers)+len(spec.InitContainers))
	for i := range spec.InitContainers {
		names = append(names, imageName(spec.InitContainers[i].Image))
	}
	for i := range spec.Containers {
		names = append(names, imageName(spec.Containers[i].Image))
	}
	have := make([]int64, len(names))
	for _, n := range r.nodes {
		for j, name := range names {
			if _, ok := n.images[name]; ok {
				have[j]++
			}
		}
	}
	most := int64(imagesPerContainer) * int64(len(names))
	for k, i := range c.feasible {
		var sum int64
		for j, name := range names {
			// An image that few nodes have counts less, so that pods do not pile up on the node that pulled it first.
			sum += r.nodes[i].images[name] * have[j] / int64(len(r.nodes))
		}
		sum = min(max(sum, imagesFrom), most)
		c.static[k].Images = maxScore * (sum - imagesFrom) / (most - imagesFrom)
	}
}

// imageName adds the tag that an image without one means, as node statuses name it.
func imageName(image string) string {
	if strings.LastIndexByte(image, ':') <= strings.LastIndexByte(image, '/') {
		return image + ":latest"
	}
	return image
}

// roomOn works out how a pod of the class would fit on a node.
func (c *class) roomOn(u *usage, n *nodeInfo) room {
	if !fits(c.info, u, n) {
		return room{}
	}
	cpu, memory := u.scoredCPU+c.info.scoredCPU, u.scoredMemory+c.info.scoredMemory
	return room{
		fits:      true,
		resources: uint8((left(cpu, n.allocatable.cpu) + left(memory, n.allocatable.memory)) / 2),
		balance: balance(u.requested.cpu+c.info.requests.cpu, n.allocatable.cpu,
			u.requested.memory+c.info.requests.memory, n.allocatable.memory),
	}
}

// left is the share of a resource that would be left, of 100.
func left(used, all int64) int64 {
	if all == 0 || used > all {
		return 0
	}
	return (all - used) * maxScore / all
}

// balance is 100 when the same shares of cpu and memory are taken, less the more they differ.
func balance(cpu, allCPU, memory, allMemory int64) uint8 {
	if allCPU == 0 || allMemory == 0 {
		return maxScore
	}
	a, b := min(float64(cpu)/float64(allCPU), 1), min(float64(memory)/float64(allMemory), 1)
	if a < b {
		a, b = b, a
	}
	return uint8((1 - (a-b)/2) * maxScore)
}
