package domain

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func serviceAccountKinds() []Kind {
	return []Kind{{
		Version: "v1", Kind: "ServiceAccount", Resource: "serviceaccounts", ShortNames: []string{"sa"}, Namespaced: true,
		New: func() runtime.Object { return &corev1.ServiceAccount{} },
		Words: []Word{
			changed("ServiceAccountSecretsChanged", "The secrets that pods of the account may use changed.", func(b, a *corev1.ServiceAccount) bool {
				return !reflect.DeepEqual(b.Secrets, a.Secrets) || !reflect.DeepEqual(b.ImagePullSecrets, a.ImagePullSecrets)
			}),
		},
	}}
}
