package proxy

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/shiplog/shiplog/runtime/internal/xtables"
)

// State is everything that the rules depend on. The objects are not changed, and must not be changed by the caller after they
// were handed over: an object that changed is another pointer (or has another resource version).
type State struct {
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice

	NodeName string
	Zone     string       // the node's topology.kubernetes.io/zone; may be empty
	NodeIPs  []netip.Addr // the node's own addresses

	HostPorts []HostPort

	// ClusterCIDR holds all pods' addresses and PodCIDR this node's; the first is used when it is set, else the second. Who is not
	// in it and asks for a cluster IP is masqueraded, because the answer has to come back through this node.
	ClusterCIDR netip.Prefix
	PodCIDR     netip.Prefix
}

// HostPort leads a port of the node to a port of one of its pods.
type HostPort struct {
	Pod           string          // "namespace/name", for people who read the rules
	Protocol      corev1.Protocol // TCP when empty
	HostIP        netip.Addr      // all addresses of the node when not set or unspecified
	HostPort      uint16
	PodIP         netip.Addr
	ContainerPort uint16
}

// Options are the choices of an installation. Zero values are the defaults in parentheses.
type Options struct {
	ChainPrefix   string        // what our chains' names begin with ("SHIPLOG"); capital letters and digits, at most 11
	MasqueradeBit int           // the bit of the packet mark that says "masquerade" (14, as kube-proxy's)
	MasqueradeAll bool          // masquerade all traffic to cluster IPs
	IPTables      string        // the iptables program ("iptables")
	LockWait      time.Duration // how long a command waits for the xtables lock (5 s)
	// LocalnetDevices are the devices over which pods are reached ("shiplog0"): node ports answer on 127.0.0.1 for the endpoints
	// behind them. A device that does not exist yet is passed over until the next call. Empty and not nil: no node ports there.
	LocalnetDevices []string
	Logger          *slog.Logger // (slog.Default())
}

// hashLength is the number of characters that tell one service's chains from another's: 60 bits.
const hashLength = 12

func (o Options) withDefaults() (Options, error) {
	if o.ChainPrefix == "" {
		o.ChainPrefix = "SHIPLOG"
	}
	if strings.ContainsFunc(o.ChainPrefix, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '0' || r > '9') }) {
		return o, fmt.Errorf("chain prefix %q: only capital letters and digits", o.ChainPrefix)
	}
	if longest := len(o.ChainPrefix) + len("-SVC-") + hashLength; longest > xtables.MaxChainName {
		return o, fmt.Errorf("chain prefix %q: iptables allows chain names of %d bytes, this makes some of %d", o.ChainPrefix, xtables.MaxChainName, longest)
	}
	if o.LocalnetDevices == nil {
		o.LocalnetDevices = []string{"shiplog0"}
	}
	if o.MasqueradeBit == 0 {
		o.MasqueradeBit = 14
	}
	if o.MasqueradeBit < 0 || o.MasqueradeBit > 31 {
		return o, fmt.Errorf("masquerade bit %d: a packet's mark has the bits 0 to 31", o.MasqueradeBit)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o, nil
}

// surroundings are the parts of the State that every service's rules depend on.
type surroundings struct {
	nodeName, zone string
	nodeIPs        string // joined, for comparing
	pods           netip.Prefix
}

func (s *State) surroundings() surroundings {
	pods := s.ClusterCIDR
	if !pods.IsValid() {
		pods = s.PodCIDR
	}
	var ips strings.Builder
	for _, ip := range s.NodeIPs {
		ips.WriteString(ip.String())
		ips.WriteByte(' ')
	}
	return surroundings{nodeName: s.NodeName, zone: s.Zone, nodeIPs: ips.String(), pods: pods}
}

func (s surroundings) nodeAddrs() []netip.Addr {
	var addrs []netip.Addr
	for word := range strings.FieldsSeq(s.nodeIPs) {
		if addr, err := netip.ParseAddr(word); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
