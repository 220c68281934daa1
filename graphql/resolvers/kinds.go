package resolvers

import (
	"context"

	"github.com/shiplog/shiplog/graphql/model"
)

// Pod is one of its kind.
func (q *query) Pod(ctx context.Context, namespace, name string, asOf *model.AsOf) (*model.Pod, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.PodOf(ctx, v, namespace, name)
}

// Pods are all of their kind.
func (q *query) Pods(ctx context.Context, namespace, labelSelector, fieldSelector *string, first *int, after *string, asOf *model.AsOf) (*model.PodConnection, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.PodsOf(ctx, v, deref(namespace), model.ListArgs{LabelSelector: labelSelector, FieldSelector: fieldSelector, First: first, After: after})
}

// Node is one of its kind.
func (q *query) Node(ctx context.Context, name string, asOf *model.AsOf) (*model.Node, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.NodeOf(ctx, v, name)
}

// Nodes are all of their kind.
func (q *query) Nodes(ctx context.Context, labelSelector, fieldSelector *string, first *int, after *string, asOf *model.AsOf) (*model.NodeConnection, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.NodesOf(ctx, v, model.ListArgs{LabelSelector: labelSelector, FieldSelector: fieldSelector, First: first, After: after})
}

// Deployment is one of its kind.
func (q *query) Deployment(ctx context.Context, namespace, name string, asOf *model.AsOf) (*model.Deployment, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.DeploymentOf(ctx, v, namespace, name)
}

// Deployments are all of their kind.
func (q *query) Deployments(ctx context.Context, namespace, labelSelector, fieldSelector *string, first *int, after *string, asOf *model.AsOf) (*model.DeploymentConnection, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.DeploymentsOf(ctx, v, deref(namespace), model.ListArgs{LabelSelector: labelSelector, FieldSelector: fieldSelector, First: first, After: after})
}

// ReplicaSet is one of its kind.
func (q *query) ReplicaSet(ctx context.Context, namespace, name string, asOf *model.AsOf) (*model.ReplicaSet, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.ReplicaSetOf(ctx, v, namespace, name)
}

// ReplicaSets are all of their kind.
func (q *query) ReplicaSets(ctx context.Context, namespace, labelSelector, fieldSelector *string, first *int, after *string, asOf *model.AsOf) (*model.ReplicaSetConnection, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.ReplicaSetsOf(ctx, v, deref(namespace), model.ListArgs{LabelSelector: labelSelector, FieldSelector: fieldSelector, First: first, After: after})
}

// ReplicationController is one of its kind.
func (q *query) ReplicationController(ctx context.Context, namespace, name string, asOf *model.AsOf) (*model.ReplicationController, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.ReplicationControllerOf(ctx, v, namespace, name)
}

// ReplicationControllers are all of their kind.
func (q *query) ReplicationControllers(ctx context.Context, namespace, labelSelector, fieldSelector *string, first *int, after *string, asOf *model.AsOf) (*model.ReplicationControllerConnection, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.ReplicationControllersOf(ctx, v, deref(namespace), model.ListArgs{LabelSelector: labelSelector, FieldSelector: fieldSelector, First: first, After: after})
}

// Service is one of its kind.
func (q *query) Service(ctx context.Context, namespace, name string, asOf *model.AsOf) (*model.Service, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.ServiceOf(ctx, v, namespace, name)
}

// Services are all of their kind.
func (q *query) Services(ctx context.Context, namespace, labelSelector, fieldSelector *string, first *int, after *string, asOf *model.AsOf) (*model.ServiceConnection, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.ServicesOf(ctx, v, deref(namespace), model.ListArgs{LabelSelector: labelSelector, FieldSelector: fieldSelector, First: first, After: after})
}

// ConfigMap is one of its kind.
func (q *query) ConfigMap(ctx context.Context, namespace, name string, asOf *model.AsOf) (*model.ConfigMap, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.ConfigMapOf(ctx, v, namespace, name)
}

// ConfigMaps are all of their kind.
func (q *query) ConfigMaps(ctx context.Context, namespace, labelSelector, fieldSelector *string, first *int, after *string, asOf *model.AsOf) (*model.ConfigMapConnection, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.ConfigMapsOf(ctx, v, deref(namespace), model.ListArgs{LabelSelector: labelSelector, FieldSelector: fieldSelector, First: first, After: after})
}

// Namespace is one of its kind.
func (q *query) Namespace(ctx context.Context, name string, asOf *model.AsOf) (*model.Namespace, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.NamespaceOf(ctx, v, name)
}

// Namespaces are all of their kind.
func (q *query) Namespaces(ctx context.Context, labelSelector, fieldSelector *string, first *int, after *string, asOf *model.AsOf) (*model.NamespaceConnection, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.NamespacesOf(ctx, v, model.ListArgs{LabelSelector: labelSelector, FieldSelector: fieldSelector, First: first, After: after})
}
