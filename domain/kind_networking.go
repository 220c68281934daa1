package domain

import (
	"reflect"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func networkingKinds() []Kind {
	const group = "networking.k8s.io"
	return []Kind{
		{
			Group: group, Version: "v1", Kind: "NetworkPolicy", Resource: "networkpolicies", ShortNames: []string{"netpol"}, Namespaced: true,
			New: func() runtime.Object { return &networkingv1.NetworkPolicy{} },
		},
		{
			Group: group, Version: "v1", Kind: "Ingress", Resource: "ingresses", ShortNames: []string{"ing"}, Namespaced: true,
			New: func() runtime.Object { return &networkingv1.Ingress{} },
			Words: []Word{
				changed("IngressAddressChanged", "The addresses at which the ingress is reached changed.", func(b, a *networkingv1.Ingress) bool {
					return !reflect.DeepEqual(b.Status.LoadBalancer, a.Status.LoadBalancer)
				}),
			},
		},
		{
			Group: group, Version: "v1", Kind: "IngressClass", Resource: "ingressclasses",
			New: func() runtime.Object { return &networkingv1.IngressClass{} },
		},
		{
			Group: group, Version: "v1", Kind: "IPAddress", Resource: "ipaddresses", ShortNames: []string{"ip"},
			New: func() runtime.Object { return &networkingv1.IPAddress{} },
			Indexes: []Index{{Name: ParentIndex, Values: index(func(a *networkingv1.IPAddress) []string {
				if a.Spec.ParentRef == nil {
					return nil
				}
				return []string{a.Spec.ParentRef.Namespace + "/" + a.Spec.ParentRef.Name}
			})}},
		},
		{
			Group: group, Version: "v1", Kind: "ServiceCIDR", Resource: "servicecidrs",
			New: func() runtime.Object { return &networkingv1.ServiceCIDR{} },
		},
	}
}
