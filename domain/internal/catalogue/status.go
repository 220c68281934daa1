package main

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// statusKind makes an object of a kind that has a status, to list the words that every such kind has.
func statusKind() runtime.Object { return &corev1.Namespace{} }
