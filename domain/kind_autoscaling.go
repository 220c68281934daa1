package domain

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/runtime"
)

func autoscalingKinds() []Kind {
	return []Kind{{
		Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler", Resource: "horizontalpodautoscalers", ShortNames: []string{"hpa"}, Namespaced: true,
		New: func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscaler{} },
		Words: []Word{
			changed("HorizontalPodAutoscalerDecided", "The autoscaler wants another number of pods.", func(b, a *autoscalingv2.HorizontalPodAutoscaler) bool {
				return b.Status.DesiredReplicas != a.Status.DesiredReplicas
			}),
		},
	}}
}
