package domain

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func storageKinds() []Kind {
	const group = "storage.k8s.io"
	return []Kind{
		{
			Group: group, Version: "v1", Kind: "StorageClass", Resource: "storageclasses", ShortNames: []string{"sc"},
			New: func() runtime.Object { return &storagev1.StorageClass{} },
		},
		{
			Group: group, Version: "v1", Kind: "VolumeAttachment", Resource: "volumeattachments",
			New: func() runtime.Object { return &storagev1.VolumeAttachment{} },
			Words: []Word{
				changed("VolumeAttached", "The volume is attached to its node.", func(b, a *storagev1.VolumeAttachment) bool {
					return a.Status.Attached && !b.Status.Attached
				}),
				changed("VolumeDetached", "The volume is no longer attached to its node.", func(b, a *storagev1.VolumeAttachment) bool {
					return !a.Status.Attached && b.Status.Attached
				}),
			},
		},
		{
			Group: group, Version: "v1", Kind: "VolumeAttributesClass", Resource: "volumeattributesclasses", ShortNames: []string{"vac"},
			New: func() runtime.Object { return &storagev1.VolumeAttributesClass{} },
		},
		{
			Group: group, Version: "v1", Kind: "CSINode", Resource: "csinodes",
			New: func() runtime.Object { return &storagev1.CSINode{} },
		},
		{
			Group: group, Version: "v1", Kind: "CSIDriver", Resource: "csidrivers",
			New: func() runtime.Object { return &storagev1.CSIDriver{} },
		},
		{
			Group: group, Version: "v1", Kind: "CSIStorageCapacity", Resource: "csistoragecapacities", Namespaced: true,
			New: func() runtime.Object { return &storagev1.CSIStorageCapacity{} },
		},
	}
}
