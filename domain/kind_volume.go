package domain

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func volumeKinds() []Kind {
	return []Kind{
		{
			Version: "v1", Kind: "PersistentVolume", Resource: "persistentvolumes", ShortNames: []string{"pv"},
			New: func() runtime.Object { return &corev1.PersistentVolume{} },
			Indexes: []Index{{Name: ClaimIndex, Values: index(func(v *corev1.PersistentVolume) []string {
				if v.Spec.ClaimRef == nil {
					return nil
				}
				return []string{v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name}
			})}},
			Words: []Word{
				changed("PersistentVolumeBound", "A claim holds the volume.", func(b, a *corev1.PersistentVolume) bool {
					return a.Status.Phase == corev1.VolumeBound && b.Status.Phase != corev1.VolumeBound
				}),
				changed("PersistentVolumeReleased", "The claim that held the volume is gone.", func(b, a *corev1.PersistentVolume) bool {
					return a.Status.Phase == corev1.VolumeReleased && b.Status.Phase != corev1.VolumeReleased
				}),
				changed("PersistentVolumeFailed", "The volume could not be reclaimed.", func(b, a *corev1.PersistentVolume) bool {
					return a.Status.Phase == corev1.VolumeFailed && b.Status.Phase != corev1.VolumeFailed
				}),
			},
		},
		{
			Version: "v1", Kind: "PersistentVolumeClaim", Resource: "persistentvolumeclaims", ShortNames: []string{"pvc"}, Namespaced: true,
			New: func() runtime.Object { return &corev1.PersistentVolumeClaim{} },
			Words: []Word{
				changed("PersistentVolumeClaimBound", "The claim got its volume.", func(b, a *corev1.PersistentVolumeClaim) bool {
					return a.Status.Phase == corev1.ClaimBound && b.Status.Phase != corev1.ClaimBound
				}),
				changed("PersistentVolumeClaimLost", "The claim's volume is gone.", func(b, a *corev1.PersistentVolumeClaim) bool {
					return a.Status.Phase == corev1.ClaimLost && b.Status.Phase != corev1.ClaimLost
				}),
				changed("PersistentVolumeClaimResized", "The claim asks for, or has, another size.", func(b, a *corev1.PersistentVolumeClaim) bool {
					return !sameQuantities(b.Spec.Resources.Requests, a.Spec.Resources.Requests) || !sameQuantities(b.Status.Capacity, a.Status.Capacity)
				}),
			},
		},
	}
}
