package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/runtime/internal/xtables"
)

const (
	filterTable  = "filter"
	ingressChain = "-PI-" // what may come to a pod
	egressChain  = "-PE-" // where a pod may go
	rulesChain   = "-PO-" // one policy's rules for one direction
	setFamily    = "-S-"
	hashLength   = 12
)

// Set is an ipset: addresses and ranges ("hash:net"), or addresses with protocol and port ("hash:ip,port").
type Set struct {
	Type    string
	Entries []string // in order
}

// Ruleset is the text of all our chains and sets. Its rules are spelled as iptables-save spells them.
type Ruleset struct {
	chains map[xtables.Chain]string
	Sets   map[string]Set
}

// Text is the whole of it for people: first the sets as ipset restore takes them, then the chains as iptables-restore does.
func (r Ruleset) Text() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r.Sets)) {
		b.WriteString(createText(name, r.Sets[name]))
	}
	b.Write(xtables.RestoreText(slices.Collect(maps.Keys(r.chains)), r.chains, leavesFirst, 0))
	return b.String()
}

func createText(name string, s Set) string {
	var b strings.Builder
	fmt.Fprintf(&b, "create %s %s family inet\n", name, s.Type)
	for _, entry := range s.Entries {
		fmt.Fprintf(&b, "add %s %s\n", name, entry)
	}
	return b.String()
}

func leavesFirst(chain string) int {
	switch {
	case strings.Contains(chain, rulesChain):
		return 0
	case strings.Contains(chain, ingressChain), strings.Contains(chain, egressChain):
		return 1
	default:
		return 2
	}
}

// renderer gathers the rules of one state.
type renderer struct {
	prefix     string
	mark       string // "0x20000"
	pods       []podInfo
	namespaces map[string]labels.Set
	chains     map[xtables.Chain]string
	sets       map[string]Set
}

// Render returns the rules for a state.
func Render(state State, opts Options) Ruleset {
	opts = opts.withDefaults()
	r := &renderer{
		prefix: opts.ChainPrefix, mark: fmt.Sprintf("%#x", uint32(1)<<opts.MarkBit), pods: podsOf(state), namespaces: map[string]labels.Set{},
		chains: map[xtables.Chain]string{}, sets: map[string]Set{},
	}
	for _, ns := range state.Namespaces {
		r.namespaces[ns.Name] = ns.Labels
	}
	// What is already talking goes on: a policy decides who may begin.
	top := []string{" -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"}
	slices.SortFunc(r.pods, func(a, b podInfo) int {
		return cmp.Or(a.ip.Compare(b.ip), strings.Compare(a.namespace, b.namespace), strings.Compare(a.name, b.name))
	})
	policies := slices.SortedFunc(slices.Values(state.Policies), func(a, b *networkingv1.NetworkPolicy) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	for _, pod := range r.pods {
		if !pod.local {
			continue
		}
		var in, out []*networkingv1.NetworkPolicy
		for _, p := range policies {
			if p.Namespace != pod.namespace || !selects(&p.Spec.PodSelector, pod.labels) {
				continue
			}
			if governs(p, networkingv1.PolicyTypeIngress) {
				in = append(in, p)
			}
			if governs(p, networkingv1.PolicyTypeEgress) {
				out = append(out, p)
			}
		}
		// Egress is asked first; the packet goes on to the receiver's ingress when it may leave.
		if len(out) > 0 {
			top = append(top, " -s "+pod.ip.String()+"/32 -j "+r.renderPod(pod, egressChain, out))
		}
		if len(in) > 0 {
			top = append(top, " -d "+pod.ip.String()+"/32 -j "+r.renderPod(pod, ingressChain, in))
		}
	}
	slices.SortStableFunc(top[1:], func(a, b string) int { return strings.Compare(b[:3], a[:3]) }) // " -s" before " -d"
	r.set(r.prefix+xtables.PolicyChain, top)
	return Ruleset{chains: r.chains, Sets: r.sets}
}

// governs says whether a policy isolates the pods that it selects in a direction. Without types it is ingress, and egress when
// there are rules for it.
func governs(p *networkingv1.NetworkPolicy, direction networkingv1.PolicyType) bool {
	if len(p.Spec.PolicyTypes) > 0 {
		return slices.Contains(p.Spec.PolicyTypes, direction)
	}
	return direction == networkingv1.PolicyTypeIngress || len(p.Spec.Egress) > 0
}

func selects(selector *metav1.LabelSelector, of map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(labels.Set(of)) // the API lets no bad selector pass; a bad one selects nothing
}

func (r *renderer) set(chain string, rules []string) {
	var b strings.Builder
	for _, rule := range rules {
		b.WriteString("-A " + chain + rule + "\n")
	}
	r.chains[xtables.Chain{Table: filterTable, Name: chain}] = b.String()
}

func (r *renderer) hashed(family string, about ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(about, "\x00")))
	return r.prefix + family + base32.StdEncoding.EncodeToString(sum[:])[:hashLength]
}

// renderPod writes a pod's chain for one direction: the first policy that allows the packet lets it go on.
func (r *renderer) renderPod(pod podInfo, family string, policies []*networkingv1.NetworkPolicy) (chain string) {
	chain = r.hashed(family, pod.namespace, pod.name, pod.ip.String())
	comment := ` -m comment --comment "` + plain(pod.namespace+"/"+pod.name) + `"`
	self := " -s "
	if family == egressChain {
		self = " -d "
	}
	rules := []string{
		// A pod may always reach itself, which it does over the bridge when it asks for its own service.
		self + pod.ip.String() + "/32" + comment + " -j RETURN",
		comment + " -j MARK --set-xmark 0x0/" + r.mark,
	}
	for _, p := range policies {
		rules = append(rules,
			" -j "+r.renderPolicy(p, family),
			" -m mark --mark "+r.mark+"/"+r.mark+" -j RETURN")
	}
	r.set(chain, append(rules, comment+" -j DROP"))
	return chain
}

// renderPolicy writes a policy's chain for one direction, which marks what it allows.
func (r *renderer) renderPolicy(p *networkingv1.NetworkPolicy, family string) (chain string) {
	chain = r.hashed(rulesChain, family, p.Namespace, p.Name)
	id := xtables.Chain{Table: filterTable, Name: chain}
	if _, done := r.chains[id]; done {
		return chain
	}
	comment := ` -m comment --comment "` + plain(p.Namespace+"/"+p.Name) + `"`
	var rules []string
	allow := func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
		for _, peer := range r.peers(p.Namespace, peers, family) {
			for _, port := range r.ports(p, peers, ports, family) {
				rules = append(rules, peer.match(port)+comment+peer.set+port.set+" -j MARK --set-xmark "+r.mark+"/"+r.mark)
			}
		}
	}
	if family == ingressChain {
		for _, rule := range p.Spec.Ingress {
			allow(rule.From, rule.Ports)
		}
	} else {
		for _, rule := range p.Spec.Egress {
			allow(rule.To, rule.Ports)
		}
	}
	r.set(chain, rules)
	return chain
}

// peerMatch and portMatch are the two halves of a rule's conditions.
type peerMatch struct{ set string }

type portMatch struct{ proto, port, set string }

func (peerMatch) match(p portMatch) string { return p.proto + p.port }

// peers returns the ways to match the peers of a rule: one set of addresses, and one for each range with exceptions.
func (r *renderer) peers(namespace string, peers []networkingv1.NetworkPolicyPeer, family string) []peerMatch {
	if len(peers) == 0 {
		return []peerMatch{{}} // everybody
	}
	side := "src"
	if family == egressChain {
		side = "dst"
	}
	match := func(set string) peerMatch { return peerMatch{" -m set --match-set " + set + " " + side} }
	var matches []peerMatch
	members := map[string]bool{}
	for i := range peers {
		peer := &peers[i]
		if peer.IPBlock == nil {
			for _, pod := range r.pods {
				if r.isPeer(namespace, peer, pod) {
					members[pod.ip.String()] = true
				}
			}
			continue
		}
		block, err := netip.ParsePrefix(peer.IPBlock.CIDR)
		if err != nil || !block.Addr().Is4() {
			continue
		}
		if len(peer.IPBlock.Except) == 0 {
			for _, half := range halves(block) {
				members[half] = true
			}
			continue
		}
		entries := halves(block)
		for _, text := range peer.IPBlock.Except {
			if except, err := netip.ParsePrefix(text); err == nil && except.Addr().Is4() {
				for _, half := range halves(except) {
					entries = append(entries, half+" nomatch")
				}
			}
		}
		// Of its own, or an exception would hold for other peers' addresses, too.
		matches = append(matches, match(r.addSet("hash:net", entries)))
	}
	if len(members) > 0 {
		matches = append(matches, match(r.addSet("hash:net", slices.Collect(maps.Keys(members)))))
	}
	return matches
}

// halves is a range as ipset takes it: it knows no range of everything.
func halves(block netip.Prefix) []string {
	if block.Bits() == 0 {
		return []string{"0.0.0.0/1", "128.0.0.0/1"}
	}
	if block.Bits() == 32 {
		return []string{block.Addr().String()}
	}
	return []string{block.Masked().String()}
}

func (r *renderer) isPeer(namespace string, peer *networkingv1.NetworkPolicyPeer, pod podInfo) bool {
	if peer.NamespaceSelector == nil {
		if pod.namespace != namespace {
			return false
		}
	} else if !selects(peer.NamespaceSelector, r.namespaces[pod.namespace]) {
		return false
	}
	return peer.PodSelector == nil || selects(peer.PodSelector, pod.labels)
}

// addSet returns the name of the set with these entries. Equal sets are one.
func (r *renderer) addSet(kind string, entries []string) string {
	slices.Sort(entries)
	entries = slices.Compact(entries)
	name := r.hashed(setFamily, append([]string{kind}, entries...)...)
	r.sets[name] = Set{Type: kind, Entries: entries}
	return name
}

// ports returns the ways to match the ports of a rule. A named port is another number for each receiver: for ingress the pods
// that the policy selects, for egress the peers.
func (r *renderer) ports(p *networkingv1.NetworkPolicy, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, family string) []portMatch {
	if len(ports) == 0 {
		return []portMatch{{}} // every port
	}
	var matches []portMatch
	for _, port := range ports {
		protocol := corev1.ProtocolTCP
		if port.Protocol != nil {
			protocol = *port.Protocol
		}
		proto := strings.ToLower(string(protocol))
		if proto != "tcp" && proto != "udp" && proto != "sctp" {
			continue
		}
		match := portMatch{proto: " -p " + proto}
		switch {
		case port.Port == nil:
		case port.Port.Type == intstr.Int:
			match.port = fmt.Sprintf(" -m %s --dport %d", proto, port.Port.IntVal)
			if port.EndPort != nil && *port.EndPort > port.Port.IntVal {
				match.port += fmt.Sprintf(":%d", *port.EndPort)
			}
		default:
			var entries []string
			for _, pod := range r.pods {
				if !r.receives(p, peers, pod, family) {
					continue
				}
				for _, c := range pod.ports {
					if c.Name == port.Port.StrVal && (c.Protocol == protocol || c.Protocol == "" && protocol == corev1.ProtocolTCP) {
						entries = append(entries, fmt.Sprintf("%s,%s:%d", pod.ip, proto, c.ContainerPort))
					}
				}
			}
			if len(entries) == 0 {
				continue
			}
			match.set = " -m set --match-set " + r.addSet("hash:ip,port", entries) + " dst,dst"
		}
		matches = append(matches, match)
	}
	return matches
}

func (r *renderer) receives(p *networkingv1.NetworkPolicy, peers []networkingv1.NetworkPolicyPeer, pod podInfo, family string) bool {
	if family == ingressChain {
		return pod.namespace == p.Namespace && selects(&p.Spec.PodSelector, pod.labels)
	}
	if len(peers) == 0 {
		return true
	}
	return slices.ContainsFunc(peers, func(peer networkingv1.NetworkPolicyPeer) bool {
		if peer.IPBlock != nil {
			block, err := netip.ParsePrefix(peer.IPBlock.CIDR)
			return err == nil && block.Contains(pod.ip) // its exceptions are the peers' set's to make
		}
		return r.isPeer(p.Namespace, &peer, pod)
	})
}

// maxName leaves room in a comment, which has at most 255 bytes.
const maxName = 200

// plain keeps a name from being more than a name in the text of a rule.
func plain(name string) string {
	name = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-._:/", c) {
			return c
		}
		return '?'
	}, name)
	return name[:min(len(name), maxName)]
}
