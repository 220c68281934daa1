package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// udpPort is what clients of a UDP service port may have connections with. UDP has no end of a connection: as long as a client
// keeps sending, the kernel keeps leading it to an endpoint that may be long gone.
type udpPort struct {
	addrs    []netip.Addr // cluster, external and load balancer addresses
	port     uint16
	nodePort uint16
	serving  []netip.AddrPort
}

func (f *front) udpPort(all []endpoint) udpPort {
	u := udpPort{addrs: slices.Concat([]netip.Addr{f.clusterIP}, f.externalIPs, f.balancerIPs), port: f.port, nodePort: f.nodePort}
	for _, e := range all {
		// Who still serves keeps the connections he has, as for TCP.
		if e.serving {
			u.serving = append(u.serving, e.addr)
		}
	}
	return u
}

// gone returns the ports of a service that was removed or replaced: nobody serves them any more.
func gone(ports []udpPort) []udpPort {
	made := make([]udpPort, len(ports))
	for i, u := range ports {
		made[i] = udpPort{addrs: u.addrs, port: u.port, nodePort: u.nodePort}
	}
	return made
}

func (u udpPort) equal(v udpPort) bool {
	return u.port == v.port && u.nodePort == v.nodePort && slices.Equal(u.addrs, v.addrs) && slices.Equal(u.serving, v.serving)
}

// staleUDP returns the ports to look at when a service's ports change from old to now: none when they are the same.
func staleUDP(old, now []udpPort) []udpPort {
	if slices.EqualFunc(old, now, udpPort.equal) {
		return nil
	}
	return slices.Concat(gone(old), now)
}

// hostPortsUDP returns the UDP ports among the node's host ports.
func hostPortsUDP(ports []HostPort) []udpPort {
	var found []udpPort
	for _, hp := range ports {
		if hp.Protocol == corev1.ProtocolUDP {
			found = append(found, udpPort{nodePort: hp.HostPort, serving: []netip.AddrPort{netip.AddrPortFrom(hp.PodIP, hp.ContainerPort)}})
		}
	}
	return found
}

// flowFilter matches the tracked connections that lead to nobody who serves.
type flowFilter struct {
	byAddr map[netip.AddrPort][]netip.AddrPort // destination -> who serves it
	byPort map[uint16][]netip.AddrPort         // port of the node -> who serves it
	node   []netip.Addr
}

func newFlowFilter(ports []udpPort, node []netip.Addr) *flowFilter {
	f := &flowFilter{byAddr: map[netip.AddrPort][]netip.AddrPort{}, byPort: map[uint16][]netip.AddrPort{}, node: node}
	for _, u := range ports {
		// A port may stand in the list twice, gone and come: those who serve it count together.
		for _, addr := range u.addrs {
			to := netip.AddrPortFrom(addr, u.port)
			f.byAddr[to] = append(f.byAddr[to], u.serving...)
		}
		if u.nodePort != 0 {
			f.byPort[u.nodePort] = append(f.byPort[u.nodePort], u.serving...)
		}
	}
	return f
}

func (f *flowFilter) matches(asked, answers netip.AddrPort) bool {
	if serving, ok := f.byAddr[asked]; ok {
		return !slices.Contains(serving, answers)
	}
	serving, ok := f.byPort[asked.Port()]
	if !ok {
		return false
	}
	// Somebody else's host may use the same port number: only what asked this node, or what was led elsewhere, is ours.
	ours := asked.Addr().IsLoopback() || slices.Contains(f.node, asked.Addr()) || asked.Addr() != answers.Addr()
	return ours && !slices.Contains(serving, answers)
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f *flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	asked, ok1 := netip.AddrFromSlice(flow.Forward.DstIP.To4())
	answers, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP.To4())
	return ok1 && ok2 && f.matches(netip.AddrPortFrom(asked, flow.Forward.DstPort), netip.AddrPortFrom(answers, flow.Reverse.SrcPort))
}

// cleanFlows removes the tracked UDP connections to ports that nobody serves any more, and returns how many.
func cleanFlows(ctx context.Context, ports []udpPort, node []netip.Addr) (uint, error) {
	if len(ports) == 0 {
		return 0, nil
	}
	filter := newFlowFilter(ports, node)
	var removed uint
	for try := 0; ; try++ {
		n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter)
		removed += n
		switch {
		case err == nil:
			return removed, nil
		case errors.Is(err, netlink.ErrDumpInterrupted) && try < 10 && ctx.Err() == nil:
			continue // the table changed while it was read: what was seen is removed, look again for the rest
		default:
			return removed, fmt.Errorf("removing tracked UDP connections to former endpoints: %w", err)
		}
	}
}
