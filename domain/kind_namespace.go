package domain

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func namespaceKinds() []Kind {
	return []Kind{{
		Version: "v1", Kind: "Namespace", Resource: "namespaces", ShortNames: []string{"ns"},
		New: func() runtime.Object { return &corev1.Namespace{} },
		Words: []Word{
			changed("NamespaceTerminating", "Somebody asked for the namespace's deletion; everything in it is being deleted.", func(b, a *corev1.Namespace) bool {
				return deletionRequested(b, a) || a.Status.Phase == corev1.NamespaceTerminating && b.Status.Phase != corev1.NamespaceTerminating
			}),
			changed("NamespaceFinalized", "The namespace is empty and may go.", func(b, a *corev1.Namespace) bool {
				return len(b.Spec.Finalizers) > 0 && len(a.Spec.Finalizers) == 0
			}),
		},
	}}
}
