// Package endpoints keeps who answers for each Service: as EndpointSlices, as Endpoints for those who still read them, and as
// EndpointSlices made from the Endpoints that people write by hand.
package endpoints

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

var (
	services        = resources.Services.GroupResource()
	endpointsGR     = resources.Endpoints.GroupResource()
	slicesGR        = resources.EndpointSlices.GroupResource()
	nodes           = resources.Nodes.GroupResource()
	serviceKind     = corev1.SchemeGroupVersion.WithKind("Service")
	endpointsKind   = corev1.SchemeGroupVersion.WithKind("Endpoints")
	reservedOfSlice = []string{discoveryv1.LabelServiceName, discoveryv1.LabelManagedBy, corev1.IsHeadlessService}
)

// The cost of following a large service is bounded by looking at it less often.
const (
	settlePerPod = 500 * time.Microsecond
	settleFrom   = 20 // services of fewer pods are looked at at once
	settleMax    = time.Second
)

func settle(members int) time.Duration {
	if members < settleFrom {
		return 0
	}
	return min(time.Duration(members)*settlePerPod, settleMax)
}

// selects says whether the endpoints of a service follow from its selector.
func selects(svc *corev1.Service) bool {
	return svc.Spec.Selector != nil && svc.Spec.Type != corev1.ServiceTypeExternalName
}

// headless says whether a service has no address of its own.
func headless(svc *corev1.Service) bool {
	return svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone
}

// members returns the pods that a service selects and that have an address, ordered by name.
func members(view projections.Reader, svc *corev1.Service, terminating bool) []*corev1.Pod {
	var found []*corev1.Pod
	for p := range projections.List[*corev1.Pod](view, pods.Resource, svc.Namespace) {
		if reachable(p, terminating) && matches(svc.Spec.Selector, p.Labels) {
			found = append(found, p)
		}
	}
	return found
}

func reachable(p *corev1.Pod, terminating bool) bool {
	return !pods.Finished(p) && (p.Status.PodIP != "" || len(p.Status.PodIPs) > 0) && (terminating || p.DeletionTimestamp == nil)
}

func matches(selector, l map[string]string) bool {
	for k, v := range selector {
		if got, ok := l[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// ofPod returns the services whose endpoints a change of a pod may change.
func ofPod(view projections.Reader, ch projections.Change) []controllers.Key {
	before, _ := controllers.Of(ch.Before).(*corev1.Pod)
	after, _ := controllers.Of(ch.After).(*corev1.Pod)
	if before != nil && !reachable(before, true) {
		before = nil
	}
	if after != nil && !reachable(after, true) {
		after = nil
	}
	if before == nil && after == nil || before != nil && after != nil && same(before, after) {
		return nil
	}
	var keys []controllers.Key
	for svc := range projections.List[*corev1.Service](view, services, ch.Event.Ref.Namespace) {
		if selects(svc) && (before != nil && matches(svc.Spec.Selector, before.Labels) || after != nil && matches(svc.Spec.Selector, after.Labels)) {
			keys = append(keys, controllers.KeyOf(services, svc.Namespace, svc.Name))
		}
	}
	return keys
}

// same says whether two states of a pod lead to the same endpoints.
func same(a, b *corev1.Pod) bool {
	return pods.Ready(a) == pods.Ready(b) && (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		a.UID == b.UID && a.Status.PodIP == b.Status.PodIP && slices.Equal(a.Status.PodIPs, b.Status.PodIPs) && a.Spec.NodeName == b.Spec.NodeName &&
		a.Spec.Hostname == b.Spec.Hostname && a.Spec.Subdomain == b.Spec.Subdomain && labels.Equals(a.Labels, b.Labels)
}

// address returns the pod's address of a family; the zero Addr and "" when it has none.
func address(p *corev1.Pod, family discoveryv1.AddressType) (netip.Addr, string) {
	pick := func(ip string) (netip.Addr, string) {
		a, err := netip.ParseAddr(ip)
		if err != nil || a.Unmap().Is4() != (family == discoveryv1.AddressTypeIPv4) {
			return netip.Addr{}, ""
		}
		if family == discoveryv1.AddressTypeIPv4 && a.Is4() {
			return a, ip // an IPv4 address has one form only
		}
		return a.Unmap(), a.Unmap().String()
	}
	if len(p.Status.PodIPs) == 0 {
		return pick(p.Status.PodIP)
	}
	for _, ip := range p.Status.PodIPs {
		if a, text := pick(ip.IP); text != "" {
			return a, text
		}
	}
	return netip.Addr{}, ""
}

// families returns the address families of a service, its first one first.
func families(svc *corev1.Service) []discoveryv1.AddressType {
	var out []discoveryv1.AddressType
	for _, f := range svc.Spec.IPFamilies {
		switch f {
		case corev1.IPv4Protocol:
			out = append(out, discoveryv1.AddressTypeIPv4)
		case corev1.IPv6Protocol:
			out = append(out, discoveryv1.AddressTypeIPv6)
		}
	}
	if len(out) > 0 {
		return out
	}
	if a, err := netip.ParseAddr(svc.Spec.ClusterIP); err == nil && a.Is6() {
		return []discoveryv1.AddressType{discoveryv1.AddressTypeIPv6}
	}
	return []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4}
}

// resolver resolves a service's ports on pods. Pods on which they resolve alike share one list, which nobody changes.
type resolver struct {
	svc   *corev1.Service
	key   []byte
	lists map[string][]discoveryv1.EndpointPort
}

func newResolver(svc *corev1.Service) *resolver {
	return &resolver{svc: svc, lists: map[string][]discoveryv1.EndpointPort{}}
}

// of returns the ports on a pod, and a key that tells different lists apart, good until the next call. A named port that the
// pod does not have is left out.
func (r *resolver) of(p *corev1.Pod) (key []byte, ports []discoveryv1.EndpointPort) {
	r.key = r.key[:0]
	for i := range r.svc.Spec.Ports {
		number, ok := targetPort(p, &r.svc.Spec.Ports[i])
		if !ok {
			number = -1
		}
		r.key = strconv.AppendInt(r.key, int64(number), 10)
		r.key = append(r.key, ',')
	}
	ports, known := r.lists[string(r.key)]
	if known {
		return r.key, ports
	}
	for i := range r.svc.Spec.Ports {
		sp := &r.svc.Spec.Ports[i]
		number, ok := targetPort(p, sp)
		if !ok {
			continue
		}
		name, protocol := sp.Name, sp.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		ports = append(ports, discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &protocol, AppProtocol: sp.AppProtocol})
	}
	r.lists[string(r.key)] = ports
	return r.key, ports
}

func targetPort(p *corev1.Pod, sp *corev1.ServicePort) (int32, bool) {
	if sp.TargetPort.Type == intstr.Int {
		if sp.TargetPort.IntVal == 0 {
			return sp.Port, true
		}
		return sp.TargetPort.IntVal, true
	}
	named := func(c *corev1.Container) (int32, bool) {
		for _, port := range c.Ports {
			if port.Name == sp.TargetPort.StrVal && (port.Protocol == sp.Protocol || port.Protocol == "" && sp.Protocol == corev1.ProtocolTCP) {
				return port.ContainerPort, true
			}
		}
		return 0, false
	}
	for i := range p.Spec.Containers {
		if n, ok := named(&p.Spec.Containers[i]); ok {
			return n, true
		}
	}
	for i := range p.Spec.InitContainers { // side-cars
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			if n, ok := named(c); ok {
				return n, true
			}
		}
	}
	return 0, false
}

// portsKey tells sets of ports apart, whatever their order.
func portsKey(ports []discoveryv1.EndpointPort) string {
	parts := make([]string, len(ports))
	for i, p := range ports {
		var b strings.Builder
		if p.Name != nil {
			b.WriteString(*p.Name)
		}
		b.WriteByte('/')
		if p.Protocol != nil {
			b.WriteString(string(*p.Protocol))
		}
		b.WriteByte('/')
		if p.Port != nil {
			b.WriteString(itoa(*p.Port))
		}
		b.WriteByte('/')
		if p.AppProtocol != nil {
			b.WriteString(*p.AppProtocol)
		}
		parts[i] = b.String()
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

func targetRef(p *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: pods.Kind.Kind, Namespace: p.Namespace, Name: p.Name, UID: p.UID}
}

// hostname is the name under which a headless service's DNS knows the pod, or "".
func hostname(svc *corev1.Service, p *corev1.Pod) string {
	if p.Spec.Subdomain == svc.Name && p.Namespace == svc.Namespace {
		return p.Spec.Hostname
	}
	return ""
}

// labelsFrom returns the labels of what belongs to an object: its own, without the reserved ones, and some more.
func labelsFrom(own map[string]string, more map[string]string) map[string]string {
	out := make(map[string]string, len(own)+len(more))
	for k, v := range own {
		if !slices.Contains(reservedOfSlice, k) {
			out[k] = v
		}
	}
	for k, v := range more {
		out[k] = v
	}
	return out
}

func equal(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }

// relabelled returns the services with endpoints on a node whose zone has changed.
func relabelled(view projections.Reader, ch projections.Change) []controllers.Key {
	zone := func(o *projections.Object) string {
		if n, ok := controllers.Of(o).(*corev1.Node); ok {
			return n.Labels[corev1.LabelTopologyZone]
		}
		return ""
	}
	if zone(ch.Before) == zone(ch.After) {
		return nil
	}
	var keys []controllers.Key
	for o := range view.Index(pods.Resource, domain.NodeIndex, ch.Event.Ref.Name) {
		for _, key := range ofPod(view, projections.Change{Event: domain.Event{Ref: o.Ref}, After: o}) {
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}
