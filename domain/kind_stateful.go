package domain

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func statefulKinds() []Kind {
	return []Kind{
		{
			Group: "apps", Version: "v1", Kind: "StatefulSet", Resource: "statefulsets", ShortNames: []string{"sts"}, Namespaced: true,
			New: func() runtime.Object { return &appsv1.StatefulSet{} },
			Words: []Word{
				changed("StatefulSetScaled", "Another number of pods is wanted.", func(b, a *appsv1.StatefulSet) bool {
					return replicas(b.Spec.Replicas) != replicas(a.Spec.Replicas)
				}),
				changed("StatefulSetImageChanged", "A container is to run another image.", func(b, a *appsv1.StatefulSet) bool {
					return imagesDiffer(&b.Spec.Template.Spec, &a.Spec.Template.Spec)
				}),
				changed("StatefulSetProgressed", "More, or fewer, pods of the set are updated, ready or available.", func(b, a *appsv1.StatefulSet) bool {
					x, y := &b.Status, &a.Status
					return x.Replicas != y.Replicas || x.UpdatedReplicas != y.UpdatedReplicas || x.ReadyReplicas != y.ReadyReplicas || x.AvailableReplicas != y.AvailableReplicas
				}),
			},
		},
		{
			Group: "apps", Version: "v1", Kind: "DaemonSet", Resource: "daemonsets", ShortNames: []string{"ds"}, Namespaced: true,
			New: func() runtime.Object { return &appsv1.DaemonSet{} },
			Words: []Word{
				changed("DaemonSetImageChanged", "A container is to run another image.", func(b, a *appsv1.DaemonSet) bool {
					return imagesDiffer(&b.Spec.Template.Spec, &a.Spec.Template.Spec)
				}),
				changed("DaemonSetProgressed", "More, or fewer, nodes run the set's pod as it is wanted.", func(b, a *appsv1.DaemonSet) bool {
					x, y := &b.Status, &a.Status
					return x.CurrentNumberScheduled != y.CurrentNumberScheduled || x.DesiredNumberScheduled != y.DesiredNumberScheduled ||
						x.UpdatedNumberScheduled != y.UpdatedNumberScheduled || x.NumberReady != y.NumberReady || x.NumberAvailable != y.NumberAvailable
				}),
			},
		},
		{
			Group: "apps", Version: "v1", Kind: "ControllerRevision", Resource: "controllerrevisions", Namespaced: true,
			New: func() runtime.Object { return &appsv1.ControllerRevision{} },
		},
	}
}
