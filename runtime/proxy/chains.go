package proxy

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

func (f *front) mark() string { return " -j " + f.opts.ChainPrefix + markChain }

func (f *front) set(chain string, rules ...string) {
	var b strings.Builder
	for _, rule := range rules {
		b.WriteString("-A ")
		b.WriteString(chain)
		b.WriteString(rule)
		b.WriteByte('\n')
	}
	f.p.chains[chainID{Table: natTable, Name: chain}] = b.String()
}

// renderExternal writes the chain for traffic to external addresses and node ports.
func (f *front) renderExternal(chain, cluster, target string, has bool) {
	var rules []string
	if !f.localOutside {
		// The endpoint may be on another node, and its answer has to come back through this one.
		rules = append(rules, f.comment("masquerade external traffic")+f.mark())
	} else {
		// Who asks from inside the cluster is not bound by the policy: it is as if the traffic went out to the load balancer and back.
		if f.env.pods.IsValid() {
			rules = append(rules, " -s "+f.env.pods.String()+f.comment("external traffic of pods")+" -j "+cluster)
		}
		// The node's own address is the one asked for, so it would also be the sender's.
		local := " -m addrtype --src-type LOCAL"
		rules = append(rules,
			f.comment("masquerade traffic of this node")+local+f.mark(),
			f.comment("external traffic of this node")+local+" -j "+cluster)
	}
	if has {
		rules = append(rules, " -j "+target)
	}
	f.set(chain, rules...)
}

// renderRanges lets only the load balancer's source ranges pass; what falls through is dropped by the filter table.
func (f *front) renderRanges(chain, external string) {
	var rules []string
	node := false
	pass := func(from string) { rules = append(rules, " -s "+from+f.comment("load balancer IP")+" -j "+external) }
	for _, cidr := range f.sourceRanges {
		pass(cidr.String())
		for _, addr := range f.env.nodeAddrs() {
			node = node || cidr.Contains(addr)
		}
	}
	// A node that holds the balancer's address asks with it as sender.
	if node {
		for _, addr := range f.balancerIPs {
			pass(addr.String() + "/32")
		}
	}
	f.set(chain, rules...)
}

// renderBalancing writes the chain that picks an endpoint: the one that the client had before, if it shall stick, else any.
func (f *front) renderBalancing(chain string, endpoints []endpoint, inside bool) {
	var rules []string
	if inside {
		to := " -d " + f.clusterIP.String() + "/32 -p " + f.proto + " -m " + f.proto + " --dport " + strconv.Itoa(int(f.port))
		switch {
		case f.opts.MasqueradeAll:
			rules = append(rules, to+f.comment("cluster IP")+f.mark())
		case f.env.pods.IsValid():
			rules = append(rules, " ! -s "+f.env.pods.String()+to+f.comment("cluster IP")+f.mark())
		}
	}
	if f.affinity > 0 {
		for _, e := range endpoints {
			target := f.endpointChain(e)
			rules = append(rules, f.comment("-> "+e.addr.String())+
				" -m recent --rcheck --seconds "+strconv.Itoa(f.affinity)+" --reap --name "+target+" --mask 255.255.255.255 --rsource -j "+target)
		}
	}
	for i, e := range endpoints {
		rule := f.comment("-> " + e.addr.String())
		if left := len(endpoints) - i; left > 1 {
			rule += " -m statistic --mode random --probability " + probability(left)
		}
		rules = append(rules, rule+" -j "+f.endpointChain(e))
	}
	f.set(chain, rules...)
}

// probability is one in n as the kernel holds it (31 bits) and iptables-save prints it.
func probability(n int) string {
	const one = 1 << 31
	return fmt.Sprintf("%.11f", math.Round(one/float64(n))/one)
}

func (f *front) renderEndpoint(e endpoint) {
	chain := f.endpointChain(e)
	recent := ""
	if f.affinity > 0 {
		recent = " -m recent --set --name " + chain + " --mask 255.255.255.255 --rsource"
	}
	f.set(
		chain,
		// A pod that reaches itself must not see its own address as the sender's, or it would answer itself past the bridge.
		" -s "+e.addr.Addr().String()+"/32"+f.comment("")+f.mark(),
		" -p "+f.proto+f.comment("")+recent+" -m "+f.proto+" -j DNAT --to-destination "+e.addr.String(),
	)
}

// renderHostPorts writes the chains of the node's host ports.
func renderHostPorts(ports []HostPort, opts Options) map[chainID]string {
	chains := map[chainID]string{}
	top := opts.ChainPrefix + hostPortsChain
	var specific, general []string
	for _, hp := range ports {
		if !hp.PodIP.Is4() || hp.HostPort == 0 || hp.ContainerPort == 0 || hp.HostIP.IsValid() && !hp.HostIP.Is4() {
			continue
		}
		proto, ok := ruleProtocol(hp.Protocol)
		if !ok {
			continue
		}
		to := netip.AddrPortFrom(hp.PodIP, hp.ContainerPort)
		chain := hashed(opts.ChainPrefix, hostPortFamily, proto, hp.hostIP(), strconv.Itoa(int(hp.HostPort)), hp.Pod, to.String())
		comment := fmt.Sprintf(` -m comment --comment "%s hostport %d"`, plain(hp.Pod), hp.HostPort)
		mark := " -j " + opts.ChainPrefix + markChain
		chains[chainID{Table: natTable, Name: chain}] = "-A " + chain + " -s " + hp.PodIP.String() + "/32" + comment + mark + "\n" +
			"-A " + chain + " -m addrtype --src-type LOCAL" + comment + mark + "\n" +
			"-A " + chain + " -p " + proto + comment + " -m " + proto + " -j DNAT --to-destination " + to.String() + "\n"
		enter := " -p " + proto + " -m " + proto + " --dport " + strconv.Itoa(int(hp.HostPort)) + comment + " -j " + chain + "\n"
		if hp.hostIP() != "" {
			specific = append(specific, "-A "+top+" -d "+hp.hostIP()+"/32"+enter)
		} else {
			general = append(general, "-A "+top+enter)
		}
	}
	// A port on one address goes before the same port on all.
	chains[chainID{Table: natTable, Name: top}] = joinSorted(specific) + joinSorted(general)
	return chains
}

// hostIP is empty when the port is open on every address.
func (hp HostPort) hostIP() string {
	if !hp.HostIP.IsValid() || hp.HostIP.IsUnspecified() {
		return ""
	}
	return hp.HostIP.String()
}
