package domain

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func deviceKinds() []Kind {
	const group = "resource.k8s.io"
	return []Kind{
		{
			Group: group, Version: "v1", Kind: "DeviceClass", Resource: "deviceclasses",
			New: func() runtime.Object { return &resourcev1.DeviceClass{} },
		},
		{
			Group: group, Version: "v1", Kind: "DeviceTaintRule", Resource: "devicetaintrules",
			New: func() runtime.Object { return &resourcev1.DeviceTaintRule{} },
		},
		{
			Group: group, Version: "v1", Kind: "ResourceClaim", Resource: "resourceclaims", Namespaced: true,
			New: func() runtime.Object { return &resourcev1.ResourceClaim{} },
			Words: []Word{
				changed("ResourceClaimAllocated", "Devices were set aside for the claim.", func(b, a *resourcev1.ResourceClaim) bool {
					return a.Status.Allocation != nil && b.Status.Allocation == nil
				}),
				changed("ResourceClaimReleased", "The claim's devices are free again.", func(b, a *resourcev1.ResourceClaim) bool {
					return a.Status.Allocation == nil && b.Status.Allocation != nil
				}),
			},
		},
		{
			Group: group, Version: "v1", Kind: "ResourceClaimTemplate", Resource: "resourceclaimtemplates", Namespaced: true,
			New: func() runtime.Object { return &resourcev1.ResourceClaimTemplate{} },
		},
		{
			Group: group, Version: "v1", Kind: "ResourceSlice", Resource: "resourceslices",
			New: func() runtime.Object { return &resourcev1.ResourceSlice{} },
		},
	}
}
