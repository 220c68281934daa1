package model

import (
	"context"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/graphql/view"
	"github.com/shiplog/shiplog/projections"
)

// revisionAnnotation counts a deployment's templates.
const revisionAnnotation = "deployment.kubernetes.io/revision"

// Deployment keeps a number of pods of one template, and replaces them when the template changes.
type Deployment struct{ *base }

func newDeployment(v *view.View, o *projections.Object) *Deployment {
	return &Deployment{&base{view: v, obj: o}}
}

// DeploymentOf returns one deployment.
func DeploymentOf(ctx context.Context, v *view.View, namespace, name string) (*Deployment, error) {
	return one(ctx, v, deploymentsResource, namespace, name, newDeployment)
}

// DeploymentsOf lists deployments.
func DeploymentsOf(ctx context.Context, v *view.View, namespace string, a ListArgs) (*DeploymentConnection, error) {
	list, err := a.list(ctx, v, deploymentsResource, namespace)
	if err != nil {
		return nil, err
	}
	edges, nodes, info, total, err := connect(v, list, a.First, a.After, newDeployment, func(c string, n *Deployment) *DeploymentEdge { return &DeploymentEdge{Cursor: c, Node: n} })
	if err != nil {
		return nil, err
	}
	return &DeploymentConnection{Edges: edges, Nodes: nodes, PageInfo: info, TotalCount: total}, nil
}

func readDeployment[T any](d *Deployment, read func(*appsv1.Deployment) T) (T, error) {
	t, err := typedOf[*appsv1.Deployment](d.base)
	if err != nil {
		var zero T
		return zero, err
	}
	return read(t), nil
}

// Desired is how many pods are wanted.
func (d *Deployment) Desired() (int, error) {
	return readDeployment(d, func(t *appsv1.Deployment) int { return count(t.Spec.Replicas) })
}

// Replicas is how many there are.
func (d *Deployment) Replicas() (int, error) {
	return readDeployment(d, func(t *appsv1.Deployment) int { return int(t.Status.Replicas) })
}

// Updated is how many are of the newest template.
func (d *Deployment) Updated() (int, error) {
	return readDeployment(d, func(t *appsv1.Deployment) int { return int(t.Status.UpdatedReplicas) })
}

// Ready is how many may get traffic.
func (d *Deployment) Ready() (int, error) {
	return readDeployment(d, func(t *appsv1.Deployment) int { return int(t.Status.ReadyReplicas) })
}

// Available is how many have been ready for long enough.
func (d *Deployment) Available() (int, error) {
	return readDeployment(d, func(t *appsv1.Deployment) int { return int(t.Status.AvailableReplicas) })
}

// Paused holds changes of the template back.
func (d *Deployment) Paused() (bool, error) {
	return readDeployment(d, func(t *appsv1.Deployment) bool { return t.Spec.Paused })
}

// Strategy of replacing pods.
func (d *Deployment) Strategy() (string, error) {
	return readDeployment(d, func(t *appsv1.Deployment) string { return string(t.Spec.Strategy.Type) })
}

// Revision of its template.
func (d *Deployment) Revision() *string { return d.Annotation(revisionAnnotation) }

// Images of its containers.
func (d *Deployment) Images() ([]string, error) {
	return readDeployment(d, func(t *appsv1.Deployment) []string { return images(&t.Spec.Template.Spec) })
}

// Selector of its pods.
func (d *Deployment) Selector() (string, error) {
	return readDeployment(d, func(t *appsv1.Deployment) string { return metav1.FormatLabelSelector(t.Spec.Selector) })
}

// Conditions of its status.
func (d *Deployment) Conditions() ([]*Condition, error) {
	return readDeployment(d, func(t *appsv1.Deployment) []*Condition {
		out := []*Condition{}
		for _, c := range t.Status.Conditions {
			out = append(out, condition(string(c.Type), string(c.Status), c.Reason, c.Message, c.LastTransitionTime))
		}
		return out
	})
}

// ReplicaSets that it owns.
func (d *Deployment) ReplicaSets(ctx context.Context) ([]*ReplicaSet, error) {
	list, err := d.ownedSets(ctx)
	if err != nil {
		return nil, err
	}
	out := []*ReplicaSet{}
	for _, o := range list {
		out = append(out, newReplicaSet(d.view, o))
	}
	return out, nil
}

func (d *Deployment) ownedSets(ctx context.Context) ([]*projections.Object, error) {
	k, err := d.set().Kind(replicaSetsResource.String())
	if err != nil {
		return nil, err
	}
	return d.children(ctx, k)
}

// Pods of all its replica sets.
func (d *Deployment) Pods(ctx context.Context, labelSelector, fieldSelector *string, first *int, after *string) (*PodConnection, error) {
	a := ListArgs{labelSelector, fieldSelector, first, after}
	k, err := d.set().Kind(podsResource.String())
	if err != nil {
		return nil, err
	}
	sets, err := d.ownedSets(ctx)
	if err != nil {
		return nil, err
	}
	var pods []*projections.Object
	for _, set := range sets {
		found, err := newReplicaSet(d.view, set).children(ctx, k)
		if err != nil {
			return nil, err
		}
		pods = append(pods, found...)
	}
	slices.SortFunc(pods, func(x, y *projections.Object) int { return cmpString(view.SortKey(x), view.SortKey(y)) })
	pods, err = a.filtered(pods, nil)
	return podPage(d.view, pods, err, a)
}

// ReplicaSet keeps a number of pods of one template.
type ReplicaSet struct{ *base }

func newReplicaSet(v *view.View, o *projections.Object) *ReplicaSet {
	return &ReplicaSet{&base{view: v, obj: o}}
}

// ReplicaSetOf returns one replica set.
func ReplicaSetOf(ctx context.Context, v *view.View, namespace, name string) (*ReplicaSet, error) {
	return one(ctx, v, replicaSetsResource, namespace, name, newReplicaSet)
}

// ReplicaSetsOf lists replica sets.
func ReplicaSetsOf(ctx context.Context, v *view.View, namespace string, a ListArgs) (*ReplicaSetConnection, error) {
	list, err := a.list(ctx, v, replicaSetsResource, namespace)
	if err != nil {
		return nil, err
	}
	edges, nodes, info, total, err := connect(v, list, a.First, a.After, newReplicaSet, func(c string, n *ReplicaSet) *ReplicaSetEdge { return &ReplicaSetEdge{Cursor: c, Node: n} })
	if err != nil {
		return nil, err
	}
	return &ReplicaSetConnection{Edges: edges, Nodes: nodes, PageInfo: info, TotalCount: total}, nil
}

func readReplicaSet[T any](r *ReplicaSet, read func(*appsv1.ReplicaSet) T) (T, error) {
	t, err := typedOf[*appsv1.ReplicaSet](r.base)
	if err != nil {
		var zero T
		return zero, err
	}
	return read(t), nil
}

// Desired is how many pods are wanted.
func (r *ReplicaSet) Desired() (int, error) {
	return readReplicaSet(r, func(t *appsv1.ReplicaSet) int { return count(t.Spec.Replicas) })
}

// Replicas is how many there are.
func (r *ReplicaSet) Replicas() (int, error) {
	return readReplicaSet(r, func(t *appsv1.ReplicaSet) int { return int(t.Status.Replicas) })
}

// Ready is how many may get traffic.
func (r *ReplicaSet) Ready() (int, error) {
	return readReplicaSet(r, func(t *appsv1.ReplicaSet) int { return int(t.Status.ReadyReplicas) })
}

// Available is how many have been ready for long enough.
func (r *ReplicaSet) Available() (int, error) {
	return readReplicaSet(r, func(t *appsv1.ReplicaSet) int { return int(t.Status.AvailableReplicas) })
}

// Revision of its deployment's template that it stands for.
func (r *ReplicaSet) Revision() *string { return r.Annotation(revisionAnnotation) }

// Images of its containers.
func (r *ReplicaSet) Images() ([]string, error) {
	return readReplicaSet(r, func(t *appsv1.ReplicaSet) []string { return images(&t.Spec.Template.Spec) })
}

// Selector of its pods.
func (r *ReplicaSet) Selector() (string, error) {
	return readReplicaSet(r, func(t *appsv1.ReplicaSet) string { return metav1.FormatLabelSelector(t.Spec.Selector) })
}

// Conditions of its status.
func (r *ReplicaSet) Conditions() ([]*Condition, error) {
	return readReplicaSet(r, func(t *appsv1.ReplicaSet) []*Condition {
		out := []*Condition{}
		for _, c := range t.Status.Conditions {
			out = append(out, condition(string(c.Type), string(c.Status), c.Reason, c.Message, c.LastTransitionTime))
		}
		return out
	})
}

// Deployment that it belongs to.
func (r *ReplicaSet) Deployment(ctx context.Context) (*Deployment, error) {
	owner, err := r.Owner(ctx)
	d, _ := owner.(*Deployment)
	return d, err
}

// Pods that it owns.
func (r *ReplicaSet) Pods(ctx context.Context, labelSelector, fieldSelector *string, first *int, after *string) (*PodConnection, error) {
	return r.ownedPods(ctx, ListArgs{labelSelector, fieldSelector, first, after})
}

// ReplicationController keeps a number of pods of one template, in the older form.
type ReplicationController struct{ *base }

func newReplicationController(v *view.View, o *projections.Object) *ReplicationController {
	return &ReplicationController{&base{view: v, obj: o}}
}

// ReplicationControllerOf returns one replication controller.
func ReplicationControllerOf(ctx context.Context, v *view.View, namespace, name string) (*ReplicationController, error) {
	return one(ctx, v, controllersResource, namespace, name, newReplicationController)
}

// ReplicationControllersOf lists replication controllers.
func ReplicationControllersOf(ctx context.Context, v *view.View, namespace string, a ListArgs) (*ReplicationControllerConnection, error) {
	list, err := a.list(ctx, v, controllersResource, namespace)
	if err != nil {
		return nil, err
	}
	edges, nodes, info, total, err := connect(v, list, a.First, a.After, newReplicationController, func(c string, n *ReplicationController) *ReplicationControllerEdge {
		return &ReplicationControllerEdge{Cursor: c, Node: n}
	})
	if err != nil {
		return nil, err
	}
	return &ReplicationControllerConnection{Edges: edges, Nodes: nodes, PageInfo: info, TotalCount: total}, nil
}

func readController[T any](r *ReplicationController, read func(*corev1.ReplicationController) T) (T, error) {
	t, err := typedOf[*corev1.ReplicationController](r.base)
	if err != nil {
		var zero T
		return zero, err
	}
	return read(t), nil
}

// Desired is how many pods are wanted.
func (r *ReplicationController) Desired() (int, error) {
	return readController(r, func(t *corev1.ReplicationController) int { return count(t.Spec.Replicas) })
}

// Replicas is how many there are.
func (r *ReplicationController) Replicas() (int, error) {
	return readController(r, func(t *corev1.ReplicationController) int { return int(t.Status.Replicas) })
}

// Ready is how many may get traffic.
func (r *ReplicationController) Ready() (int, error) {
	return readController(r, func(t *corev1.ReplicationController) int { return int(t.Status.ReadyReplicas) })
}

// Available is how many have been ready for long enough.
func (r *ReplicationController) Available() (int, error) {
	return readController(r, func(t *corev1.ReplicationController) int { return int(t.Status.AvailableReplicas) })
}

// Images of its containers.
func (r *ReplicationController) Images() ([]string, error) {
	return readController(r, func(t *corev1.ReplicationController) []string {
		if t.Spec.Template == nil {
			return []string{}
		}
		return images(&t.Spec.Template.Spec)
	})
}

// Selector of its pods.
func (r *ReplicationController) Selector() (string, error) {
	return readController(r, func(t *corev1.ReplicationController) string {
		return metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: t.Spec.Selector})
	})
}

// Conditions of its status.
func (r *ReplicationController) Conditions() ([]*Condition, error) {
	return readController(r, func(t *corev1.ReplicationController) []*Condition {
		out := []*Condition{}
		for _, c := range t.Status.Conditions {
			out = append(out, condition(string(c.Type), string(c.Status), c.Reason, c.Message, c.LastTransitionTime))
		}
		return out
	})
}

// Pods that it owns.
func (r *ReplicationController) Pods(ctx context.Context, labelSelector, fieldSelector *string, first *int, after *string) (*PodConnection, error) {
	return r.ownedPods(ctx, ListArgs{labelSelector, fieldSelector, first, after})
}
