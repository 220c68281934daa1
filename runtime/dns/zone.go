package dns

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"
	"github.com/tidwall/btree"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/runtime/internal/svcindex"
)

// Zone is the cluster's names at one moment. It is never changed after it was made.
type Zone struct {
	zoneOptions
	serial     uint32
	servers    []netip.Addr                   // the addresses of the name server itself
	services   *btree.Map[string, *service]   // by "namespace/name"
	namespaces *btree.Map[string, int]        // how many services are in each
	addresses  *btree.Map[string, struct{}]   // by reverseKey: who has an address
	podIPs     *btree.Map[string, netip.Addr] // by "namespace/address"
}

// service is what the names of one service stand for.
type service struct {
	name, namespace string
	alias           string       // of an ExternalName service, fully qualified
	addrs           []netip.Addr // cluster IPs; none: headless
	ports           []port
	endpoints       []endpoint
}

// port of a service, or of its endpoints.
type port struct {
	name, protocol string // lower-case
	number         uint16
}

// endpoint is a ready endpoint, known by its hostname or, when it has none, by its address with dashes.
type endpoint struct {
	label string
	addrs []netip.Addr
	ports []port
}

// builder makes one zone after the other.
type builder struct {
	zone  *Zone // not published: the published ones are copies that share its parts
	index svcindex.Index
	parts map[types.NamespacedName]*part
	pods  map[types.NamespacedName]*corev1.Pod
}

type part struct {
	service *corev1.Service
	slices  []*discoveryv1.EndpointSlice
	made    *service
}

func newBuilder(opts zoneOptions, servers []netip.Addr) *builder {
	return &builder{
		zone: &Zone{
			zoneOptions: opts, servers: servers, services: &btree.Map[string, *service]{}, namespaces: &btree.Map[string, int]{},
			addresses: &btree.Map[string, struct{}]{}, podIPs: &btree.Map[string, netip.Addr]{},
		},
		parts: map[types.NamespacedName]*part{}, pods: map[types.NamespacedName]*corev1.Pod{},
	}
}

// publish returns the zone as it is; later updates do not change it.
func (b *builder) publish() *Zone {
	z := *b.zone
	z.services, z.namespaces = b.zone.services.Copy(), b.zone.namespaces.Copy()
	z.addresses, z.podIPs = b.zone.addresses.Copy(), b.zone.podIPs.Copy()
	return &z
}

// update brings the zone to a state and says whether anything changed.
func (b *builder) update(state State) bool {
	changed := b.updateServices(state)
	if b.zone.pods == PodsVerified {
		changed = b.updatePods(state.Pods) || changed
	}
	if changed {
		b.zone.serial++
	}
	return changed
}

func (b *builder) updateServices(state State) (changed bool) {
	b.index.Build(state.Slices)
	for _, svc := range state.Services {
		key := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
		ofService := b.index.Of(key)
		old := b.parts[key]
		if old != nil && (old.service == svc || svcindex.Same(old.service, svc)) && svcindex.SameSlices(old.slices, ofService) {
			continue
		}
		changed = true
		b.replace(key, old, &part{service: svc, slices: slices.Clone(ofService), made: makeService(svc, ofService)})
	}
	if len(b.parts) == len(state.Services) {
		return changed // nobody is gone
	}
	present := make(map[types.NamespacedName]bool, len(state.Services))
	for _, svc := range state.Services {
		present[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}] = true
	}
	for key, old := range b.parts {
		if !present[key] {
			changed = true
			b.replace(key, old, nil)
		}
	}
	return changed
}

// replace puts a service's new part in the place of its old one; either may be nil.
func (b *builder) replace(key types.NamespacedName, old, made *part) {
	z := b.zone
	id := key.Namespace + "/" + key.Name
	if old != nil {
		for _, k := range old.made.reverseKeys() {
			z.addresses.Delete(k)
		}
		if n, _ := z.namespaces.Get(key.Namespace); n > 1 {
			z.namespaces.Set(key.Namespace, n-1)
		} else {
			z.namespaces.Delete(key.Namespace)
		}
	}
	if made == nil {
		z.services.Delete(id)
		delete(b.parts, key)
		return
	}
	n, _ := z.namespaces.Get(key.Namespace)
	z.namespaces.Set(key.Namespace, n+1)
	z.services.Set(id, made.made)
	for _, k := range made.made.reverseKeys() {
		z.addresses.Set(k, struct{}{})
	}
	b.parts[key] = made
}

func makeService(svc *corev1.Service, ofService []*discoveryv1.EndpointSlice) *service {
	s := &service{name: strings.ToLower(svc.Name), namespace: strings.ToLower(svc.Namespace)}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		s.alias = mdns.CanonicalName(svc.Spec.ExternalName)
		return s
	}
	if svc.Spec.ClusterIP != corev1.ClusterIPNone {
		texts := svc.Spec.ClusterIPs
		if len(texts) == 0 {
			texts = []string{svc.Spec.ClusterIP}
		}
		for _, text := range texts {
			if addr, err := netip.ParseAddr(text); err == nil {
				s.addrs = append(s.addrs, addr)
			}
		}
		for _, p := range svc.Spec.Ports {
			s.ports = append(s.ports, port{name: p.Name, protocol: protocolLabel(p.Protocol), number: uint16(p.Port)})
		}
	}
	byLabel := map[string]*endpoint{}
	for _, slice := range ofService {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		var ports []port
		for _, p := range slice.Ports {
			if p.Port != nil {
				ports = append(ports, port{name: valueOr(p.Name, ""), protocol: protocolLabel(valueOr(p.Protocol, "")), number: uint16(*p.Port)})
			}
		}
		for _, e := range slice.Endpoints {
			if valueOr(e.Conditions.Ready, true) || svc.Spec.PublishNotReadyAddresses {
				addEndpoint(byLabel, e, ports)
			}
		}
	}
	for _, label := range slices.Sorted(maps.Keys(byLabel)) {
		s.endpoints = append(s.endpoints, *byLabel[label])
	}
	return s
}

func addEndpoint(byLabel map[string]*endpoint, e discoveryv1.Endpoint, ports []port) {
	if len(e.Addresses) == 0 {
		return
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil {
		return
	}
	label := strings.ToLower(valueOr(e.Hostname, ""))
	if label == "" {
		label = dashed(addr)
	}
	made := byLabel[label]
	if made == nil {
		made = &endpoint{label: label}
		byLabel[label] = made
	}
	if !slices.Contains(made.addrs, addr) {
		made.addrs = append(made.addrs, addr)
	}
	for _, p := range ports {
		if !slices.Contains(made.ports, p) {
			made.ports = append(made.ports, p)
		}
	}
}

func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func protocolLabel(p corev1.Protocol) string {
	if p == "" {
		return "tcp"
	}
	return strings.ToLower(string(p))
}

// dashed is an address as a label: 10-1-2-3, fd00--1.
func dashed(addr netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(addr.String())
}

// undashed is the inverse of dashed.
func undashed(label string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil {
		return addr, true
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	return addr, err == nil
}

// reverseKey orders who has an address by the address; the name is below the zone's domain.
func reverseKey(addr netip.Addr, name string) string {
	b := addr.As16()
	return string(b[:]) + name
}

func (s *service) reverseKeys() []string {
	var keys []string
	own := s.name + "." + s.namespace + ".svc."
	for _, addr := range s.addrs {
		keys = append(keys, reverseKey(addr, own))
	}
	for _, e := range s.endpoints {
		for _, addr := range e.addrs {
			keys = append(keys, reverseKey(addr, e.label+"."+own))
		}
	}
	return keys
}

func (b *builder) updatePods(pods []*corev1.Pod) (changed bool) {
	present := make(map[types.NamespacedName]bool, len(pods))
	for _, pod := range pods {
		key := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
		present[key] = true
		old := b.pods[key]
		if old == pod || old != nil && svcindex.Same(old, pod) {
			continue
		}
		if old != nil {
			b.dropPod(old)
		}
		b.pods[key] = pod
		changed = true
	}
	for key, old := range b.pods {
		if !present[key] {
			b.dropPod(old)
			delete(b.pods, key)
			changed = true
		}
	}
	if changed {
		// Two pods may have had one address for a moment: what one leaves, the other keeps.
		for _, pod := range b.pods {
			for _, addr := range podAddrs(pod) {
				b.zone.podIPs.Set(pod.Namespace+"/"+addr.String(), addr)
			}
		}
	}
	return changed
}

func (b *builder) dropPod(pod *corev1.Pod) {
	for _, addr := range podAddrs(pod) {
		b.zone.podIPs.Delete(pod.Namespace + "/" + addr.String())
	}
}

func podAddrs(pod *corev1.Pod) []netip.Addr {
	var addrs []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			addrs = append(addrs, addr)
		}
	}
	if addr, err := netip.ParseAddr(pod.Status.PodIP); err == nil && len(addrs) == 0 {
		addrs = append(addrs, addr)
	}
	return addrs
}
