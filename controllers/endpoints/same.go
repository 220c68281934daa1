package endpoints

//lint:file-ignore SA1019 Endpoints are deprecated for those who write clients; a cluster keeps them for those who still read them.

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Comparisons written out: these run for every endpoint whenever one of them changes, and comparing by reflection would be
// most of the work.

func boolean(b bool) *bool { return &b }

func samePointer[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}

func sameEndpoint(a, b discoveryv1.Endpoint) bool {
	return slices.Equal(a.Addresses, b.Addresses) &&
		samePointer(a.Conditions.Ready, b.Conditions.Ready) && samePointer(a.Conditions.Serving, b.Conditions.Serving) &&
		samePointer(a.Conditions.Terminating, b.Conditions.Terminating) &&
		samePointer(a.TargetRef, b.TargetRef) && samePointer(a.NodeName, b.NodeName) && samePointer(a.Zone, b.Zone) &&
		samePointer(a.Hostname, b.Hostname) && sameHints(a.Hints, b.Hints) && len(a.DeprecatedTopology) == len(b.DeprecatedTopology)
}

func sameHints(a, b *discoveryv1.EndpointHints) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.ForZones, b.ForZones) && slices.Equal(a.ForNodes, b.ForNodes)
}

func sameSubsets(a, b []corev1.EndpointSubset) bool {
	return slices.EqualFunc(a, b, func(x, y corev1.EndpointSubset) bool {
		return slices.EqualFunc(x.Addresses, y.Addresses, sameAddress) && slices.EqualFunc(x.NotReadyAddresses, y.NotReadyAddresses, sameAddress) &&
			slices.EqualFunc(x.Ports, y.Ports, samePort)
	})
}

func sameAddress(a, b corev1.EndpointAddress) bool {
	return a.IP == b.IP && a.Hostname == b.Hostname && samePointer(a.NodeName, b.NodeName) && samePointer(a.TargetRef, b.TargetRef)
}

func samePort(a, b corev1.EndpointPort) bool {
	return a.Name == b.Name && a.Port == b.Port && a.Protocol == b.Protocol && samePointer(a.AppProtocol, b.AppProtocol)
}
