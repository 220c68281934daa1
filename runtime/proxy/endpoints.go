package proxy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// endpoint is one address and port behind a service port.
type endpoint struct {
	addr                        netip.AddrPort
	ready, serving, terminating bool
	local                       bool
	nodeHints, zoneHints        []string
}

// endpointsOf collects the endpoints of a service port from the service's slices, in the order of their addresses. An endpoint
// that stands in two slices counts once, with the better of its conditions.
func endpointsOf(port *corev1.ServicePort, slicesOfService []*discoveryv1.EndpointSlice, nodeName string) []endpoint {
	var found []endpoint
	for _, slice := range slicesOfService {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for i := range slice.Ports {
			p := &slice.Ports[i]
			if valueOr(p.Name, "") != port.Name || valueOr(p.Protocol, corev1.ProtocolTCP) != protocolOf(port) || p.Port == nil {
				continue
			}
			for e := range slice.Endpoints {
				found = appendEndpoint(found, &slice.Endpoints[e], uint16(*p.Port), nodeName)
			}
		}
	}
	slices.SortFunc(found, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	unique := found[:0]
	for _, e := range found {
		if n := len(unique); n > 0 && unique[n-1].addr == e.addr {
			last := &unique[n-1]
			last.ready, last.serving = last.ready || e.ready, last.serving || e.serving
			last.terminating = last.terminating && e.terminating
			continue
		}
		unique = append(unique, e)
	}
	return unique
}

func appendEndpoint(found []endpoint, e *discoveryv1.Endpoint, port uint16, nodeName string) []endpoint {
	ready := valueOr(e.Conditions.Ready, true)
	made := endpoint{
		ready: ready, serving: valueOr(e.Conditions.Serving, ready), terminating: valueOr(e.Conditions.Terminating, false),
		local: nodeName != "" && valueOr(e.NodeName, "") == nodeName,
	}
	if e.Hints != nil {
		for _, hint := range e.Hints.ForNodes {
			made.nodeHints = append(made.nodeHints, hint.Name)
		}
		for _, hint := range e.Hints.ForZones {
			made.zoneHints = append(made.zoneHints, hint.Name)
		}
	}
	// The addresses of one endpoint are interchangeable; consumers use the first.
	if len(e.Addresses) == 0 {
		return found
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil || !addr.Is4() {
		return found
	}
	made.addr = netip.AddrPortFrom(addr, port)
	return append(found, made)
}

func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func protocolOf(port *corev1.ServicePort) corev1.Protocol {
	if port.Protocol == "" {
		return corev1.ProtocolTCP
	}
	return port.Protocol
}

// choice is which endpoints get a service port's traffic.
type choice struct {
	anywhere []endpoint // for traffic with the policy Cluster
	local    []endpoint // for traffic with the policy Local
	reached  []endpoint // both, each once: who needs a chain
	any      bool       // somewhere in the cluster there is one, though perhaps not for this node's traffic
}

// choose decides which endpoints get traffic: the ready ones, and where there is none, those that still serve while they
// terminate; for policy Local only this node's; for policy Cluster the ones hinted for this node or zone, when all are hinted.
func choose(all []endpoint, usesAnywhere, usesLocal bool, nodeName, zone string) choice {
	var c choice
	ready := func(e endpoint) bool { return e.ready }
	leaving := func(e endpoint) bool { return !e.ready && e.serving && e.terminating }
	usable := keep(all, ready)
	if len(usable) == 0 {
		usable = keep(all, leaving)
	}
	c.any = len(usable) > 0
	if usesAnywhere {
		c.anywhere = nearest(usable, nodeName, zone)
	}
	if usesLocal {
		local := func(e endpoint) bool { return e.local }
		here := keep(all, local)
		if c.local = keep(here, ready); len(c.local) == 0 {
			c.local = keep(here, leaving)
		}
	}
	c.reached = slices.Concat(c.anywhere, c.local)
	slices.SortFunc(c.reached, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	c.reached = slices.CompactFunc(c.reached, func(a, b endpoint) bool { return a.addr == b.addr })
	return c
}

func keep(all []endpoint, want func(endpoint) bool) []endpoint {
	var kept []endpoint
	for _, e := range all {
		if want(e) {
			kept = append(kept, e)
		}
	}
	return kept
}

// nearest follows the endpoints' hints: to those for this node, else to those for its zone, else to all. Hints count only when
// every endpoint has one; otherwise they are half written.
func nearest(usable []endpoint, nodeName, zone string) []endpoint {
	byHint := func(hints func(endpoint) []string, mine string) []endpoint {
		var near []endpoint
		for _, e := range usable {
			if !e.ready || len(hints(e)) == 0 {
				return nil
			}
			if slices.Contains(hints(e), mine) {
				near = append(near, e)
			}
		}
		return near
	}
	if near := byHint(func(e endpoint) []string { return e.nodeHints }, nodeName); len(near) > 0 {
		return near
	}
	if near := byHint(func(e endpoint) []string { return e.zoneHints }, zone); len(near) > 0 && zone != "" {
		return near
	}
	return usable
}
