// Package replication keeps the pods of ReplicationControllers, the older form of ReplicaSets.
package replication

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/replicas"
	"github.com/shiplog/shiplog/controllers/resources"
)

// New makes the controller.
func New() controllers.Controller {
	return replicas.New(replicas.Kind{
		ControllerName: "replication-controller",
		Resource:       resources.ReplicationControllers,
		Kind:           corev1.SchemeGroupVersion.WithKind("ReplicationController"),
		AsReplicaSet:   asReplicaSet,
		WithStatus:     withStatus,
	})
}

func asReplicaSet(o runtime.Object) (*appsv1.ReplicaSet, bool) {
	rc, ok := o.(*corev1.ReplicationController)
	if !ok {
		return nil, false
	}
	rs := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        rc.Spec.Replicas,
			MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector:        &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas:             rc.Status.Replicas,
			FullyLabeledReplicas: rc.Status.FullyLabeledReplicas,
			ReadyReplicas:        rc.Status.ReadyReplicas,
			AvailableReplicas:    rc.Status.AvailableReplicas,
			ObservedGeneration:   rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil {
		rs.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rs, true
}

func withStatus(o runtime.Object, status appsv1.ReplicaSetStatus) controllers.Object {
	rc := o.DeepCopyObject().(*corev1.ReplicationController)
	rc.Status = corev1.ReplicationControllerStatus{
		Replicas:             status.Replicas,
		FullyLabeledReplicas: status.FullyLabeledReplicas,
		ReadyReplicas:        status.ReadyReplicas,
		AvailableReplicas:    status.AvailableReplicas,
		ObservedGeneration:   status.ObservedGeneration,
	}
	for _, c := range status.Conditions {
		rc.Status.Conditions = append(rc.Status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rc
}
