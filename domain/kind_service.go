package domain

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func serviceKinds() []Kind {
	return []Kind{
		{
			Version: "v1", Kind: "Service", Resource: "services", ShortNames: []string{"svc"}, Namespaced: true,
			New: func() runtime.Object { return &corev1.Service{} },
			Words: []Word{
				changed("ServiceTypeChanged", "The service is reached in another way: ClusterIP, NodePort, LoadBalancer or ExternalName.", func(b, a *corev1.Service) bool {
					return b.Spec.Type != a.Spec.Type
				}),
				changed("ServiceSelectorChanged", "The service stands for other pods.", func(b, a *corev1.Service) bool {
					return !reflect.DeepEqual(b.Spec.Selector, a.Spec.Selector)
				}),
				changed("ServicePortsChanged", "The ports of the service changed.", func(b, a *corev1.Service) bool {
					return !reflect.DeepEqual(b.Spec.Ports, a.Spec.Ports)
				}),
				changed("ServiceAddressChanged", "The addresses of the service changed.", func(b, a *corev1.Service) bool {
					return !reflect.DeepEqual(b.Spec.ClusterIPs, a.Spec.ClusterIPs) || !reflect.DeepEqual(b.Spec.ExternalIPs, a.Spec.ExternalIPs) ||
						!reflect.DeepEqual(b.Status.LoadBalancer, a.Status.LoadBalancer)
				}),
			},
		},
		{
			Version: "v1", Kind: "Endpoints", Resource: "endpoints", ShortNames: []string{"ep"}, Namespaced: true,
			//lint:ignore SA1019 deprecated, and still a part of the API
			New: func() runtime.Object { return &corev1.Endpoints{} },
			Words: []Word{
				//lint:ignore SA1019 deprecated, and still a part of the API
				changed("EndpointsChanged", "The addresses behind a service changed.", func(b, a *corev1.Endpoints) bool {
					return !reflect.DeepEqual(b.Subsets, a.Subsets)
				}),
			},
		},
		{
			Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice", Resource: "endpointslices", Namespaced: true,
			New: func() runtime.Object { return &discoveryv1.EndpointSlice{} },
			Indexes: []Index{{Name: ServiceIndex, Values: index(func(s *discoveryv1.EndpointSlice) []string {
				if name := s.Labels[discoveryv1.LabelServiceName]; name != "" {
					return []string{s.Namespace + "/" + name}
				}
				return nil
			})}},
			Words: []Word{
				changed("EndpointSliceChanged", "The addresses behind a service changed.", func(b, a *discoveryv1.EndpointSlice) bool {
					return !reflect.DeepEqual(b.Endpoints, a.Endpoints) || !reflect.DeepEqual(b.Ports, a.Ports)
				}),
			},
		},
	}
}
