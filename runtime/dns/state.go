package dns

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// State is what the names stand for. The objects are not changed, and must not be changed by the caller after they were handed
// over: an object that changed is another pointer (or has another resource version).
type State struct {
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
	Pods     []*corev1.Pod // needed for PodsVerified alone
}

// PodRecords says which names of the form 10-1-2-3.namespace.pod are answered.
type PodRecords int

const (
	// PodsInsecure answers with whatever address is in the name, as kubeadm's CoreDNS does.
	PodsInsecure PodRecords = iota
	// PodsVerified answers when there is such a pod in the namespace.
	PodsVerified
	// PodsDisabled answers none.
	PodsDisabled
)

// Zone options.
type zoneOptions struct {
	domain string // fully qualified and lower-case
	ttl    uint32 // seconds
	pods   PodRecords
}
