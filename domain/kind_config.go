package domain

import (
	"bytes"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func configKinds() []Kind {
	return []Kind{
		{
			Version: "v1", Kind: "ConfigMap", Resource: "configmaps", ShortNames: []string{"cm"}, Namespaced: true,
			New: func() runtime.Object { return &corev1.ConfigMap{} },
			Words: []Word{
				changed("ConfigMapDataChanged", "What the config map holds changed.", func(b, a *corev1.ConfigMap) bool {
					return !maps.Equal(b.Data, a.Data) || !maps.EqualFunc(b.BinaryData, a.BinaryData, bytes.Equal)
				}),
			},
		},
		{
			Version: "v1", Kind: "Secret", Resource: "secrets", Namespaced: true,
			New:    func() runtime.Object { return &corev1.Secret{} },
			Sealed: sealed("data", "stringData"),
			Words: []Word{
				changed("SecretDataChanged", "What the secret holds changed.", func(b, a *corev1.Secret) bool {
					return !maps.EqualFunc(b.Data, a.Data, bytes.Equal)
				}),
			},
		},
	}
}
