package domain

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func replicaKinds() []Kind {
	return []Kind{
		{
			Version: "v1", Kind: "ReplicationController", Resource: "replicationcontrollers", ShortNames: []string{"rc"}, Namespaced: true,
			New: func() runtime.Object { return &corev1.ReplicationController{} },
			Words: []Word{
				changed("ReplicationControllerScaled", "Another number of pods is wanted.", func(b, a *corev1.ReplicationController) bool {
					return replicas(b.Spec.Replicas) != replicas(a.Spec.Replicas)
				}),
				changed("ReplicationControllerImageChanged", "New pods will run another image.", func(b, a *corev1.ReplicationController) bool {
					return b.Spec.Template != nil && a.Spec.Template != nil && imagesDiffer(&b.Spec.Template.Spec, &a.Spec.Template.Spec)
				}),
				changed("ReplicationControllerProgressed", "More, or fewer, pods of the controller exist or are ready.", func(b, a *corev1.ReplicationController) bool {
					return b.Status.Replicas != a.Status.Replicas || b.Status.ReadyReplicas != a.Status.ReadyReplicas || b.Status.AvailableReplicas != a.Status.AvailableReplicas
				}),
			},
		},
		{
			Group: "apps", Version: "v1", Kind: "ReplicaSet", Resource: "replicasets", ShortNames: []string{"rs"}, Namespaced: true,
			New: func() runtime.Object { return &appsv1.ReplicaSet{} },
			Words: []Word{
				changed("ReplicaSetScaled", "Another number of pods is wanted.", func(b, a *appsv1.ReplicaSet) bool {
					return replicas(b.Spec.Replicas) != replicas(a.Spec.Replicas)
				}),
				changed("ReplicaSetImageChanged", "New pods will run another image.", func(b, a *appsv1.ReplicaSet) bool {
					return imagesDiffer(&b.Spec.Template.Spec, &a.Spec.Template.Spec)
				}),
				changed("ReplicaSetReused", "The deployment went back to the template of this set.", func(b, a *appsv1.ReplicaSet) bool {
					return a.Annotations[revisionHistoryAnnotation] != b.Annotations[revisionHistoryAnnotation]
				}),
				changed("ReplicaSetProgressed", "More, or fewer, pods of the set exist or are ready.", func(b, a *appsv1.ReplicaSet) bool {
					return b.Status.Replicas != a.Status.Replicas || b.Status.ReadyReplicas != a.Status.ReadyReplicas || b.Status.AvailableReplicas != a.Status.AvailableReplicas
				}),
			},
		},
	}
}

// replicas is a wanted count of pods; one when nothing is said.
func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}
