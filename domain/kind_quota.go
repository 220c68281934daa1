package domain

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func quotaKinds() []Kind {
	return []Kind{
		{
			Version: "v1", Kind: "ResourceQuota", Resource: "resourcequotas", ShortNames: []string{"quota"}, Namespaced: true,
			New: func() runtime.Object { return &corev1.ResourceQuota{} },
			Words: []Word{
				changed("ResourceQuotaChanged", "What the namespace may use changed.", func(b, a *corev1.ResourceQuota) bool {
					return !sameQuantities(b.Spec.Hard, a.Spec.Hard)
				}),
				changed("ResourceQuotaUsed", "What the namespace uses changed.", func(b, a *corev1.ResourceQuota) bool {
					return !sameQuantities(b.Status.Used, a.Status.Used)
				}),
			},
		},
		{
			Version: "v1", Kind: "LimitRange", Resource: "limitranges", ShortNames: []string{"limits"}, Namespaced: true,
			New: func() runtime.Object { return &corev1.LimitRange{} },
		},
	}
}
