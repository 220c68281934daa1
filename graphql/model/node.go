package model

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/graphql/view"
	"github.com/shiplog/shiplog/projections"
)

// Node is a machine that runs pods.
type Node struct{ *base }

func newNode(v *view.View, o *projections.Object) *Node { return &Node{&base{view: v, obj: o}} }

// NodeOf returns one node.
func NodeOf(ctx context.Context, v *view.View, name string) (*Node, error) {
	return one(ctx, v, nodesResource, "", name, newNode)
}

// NodesOf lists nodes.
func NodesOf(ctx context.Context, v *view.View, a ListArgs) (*NodeConnection, error) {
	list, err := a.list(ctx, v, nodesResource, "")
	if err != nil {
		return nil, err
	}
	edges, nodes, info, total, err := connect(v, list, a.First, a.After, newNode, func(c string, n *Node) *NodeEdge { return &NodeEdge{Cursor: c, Node: n} })
	if err != nil {
		return nil, err
	}
	return &NodeConnection{Edges: edges, Nodes: nodes, PageInfo: info, TotalCount: total}, nil
}

// read gives a function the node; its answer is the field.
func readNode[T any](n *Node, read func(*corev1.Node) T) (T, error) {
	t, err := typedOf[*corev1.Node](n.base)
	if err != nil {
		var zero T
		return zero, err
	}
	return read(t), nil
}

// Ready to run pods.
func (n *Node) Ready() (bool, error) {
	return readNode(n, func(t *corev1.Node) bool {
		return slices.ContainsFunc(t.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
	})
}

// Schedulable says whether new pods may be placed on it.
func (n *Node) Schedulable() (bool, error) {
	return readNode(n, func(t *corev1.Node) bool { return !t.Spec.Unschedulable })
}

// Conditions of its status.
func (n *Node) Conditions() ([]*Condition, error) {
	return readNode(n, func(t *corev1.Node) []*Condition {
		out := []*Condition{}
		for _, c := range t.Status.Conditions {
			out = append(out, condition(string(c.Type), string(c.Status), c.Reason, c.Message, c.LastTransitionTime))
		}
		return out
	})
}

// Addresses by their types.
func (n *Node) Addresses() ([]*KeyValue, error) {
	return readNode(n, func(t *corev1.Node) []*KeyValue {
		out := []*KeyValue{}
		for _, a := range t.Status.Addresses {
			out = append(out, &KeyValue{Key: string(a.Type), Value: a.Address})
		}
		return out
	})
}

// Capacity is what it has.
func (n *Node) Capacity() ([]*KeyValue, error) {
	return readNode(n, func(t *corev1.Node) []*KeyValue { return quantities(t.Status.Capacity) })
}

// Allocatable is what pods may ask for.
func (n *Node) Allocatable() ([]*KeyValue, error) {
	return readNode(n, func(t *corev1.Node) []*KeyValue { return quantities(t.Status.Allocatable) })
}

// Taints keep pods away.
func (n *Node) Taints() ([]*Taint, error) {
	return readNode(n, func(t *corev1.Node) []*Taint {
		out := []*Taint{}
		for _, x := range t.Spec.Taints {
			out = append(out, &Taint{Key: x.Key, Value: optional(x.Value), Effect: string(x.Effect)})
		}
		return out
	})
}

// PodCIDR is the range of its pods' addresses.
func (n *Node) PodCidr() (*string, error) {
	return readNode(n, func(t *corev1.Node) *string { return optional(t.Spec.PodCIDR) })
}

// KubeletVersion is that of its agent.
func (n *Node) KubeletVersion() (string, error) {
	return readNode(n, func(t *corev1.Node) string { return t.Status.NodeInfo.KubeletVersion })
}

// OsImage is its system.
func (n *Node) OsImage() (string, error) {
	return readNode(n, func(t *corev1.Node) string { return t.Status.NodeInfo.OSImage })
}

// KernelVersion is its kernel's.
func (n *Node) KernelVersion() (string, error) {
	return readNode(n, func(t *corev1.Node) string { return t.Status.NodeInfo.KernelVersion })
}

// Architecture is its processor's.
func (n *Node) Architecture() (string, error) {
	return readNode(n, func(t *corev1.Node) string { return t.Status.NodeInfo.Architecture })
}

// ContainerRuntime runs its containers.
func (n *Node) ContainerRuntime() (string, error) {
	return readNode(n, func(t *corev1.Node) string { return t.Status.NodeInfo.ContainerRuntimeVersion })
}

// Pods that are bound to it.
func (n *Node) Pods(ctx context.Context, labelSelector, fieldSelector *string, first *int, after *string) (*PodConnection, error) {
	a := ListArgs{labelSelector, fieldSelector, first, after}
	k, err := n.set().Kind(podsResource.String())
	if err != nil {
		return nil, err
	}
	list, err := a.filtered(n.view.Index(ctx, k, "", domain.NodeIndex, n.Name()))
	return podPage(n.view, list, err, a)
}
