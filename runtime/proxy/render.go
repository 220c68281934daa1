package proxy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/runtime/internal/svcindex"
)

// Render returns the whole text of the rules for a state. Options that New refuses are replaced by their defaults.
func Render(state State, opts Options) Ruleset {
	checked, err := opts.withDefaults()
	if err != nil {
		checked, _ = Options{}.withDefaults()
	}
	r := newRenderer(checked)
	r.update(state)
	return r.ruleset()
}

// renderer holds the rules of the last state, so that the next one costs what changed. What it holds after a series of states
// is what it would hold had it seen only the last.
type renderer struct {
	opts      Options
	env       surroundings
	index     svcindex.Index
	parts     map[types.NamespacedName]*part
	shared    map[chainID]map[string]string // rules of the chains that services share, by their keys
	hostPorts []HostPort
	chains    map[chainID]string
	changed   map[chainID]bool // since the last call of settle
	health    map[types.NamespacedName]*healthPort
	stale     []udpPort // UDP ports whose endpoints may have gone since the last call of settle
}

func newRenderer(opts Options) *renderer {
	r := &renderer{
		opts: opts, parts: map[types.NamespacedName]*part{}, shared: map[chainID]map[string]string{},
		chains: map[chainID]string{}, changed: map[chainID]bool{}, health: map[types.NamespacedName]*healthPort{},
	}
	for id, text := range r.standing() {
		r.set(id, text)
	}
	for id, text := range renderHostPorts(nil, opts) {
		r.set(id, text)
	}
	r.set(r.id(natTable, nodePortsChain), "")
	r.renderDispatch()
	return r
}

func (r *renderer) id(table, chain string) chainID {
	return chainID{Table: table, Name: r.opts.ChainPrefix + chain}
}

func (r *renderer) set(id chainID, text string) {
	if old, ok := r.chains[id]; ok && old == text {
		return
	}
	r.chains[id] = text
	r.changed[id] = true
}

func (r *renderer) drop(id chainID) {
	if _, ok := r.chains[id]; ok {
		delete(r.chains, id)
		r.changed[id] = true
	}
}

func (r *renderer) ruleset() Ruleset { return Ruleset{chains: maps.Clone(r.chains)} }

// delta is the iptables-restore input for what changed since the last call of settle; empty when nothing did. See
// restoreText for atOnce.
func (r *renderer) delta(atOnce int) []byte {
	return restoreText(slices.Collect(maps.Keys(r.changed)), r.chains, atOnce)
}

// settle says that what changed so far has been applied.
func (r *renderer) settle() {
	clear(r.changed)
	r.stale = nil
}

// update brings the rules to a state.
func (r *renderer) update(state State) {
	if env := state.surroundings(); env != r.env {
		r.env = env
		for _, p := range r.parts {
			p.service, p.slices = nil, nil // equal to nothing, so rendered anew
		}
	}
	r.index.Build(state.Slices)
	dirty := map[chainID]bool{}
	for _, svc := range state.Services {
		key := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
		ofService := r.index.Of(key)
		old := r.parts[key]
		if old == nil || !sameService(old.service, svc) || !svcindex.SameSlices(old.slices, ofService) {
			r.replace(key, old, renderService(svc, slices.Clone(ofService), &r.env, r.opts), dirty)
		}
	}
	if len(r.parts) != len(state.Services) { // somebody is gone
		r.removeAbsent(state.Services, dirty)
	}
	if !slices.Equal(r.hostPorts, state.HostPorts) {
		r.updateHostPorts(state.HostPorts)
	}
	r.renderShared(dirty)
}

func (r *renderer) removeAbsent(services []*corev1.Service, dirty map[chainID]bool) {
	present := make(map[types.NamespacedName]bool, len(services))
	for _, svc := range services {
		present[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}] = true
	}
	for key, old := range r.parts {
		if !present[key] {
			r.replace(key, old, nil, dirty)
		}
	}
}

func sameService(a, b *corev1.Service) bool { return a == b || a != nil && svcindex.Same(a, b) }

// replace puts a service's new part in the place of its old one; either may be nil.
func (r *renderer) replace(key types.NamespacedName, old, made *part, dirty map[chainID]bool) {
	if old != nil {
		for id := range old.chains {
			if made == nil {
				r.drop(id)
			} else if _, kept := made.chains[id]; !kept {
				r.drop(id)
			}
		}
		for _, e := range old.entries {
			delete(r.shared[e.in], e.key)
			dirty[e.in] = true
		}
	}
	r.stale = append(r.stale, staleUDP(old.udpPorts(), made.udpPorts())...)
	delete(r.health, key)
	if made == nil {
		delete(r.parts, key)
		return
	}
	if made.health != nil {
		r.health[key] = made.health
	}
	r.parts[key] = made
	for id, text := range made.chains {
		r.set(id, text)
	}
	for _, e := range made.entries {
		chain := r.shared[e.in]
		if chain == nil {
			chain = map[string]string{}
			r.shared[e.in] = chain
		}
		chain[e.key] = e.rule
		dirty[e.in] = true
	}
}

func (r *renderer) updateHostPorts(ports []HostPort) {
	made := renderHostPorts(ports, r.opts)
	for id := range renderHostPorts(r.hostPorts, r.opts) {
		if _, kept := made[id]; !kept {
			r.drop(id)
		}
	}
	for id, text := range made {
		r.set(id, text)
	}
	r.stale = append(r.stale, staleUDP(hostPortsUDP(r.hostPorts), hostPortsUDP(ports))...)
	r.hostPorts = slices.Clone(ports)
}

// renderShared writes the shared chains whose rules changed, and the dispatch when a chain came or went.
func (r *renderer) renderShared(dirty map[chainID]bool) {
	dispatch := false
	for id := range dirty {
		rules := r.shared[id]
		_, existed := r.chains[id]
		if len(rules) == 0 && !r.fixed(id) {
			delete(r.shared, id)
			r.drop(id)
			dispatch = dispatch || existed
			continue
		}
		dispatch = dispatch || !existed
		var b strings.Builder
		for _, key := range slices.Sorted(maps.Keys(rules)) {
			b.WriteString("-A ")
			b.WriteString(id.Name)
			b.WriteString(rules[key])
			b.WriteByte('\n')
		}
		r.set(id, b.String())
	}
	if dispatch {
		r.renderDispatch()
	}
}

func (r *renderer) fixed(id chainID) bool {
	return slices.Contains(fixedChains, strings.TrimPrefix(id.Name, r.opts.ChainPrefix))
}

// renderDispatch writes the chains that lead to the shared chains: by the last byte of the destination, and by ranges of ports.
func (r *renderer) renderDispatch() {
	buckets := map[string][]string{}
	var ports []string
	bucket, nodePorts := r.opts.ChainPrefix+bucketFamily, r.opts.ChainPrefix+nodePortFamily
	for id := range r.shared {
		if last, ok := strings.CutPrefix(id.Name, bucket); ok {
			buckets[id.Table] = append(buckets[id.Table], last)
		} else if first, ok := strings.CutPrefix(id.Name, nodePorts); ok {
			ports = append(ports, first)
		}
	}
	for _, table := range tables {
		var b strings.Builder
		top := r.opts.ChainPrefix + servicesChain
		slices.Sort(buckets[table])
		for _, last := range buckets[table] {
			fmt.Fprintf(&b, "-A %s -d 0.0.0.%d/0.0.0.255 -j %s%s\n", top, unhex(last), bucket, last)
		}
		if table == natTable {
			// Cluster IPs are not the node's own, so these two come last.
			fmt.Fprintf(&b, "-A %s -m addrtype --dst-type LOCAL -j %s\n", top, r.opts.ChainPrefix+hostPortsChain)
			fmt.Fprintf(&b, "-A %s -m addrtype --dst-type LOCAL -j %s\n", top, r.opts.ChainPrefix+nodePortsChain)
		}
		r.set(chainID{Table: table, Name: top}, b.String())
	}
	var b strings.Builder
	slices.Sort(ports)
	protocols := map[byte]string{'T': "tcp", 'U': "udp", 'S': "sctp"}
	for _, name := range ports {
		first := unhex(name[1:])
		fmt.Fprintf(&b, "-A %s -p %s -m %s --dport %d:%d -j %s%s\n", r.opts.ChainPrefix+nodePortsChain,
			protocols[name[0]], protocols[name[0]], first, first+portsPerBucket-1, nodePorts, name)
	}
	r.set(r.id(natTable, nodePortsChain), b.String())
}

func unhex(text string) int {
	n, _ := strconv.ParseUint(text, 16, 16) // made by hex2
	return int(n)
}

// joinSorted joins the lines in their order, each once.
func joinSorted(lines []string) string {
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "")
}

// standing are the chains whose rules depend on the options alone.
func (r *renderer) standing() map[chainID]string {
	mark := fmt.Sprintf("%#x", uint32(1)<<r.opts.MasqueradeBit)
	chains := map[chainID]string{}
	rules := func(table, chain string, rules ...string) {
		var b strings.Builder
		for _, rule := range rules {
			fmt.Fprintf(&b, "-A %s%s %s\n", r.opts.ChainPrefix, chain, rule)
		}
		chains[r.id(table, chain)] = b.String()
	}
	rules(natTable, markChain, "-j MARK --set-xmark "+mark+"/"+mark)
	rules(natTable, postroutingChain,
		"-m mark ! --mark "+mark+"/"+mark+" -j RETURN",
		// The mark has done its work: a packet that passes here again, wrapped for another node, must not be masqueraded again.
		"-j MARK --set-xmark "+mark+"/0x0",
		`-m comment --comment "service traffic that takes the address of this node" -j MASQUERADE --random-fully`)
	rules(filterTable, forwardChain,
		// A packet that connection tracking does not know was not rewritten either, and its receiver would reset a good connection.
		"-m conntrack --ctstate INVALID -j DROP",
		`-m comment --comment "service traffic" -m mark --mark `+mark+"/"+mark+" -j ACCEPT",
		`-m comment --comment "answers of service traffic" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`)
	rules(filterTable, localnetChain,
		// Node ports on 127.0.0.1 need route_localnet, which would let neighbours reach what listens there (CVE-2020-8558).
		`! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "only this node talks to its loopback addresses" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP`)
	rules(filterTable, servicesChain)
	rules(filterTable, externalsChain)
	rules(filterTable, firewallChain)
	return chains
}
