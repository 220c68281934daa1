package domain

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func nodeKinds() []Kind {
	return []Kind{
		{
			Version: "v1", Kind: "Node", Resource: "nodes", ShortNames: []string{"no"},
			New:   func() runtime.Object { return &corev1.Node{} },
			Words: nodeWords(),
		},
		{
			Group: "node.k8s.io", Version: "v1", Kind: "RuntimeClass", Resource: "runtimeclasses",
			New: func() runtime.Object { return &nodev1.RuntimeClass{} },
		},
	}
}

func nodeWords() []Word {
	ready := func(n *corev1.Node) corev1.ConditionStatus { return nodeCondition(n, corev1.NodeReady) }
	return []Word{
		created("NodeRegistered", "A node joined the cluster.", func(*corev1.Node) bool { return true }),
		changed("NodeReady", "The node became ready to run pods.", func(b, a *corev1.Node) bool {
			return ready(a) == corev1.ConditionTrue && ready(b) != corev1.ConditionTrue
		}),
		changed("NodeNotReady", "The node stopped being ready, or was not heard of for too long.", func(b, a *corev1.Node) bool {
			return ready(a) != corev1.ConditionTrue && ready(b) == corev1.ConditionTrue
		}),
		changed("NodeCordoned", "No new pods are to be placed on the node.", func(b, a *corev1.Node) bool {
			return a.Spec.Unschedulable && !b.Spec.Unschedulable
		}),
		changed("NodeUncordoned", "New pods may be placed on the node again.", func(b, a *corev1.Node) bool {
			return !a.Spec.Unschedulable && b.Spec.Unschedulable
		}),
		changed("NodeUnderPressure", "The node began to run short of memory, disk or processes.", func(b, a *corev1.Node) bool {
			return nodePressure(a) && !nodePressure(b)
		}),
		changed("NodePressureRelieved", "The node no longer runs short of memory, disk or processes.", func(b, a *corev1.Node) bool {
			return !nodePressure(a) && nodePressure(b)
		}),
		changed("NodeTainted", "A taint was added to the node or changed.", func(b, a *corev1.Node) bool {
			return !taintsWithin(a.Spec.Taints, b.Spec.Taints)
		}),
		changed("NodeUntainted", "A taint was taken off the node.", func(b, a *corev1.Node) bool {
			return !taintsWithin(b.Spec.Taints, a.Spec.Taints)
		}),
		changed("NodeCapacityChanged", "The resources that the node has, or gives to pods, changed.", func(b, a *corev1.Node) bool {
			return !sameQuantities(b.Status.Capacity, a.Status.Capacity) || !sameQuantities(b.Status.Allocatable, a.Status.Allocatable)
		}),
		changed("NodeAddressChanged", "The node's addresses changed.", func(b, a *corev1.Node) bool {
			return !reflect.DeepEqual(b.Status.Addresses, a.Status.Addresses)
		}),
		changed("NodePodCIDRAssigned", "The node got the range of addresses for its pods.", func(b, a *corev1.Node) bool {
			return b.Spec.PodCIDR == "" && a.Spec.PodCIDR != ""
		}),
	}
}

func nodeCondition(n *corev1.Node, t corev1.NodeConditionType) corev1.ConditionStatus {
	for i := range n.Status.Conditions {
		if c := &n.Status.Conditions[i]; c.Type == t {
			return c.Status
		}
	}
	return ""
}

func nodePressure(n *corev1.Node) bool {
	for _, t := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		if nodeCondition(n, t) == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// taintsWithin says whether every taint of one list is in the other; when it was added does not matter.
func taintsWithin(list, other []corev1.Taint) bool {
	for i := range list {
		found := false
		for j := range other {
			if list[i].Key == other[j].Key && list[i].Value == other[j].Value && list[i].Effect == other[j].Effect {
				found = true
				break
			}
		}
		if !found {
			return false
		}
	}
	return true
}

func sameQuantities(a, b corev1.ResourceList) bool {
	if len(a) != len(b) {
		return false
	}
	for name, q := range a {
		other, ok := b[name]
		if !ok || q.Cmp(other) != 0 {
			return false
		}
	}
	return true
}
