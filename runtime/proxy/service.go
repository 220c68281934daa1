package proxy

import (
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// part is what one service contributes to the rules.
type part struct {
	service *corev1.Service
	slices  []*discoveryv1.EndpointSlice

	chains  map[chainID]string // chains that only this service has
	entries []entry            // its rules in chains that services share
	udp     []udpPort
	health  *healthPort
}

func (p *part) udpPorts() []udpPort {
	if p == nil {
		return nil
	}
	return p.udp
}

// entry is a rule in a shared chain. Its key gives its place in the chain and is unique there.
type entry struct {
	in   chainID
	key  string
	rule string // without "-A chain"
}

// skipped services have no rules here: they have no cluster IP, or somebody else serves them.
func skipped(s *corev1.Service) bool {
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return true
	}
	return s.Labels["service.kubernetes.io/service-proxy-name"] != ""
}

// front is one service port as it is asked for.
type front struct {
	opts Options
	env  *surroundings
	p    *part

	name     string // "namespace/service:port"
	proto    string // "tcp", "udp" or "sctp"
	port     uint16
	affinity int // seconds; 0: none

	clusterIP                netip.Addr
	externalIPs, balancerIPs []netip.Addr
	sourceRanges             []netip.Prefix
	nodePort                 uint16
	localOutside             bool // externalTrafficPolicy: Local
	localInside              bool // internalTrafficPolicy: Local
}

func renderService(s *corev1.Service, ofService []*discoveryv1.EndpointSlice, env *surroundings, opts Options) *part {
	p := &part{service: s, slices: ofService, chains: map[chainID]string{}}
	clusterIP, ok := firstIPv4(append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...))
	if skipped(s) || !ok {
		return p
	}
	for i := range s.Spec.Ports {
		sp := &s.Spec.Ports[i]
		proto, ok := ruleProtocol(protocolOf(sp))
		if !ok {
			continue
		}
		f := &front{opts: opts, env: env, p: p, clusterIP: clusterIP, proto: proto, name: s.Namespace + "/" + s.Name, port: uint16(sp.Port)}
		if sp.Name != "" {
			f.name += ":" + sp.Name
		}
		f.name = plain(f.name)
		f.localInside = valueOr(s.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster) == corev1.ServiceInternalTrafficPolicyLocal
		if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
			f.affinity = int(corev1.DefaultClientIPServiceAffinitySeconds)
			if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
				f.affinity = int(*c.ClientIP.TimeoutSeconds)
			}
		}
		f.externalIPs = allIPv4(s.Spec.ExternalIPs)
		if s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			f.nodePort = uint16(sp.NodePort)
		}
		if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			for _, ingress := range s.Status.LoadBalancer.Ingress {
				if valueOr(ingress.IPMode, corev1.LoadBalancerIPModeVIP) == corev1.LoadBalancerIPModeVIP {
					f.balancerIPs = append(f.balancerIPs, allIPv4([]string{ingress.IP})...)
				}
			}
			for _, text := range s.Spec.LoadBalancerSourceRanges {
				if cidr, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil && cidr.Addr().Is4() {
					f.sourceRanges = append(f.sourceRanges, cidr.Masked())
				}
			}
		}
		f.localOutside = f.outside() && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
		all := endpointsOf(sp, ofService, env.nodeName)
		f.render(all)
		if f.proto == "udp" {
			p.udp = append(p.udp, f.udpPort(all))
		}
	}
	p.health = health(s, func(sp *corev1.ServicePort) []endpoint { return endpointsOf(sp, ofService, env.nodeName) })
	return p
}

// ruleProtocol is the protocol in iptables' words; false for one that it does not know.
func ruleProtocol(p corev1.Protocol) (string, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return "tcp", true
	case corev1.ProtocolUDP:
		return "udp", true
	case corev1.ProtocolSCTP:
		return "sctp", true
	default:
		return "", false
	}
}

// maxName leaves room for words in a comment, which has at most 255 bytes.
const maxName = 180

// plain keeps a name from being more than a name: the rules are text, and whoever could put a quote or a line's end into a
// comment could write rules. The API lets no such name pass; this does not rely on it.
func plain(name string) string {
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:/", r) {
			return r
		}
		return '?'
	}, name)
	return name[:min(len(name), maxName)]
}

func firstIPv4(texts []string) (netip.Addr, bool) {
	if addrs := allIPv4(texts); len(addrs) > 0 {
		return addrs[0], true
	}
	return netip.Addr{}, false
}

func allIPv4(texts []string) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil && addr.Is4() {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// outside says whether the port can be asked for by anything but its cluster IP.
func (f *front) outside() bool {
	return f.nodePort != 0 || len(f.externalIPs) > 0 || len(f.balancerIPs) > 0
}

func (f *front) chain(family string) string {
	return hashed(f.opts.ChainPrefix, family, f.name, f.proto)
}

func (f *front) endpointChain(e endpoint) string {
	return hashed(f.opts.ChainPrefix, endpointFamily, f.name, f.proto, e.addr.String())
}

// render writes the port's chains and its entries in the shared ones.
func (f *front) render(all []endpoint) {
	usesLocal := f.localInside || f.localOutside
	usesAnywhere := !f.localInside || f.outside() // node-local clients of an external address are not bound by its policy
	c := choose(all, usesAnywhere, usesLocal, f.env.nodeName, f.env.zone)

	cluster, local, external := f.chain(clusterFamily), f.chain(localFamily), f.chain(externalFamily)
	inside := cluster
	insideHas := c.any
	if f.localInside {
		inside, insideHas = local, len(c.local) > 0
	}
	outsideHas := c.any
	if f.localOutside {
		outsideHas = len(c.local) > 0
	}
	f.enterInside(c, inside, insideHas)
	f.enterOutside(c, external, outsideHas)
	if !c.any {
		return
	}
	if f.outside() {
		target := cluster
		if f.localOutside {
			target = local
		}
		f.renderExternal(external, cluster, target, outsideHas)
	}
	if len(c.anywhere) > 0 {
		f.renderBalancing(cluster, c.anywhere, inside == cluster)
	}
	if len(c.local) > 0 {
		f.renderBalancing(local, c.local, inside == local)
	}
	for _, e := range c.reached {
		f.renderEndpoint(e)
	}
}

// enterInside leads the cluster IP to its endpoints, or refuses it.
func (f *front) enterInside(c choice, target string, has bool) {
	if has {
		f.enter(natTable, f.clusterIP, "cluster IP", target)
		return
	}
	verdict, why := refusal(c)
	f.enter(filterTable, f.clusterIP, why, verdict)
}

// refusal is what becomes of traffic without endpoint: an error at once when the service has none, silence when only this node
// has none, because a load balancer should try another node.
func refusal(c choice) (verdict, why string) {
	if !c.any {
		return "REJECT --reject-with icmp-port-unreachable", "has no endpoints"
	}
	return "DROP", "has no local endpoints"
}

// enterOutside leads external addresses and the node port to the port's external chain, or refuses them.
func (f *front) enterOutside(c choice, external string, has bool) {
	externals := chainID{Table: filterTable, Name: f.opts.ChainPrefix + externalsChain}
	verdict, why := refusal(c)
	refuse := func(addr netip.Addr) {
		f.add(externals, addrKey(addr, f), f.match(addr.String()+"/32", f.port)+f.comment(why)+" -j "+verdict)
	}
	for _, addr := range f.externalIPs {
		if c.any {
			f.enter(natTable, addr, "external IP", external)
		}
		if !has {
			refuse(addr)
		}
	}
	for _, addr := range f.balancerIPs {
		target := external
		if c.any && len(f.sourceRanges) > 0 {
			target = f.chain(rangesFamily)
			f.renderRanges(target, external)
			f.add(chainID{Table: filterTable, Name: f.opts.ChainPrefix + firewallChain}, addrKey(addr, f),
				f.match(addr.String()+"/32", f.port)+f.comment("traffic not accepted by "+target)+" -j DROP")
		}
		if c.any {
			f.enter(natTable, addr, "load balancer IP", target)
		}
		if !has {
			refuse(addr)
		}
	}
	if f.nodePort == 0 {
		return
	}
	key := portKey(f.nodePort, f)
	if c.any {
		f.add(chainID{Table: natTable, Name: f.nodePortBucket()}, key, f.match("", f.nodePort)+f.comment("")+" -j "+external)
	}
	if !has {
		f.add(externals, key, f.match("", f.nodePort)+f.comment(why)+" -m addrtype --dst-type LOCAL -j "+verdict)
	}
}

// enter adds the rule for one destination to the chain of its last byte.
func (f *front) enter(table string, addr netip.Addr, what, target string) {
	f.add(chainID{Table: table, Name: bucketOf(f.opts.ChainPrefix, addr)}, addrKey(addr, f),
		f.match(addr.String()+"/32", f.port)+f.comment(what)+" -j "+target)
}

func (f *front) add(in chainID, key, rule string) {
	f.p.entries = append(f.p.entries, entry{in: in, key: key, rule: rule})
}

// match begins a rule: the destination (any when empty), the protocol and the port.
func (f *front) match(destination string, port uint16) string {
	d := ""
	if destination != "" {
		d = " -d " + destination
	}
	return d + " -p " + f.proto + " -m " + f.proto + " --dport " + strconv.Itoa(int(port))
}

func (f *front) comment(what string) string {
	if what != "" {
		what = " " + what
	}
	return ` -m comment --comment "` + f.name + what + `"`
}

func addrKey(addr netip.Addr, f *front) string {
	b := addr.As4()
	return string(b[:]) + portKey(f.port, f)
}

func portKey(port uint16, f *front) string {
	return string([]byte{byte(port >> 8), byte(port)}) + f.proto + "\x00" + f.name
}

// bucketOf names the chain of the destinations that end like this one.
func bucketOf(prefix string, addr netip.Addr) string {
	return prefix + bucketFamily + hex2(addr.As4()[3])
}

const hexDigits = "0123456789ABCDEF"

func hex2(b byte) string { return string([]byte{hexDigits[b>>4], hexDigits[b&15]}) }

// portsPerBucket is how many node ports share a chain.
const portsPerBucket = 64

func (f *front) nodePortBucket() string {
	first := f.nodePort &^ (portsPerBucket - 1)
	return f.opts.ChainPrefix + nodePortFamily + strings.ToUpper(f.proto[:1]) + hex2(byte(first>>8)) + hex2(byte(first))
}
