package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

// Filter names the rule that refused a node, in the words of Kubernetes' scheduler plugins.
type Filter string

// The filters, in the order in which they look at a node: the first that refuses names the reason.
const (
	NodeUnschedulable Filter = "NodeUnschedulable"
	NodeName          Filter = "NodeName"
	TaintToleration   Filter = "TaintToleration"
	NodeAffinity      Filter = "NodeAffinity"
	NodePorts         Filter = "NodePorts"
	NodeResourcesFit  Filter = "NodeResourcesFit"
	VolumeBinding     Filter = "VolumeBinding"
	PodTopologySpread Filter = "PodTopologySpread"
	InterPodAffinity  Filter = "InterPodAffinity"
)

// Reasons is what a placement rests on: the evidence that is kept with the PodBound event.
type Reasons struct {
	Scheduler string `json:"scheduler"`
	// Position of the snapshot that was decided on.
	Position uint64 `json:"position"`
	Node     string `json:"node,omitempty"` // "" when no node was found
	Nodes    int    `json:"nodes"`          // how many there were
	Feasible int    `json:"feasible"`       // how many no filter refused
	// Message is Kubernetes' sentence about a pod that cannot be placed.
	Message string    `json:"message,omitempty"`
	Refused []Refusal `json:"refused,omitempty"`
	// Scores of the best nodes, the winner's first.
	Scores []NodeScore `json:"scores,omitempty"`
	// Nominated is the node on which room is made for the pod, and Victims are the pods ("namespace/name") that go for it.
	Nominated string   `json:"nominated,omitempty"`
	Victims   []string `json:"victims,omitempty"`
}

// Refusal says how many nodes a filter refused for one reason, and names some.
type Refusal struct {
	Filter Filter   `json:"filter"`
	Reason string   `json:"reason"`
	Count  int      `json:"count"`
	Nodes  []string `json:"nodes,omitempty"` // the first in the order of names, up to Options.NamedNodes
}

// NodeScore is what a node was worth. Each part is between 0 and 100 times its weight.
type NodeScore struct {
	Node         string `json:"node"`
	Total        int64  `json:"total"`
	Resources    int64  `json:"resources"`              // the more is left of cpu and memory the better; weight 1
	Balance      int64  `json:"balance"`                // the more alike the shares of cpu and memory the better; weight 1
	Taints       int64  `json:"taints"`                 // fewer PreferNoSchedule taints; weight 3
	NodeAffinity int64  `json:"nodeAffinity,omitempty"` // preferred node affinity; weight 2
	PodAffinity  int64  `json:"podAffinity,omitempty"`  // preferred pod affinity and anti-affinity; weight 2
	Spread       int64  `json:"spread"`                 // fewer pods of the same owner on the node and in the zone; weight 2
	Images       int64  `json:"images,omitempty"`       // images that are there already; weight 1
}

// refusals collects why nodes were refused.
type refusals struct {
	list  []Refusal
	named int
	whole string // why no node is even looked at
}

func (r *refusals) add(f Filter, reason, node string) {
	for i := range r.list {
		e := &r.list[i]
		if e.Filter == f && e.Reason == reason {
			e.Count++
			if len(e.Nodes) < r.named {
				e.Nodes = append(e.Nodes, node)
			}
			return
		}
	}
	e := Refusal{Filter: f, Reason: reason, Count: 1}
	if r.named > 0 {
		e.Nodes = []string{node}
	}
	r.list = append(r.list, e)
}

// clone returns a copy that can be added to without changing the original.
func (r *refusals) clone() refusals {
	list := slices.Clone(r.list)
	for i := range list {
		list[i].Nodes = slices.Clip(list[i].Nodes)
	}
	return refusals{list: list, named: r.named, whole: r.whole}
}

// message is Kubernetes' sentence: "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu."
func (r *refusals) message(nodes int) string {
	if nodes == 0 {
		return "no nodes available to schedule pods"
	}
	if r.whole != "" {
		return fmt.Sprintf("0/%d nodes are available: %s.", nodes, r.whole)
	}
	parts := make([]string, len(r.list))
	for i, e := range r.list {
		parts[i] = fmt.Sprintf("%d %s", e.Count, e.Reason)
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(parts, ", "))
}
