package model

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/graphql/view"
	"github.com/shiplog/shiplog/projections"
)

// ConfigMap holds settings.
type ConfigMap struct{ *base }

func newConfigMap(v *view.View, o *projections.Object) *ConfigMap {
	return &ConfigMap{&base{view: v, obj: o}}
}

// ConfigMapOf returns one config map.
func ConfigMapOf(ctx context.Context, v *view.View, namespace, name string) (*ConfigMap, error) {
	return one(ctx, v, configMapsResource, namespace, name, newConfigMap)
}

// ConfigMapsOf lists config maps.
func ConfigMapsOf(ctx context.Context, v *view.View, namespace string, a ListArgs) (*ConfigMapConnection, error) {
	list, err := a.list(ctx, v, configMapsResource, namespace)
	if err != nil {
		return nil, err
	}
	edges, nodes, info, total, err := connect(v, list, a.First, a.After, newConfigMap, func(c string, n *ConfigMap) *ConfigMapEdge { return &ConfigMapEdge{Cursor: c, Node: n} })
	if err != nil {
		return nil, err
	}
	return &ConfigMapConnection{Edges: edges, Nodes: nodes, PageInfo: info, TotalCount: total}, nil
}

// Data is what it holds as text.
func (c *ConfigMap) Data() ([]*KeyValue, error) {
	t, err := typedOf[*corev1.ConfigMap](c.base)
	if err != nil {
		return nil, err
	}
	return keyValues(t.Data), nil
}

// Keys name all that it holds.
func (c *ConfigMap) Keys() ([]string, error) {
	t, err := typedOf[*corev1.ConfigMap](c.base)
	if err != nil {
		return nil, err
	}
	keys := append([]string{}, slices.Collect(maps.Keys(t.Data))...)
	keys = slices.AppendSeq(keys, maps.Keys(t.BinaryData))
	slices.Sort(keys)
	return keys, nil
}

// Namespace is a scope for names.
type Namespace struct{ *base }

func newNamespace(v *view.View, o *projections.Object) *Namespace {
	return &Namespace{&base{view: v, obj: o}}
}

// NamespaceOf returns one namespace.
func NamespaceOf(ctx context.Context, v *view.View, name string) (*Namespace, error) {
	return one(ctx, v, namespacesResource, "", name, newNamespace)
}

// NamespacesOf lists namespaces.
func NamespacesOf(ctx context.Context, v *view.View, a ListArgs) (*NamespaceConnection, error) {
	list, err := a.list(ctx, v, namespacesResource, "")
	if err != nil {
		return nil, err
	}
	edges, nodes, info, total, err := connect(v, list, a.First, a.After, newNamespace, func(c string, n *Namespace) *NamespaceEdge { return &NamespaceEdge{Cursor: c, Node: n} })
	if err != nil {
		return nil, err
	}
	return &NamespaceConnection{Edges: edges, Nodes: nodes, PageInfo: info, TotalCount: total}, nil
}

// Phase of its life.
func (n *Namespace) Phase() (string, error) {
	t, err := typedOf[*corev1.Namespace](n.base)
	if err != nil {
		return "", err
	}
	return string(t.Status.Phase), nil
}

// Pods in it.
func (n *Namespace) Pods(ctx context.Context, labelSelector, fieldSelector *string, first *int, after *string) (*PodConnection, error) {
	return PodsOf(ctx, n.view, n.Name(), ListArgs{labelSelector, fieldSelector, first, after})
}

// Deployments in it.
func (n *Namespace) Deployments(ctx context.Context, labelSelector, fieldSelector *string, first *int, after *string) (*DeploymentConnection, error) {
	return DeploymentsOf(ctx, n.view, n.Name(), ListArgs{labelSelector, fieldSelector, first, after})
}

// Services in it.
func (n *Namespace) Services(ctx context.Context, labelSelector, fieldSelector *string, first *int, after *string) (*ServiceConnection, error) {
	return ServicesOf(ctx, n.view, n.Name(), ListArgs{labelSelector, fieldSelector, first, after})
}

// Objects of any kind in it.
func (n *Namespace) Objects(ctx context.Context, kind string, labelSelector, fieldSelector *string, first *int, after *string) (*ResourceConnection, error) {
	return ObjectsOf(ctx, n.view, kind, n.Name(), ListArgs{labelSelector, fieldSelector, first, after})
}

// ObjectsOf lists the objects of any kind.
func ObjectsOf(ctx context.Context, v *view.View, kind, namespace string, a ListArgs) (*ResourceConnection, error) {
	k, err := v.Set().Kind(kind)
	if err != nil {
		return nil, err
	}
	list, err := a.list(ctx, v, k.GroupResource(), namespace)
	if err != nil {
		return nil, err
	}
	return resourcePage(v, list, a.First, a.After)
}

// ObjectOf returns one object of any kind, or nil.
func ObjectOf(ctx context.Context, v *view.View, kind, namespace, name string) (Resource, error) {
	k, err := v.Set().Kind(kind)
	if err != nil {
		return nil, err
	}
	if namespace == "" && k.Namespaced {
		namespace = corev1.NamespaceDefault
	}
	if !k.Namespaced {
		namespace = ""
	}
	o, err := v.Get(ctx, k, namespace, name)
	return Wrap(v, o), err
}
