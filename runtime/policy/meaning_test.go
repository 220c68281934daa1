package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/runtime/internal/xtables"
)

// packet is the first one of a connection.
type packet struct {
	from, to netip.Addr
	proto    string
	port     int
}

// walk leads a packet through the rendered rules as the kernel would, and says whether it comes out.
func walk(r Ruleset, p packet) bool {
	mark := false
	var visit func(chain string) (dropped bool)
	visit = func(chain string) bool {
		for line := range strings.Lines(r.chains[xtables.Chain{Table: "filter", Name: chain}]) {
			words := strings.Fields(line)[2:]
			target, matches := "", true
			for i := 0; i < len(words); i++ {
				arg := func() string { i++; return words[i] }
				switch words[i] {
				case "-s":
					matches = netip.MustParsePrefix(arg()).Contains(p.from) && matches
				case "-d":
					matches = netip.MustParsePrefix(arg()).Contains(p.to) && matches
				case "-p":
					matches = arg() == p.proto && matches
				case "--dport":
					first, last, isRange := strings.Cut(arg(), ":")
					if !isRange {
						last = first
					}
					low, _ := strconv.Atoi(first)
					high, _ := strconv.Atoi(last)
					matches = matches && low <= p.port && p.port <= high
				case "--match-set":
					name := arg()
					matches = inSet(r.Sets[name], p, arg()) && matches
				case "--mark":
					arg()
					matches = matches && mark
				case "--ctstate":
					arg()
					matches = false // a first packet is of no known connection
				case "--comment", "-m":
					arg()
				case "-j":
					target = strings.Join(words[i+1:], " ")
					i = len(words)
				default:
					panic("the model does not know " + words[i] + " in " + line)
				}
			}
			switch {
			case !matches:
			case target == "RETURN":
				return false
			case target == "DROP":
				return true
			case strings.HasPrefix(target, "MARK --set-xmark 0x0/"):
				mark = false
			case strings.HasPrefix(target, "MARK"):
				mark = true
			default:
				if visit(target) {
					return true
				}
			}
		}
		return false
	}
	return !visit("SHIPLOG-POLICY")
}

// inSet looks a packet up as ipset does: the longest range that holds the address decides.
func inSet(s Set, p packet, side string) bool {
	if s.Type == "hash:ip,port" {
		return slices.Contains(s.Entries, fmt.Sprintf("%s,%s:%d", p.to, p.proto, p.port))
	}
	addr := p.from
	if side == "dst" {
		addr = p.to
	}
	best, in := -1, false
	for _, entry := range s.Entries {
		text, nomatch := strings.CutSuffix(entry, " nomatch")
		if !strings.Contains(text, "/") {
			text += "/32"
		}
		if prefix := netip.MustParsePrefix(text); prefix.Contains(addr) && prefix.Bits() > best {
			best, in = prefix.Bits(), !nomatch
		}
	}
	return in
}

// allowed is what the API's documentation says, word for word and as slowly as possible.
func allowed(s State, p packet) bool {
	if p.from == p.to {
		return true
	}
	podAt := func(addr netip.Addr) *corev1.Pod {
		for _, pod := range s.Pods {
			if pod.Status.PodIP == addr.String() {
				return pod
			}
		}
		return nil
	}
	peerIs := func(ns string, peer networkingv1.NetworkPolicyPeer, addr netip.Addr) bool {
		if peer.IPBlock != nil {
			in := netip.MustParsePrefix(peer.IPBlock.CIDR).Contains(addr)
			for _, except := range peer.IPBlock.Except {
				in = in && !netip.MustParsePrefix(except).Contains(addr)
			}
			return in
		}
		pod := podAt(addr)
		if pod == nil {
			return false
		}
		if peer.NamespaceSelector == nil && pod.Namespace != ns {
			return false
		}
		if peer.NamespaceSelector != nil {
			var of map[string]string
			for _, namespace := range s.Namespaces {
				if namespace.Name == pod.Namespace {
					of = namespace.Labels
				}
			}
			if !matchLabels(peer.NamespaceSelector, of) {
				return false
			}
		}
		return peer.PodSelector == nil || matchLabels(peer.PodSelector, pod.Labels)
	}
	portIs := func(port networkingv1.NetworkPolicyPort) bool {
		if strings.ToLower(string(*port.Protocol)) != p.proto {
			return false
		}
		if port.Port.Type == intstr.Int {
			last := port.Port.IntVal
			if port.EndPort != nil {
				last = *port.EndPort
			}
			return int(port.Port.IntVal) <= p.port && p.port <= int(last)
		}
		receiver := podAt(p.to)
		if receiver == nil {
			return false
		}
		for _, c := range receiver.Spec.Containers[0].Ports {
			if c.Name == port.Port.StrVal && int(c.ContainerPort) == p.port {
				return true
			}
		}
		return false
	}
	one := func(pod *corev1.Pod, direction networkingv1.PolicyType, peer netip.Addr) bool {
		if pod == nil || pod.Spec.NodeName != s.NodeName {
			return true
		}
		isolated, ok := false, false
		for _, np := range s.Policies {
			if np.Namespace != pod.Namespace || !matchLabels(&np.Spec.PodSelector, pod.Labels) || !slices.Contains(np.Spec.PolicyTypes, direction) {
				continue
			}
			isolated = true
			rule := func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
				who := len(peers) == 0 || slices.ContainsFunc(peers, func(x networkingv1.NetworkPolicyPeer) bool { return peerIs(np.Namespace, x, peer) })
				ok = ok || who && (len(ports) == 0 || slices.ContainsFunc(ports, portIs))
			}
			if direction == networkingv1.PolicyTypeIngress {
				for _, r := range np.Spec.Ingress {
					rule(r.From, r.Ports)
				}
			} else {
				for _, r := range np.Spec.Egress {
					rule(r.To, r.Ports)
				}
			}
		}
		return !isolated || ok
	}
	return one(podAt(p.from), networkingv1.PolicyTypeEgress, p.to) && one(podAt(p.to), networkingv1.PolicyTypeIngress, p.from)
}

func matchLabels(s *metav1.LabelSelector, of map[string]string) bool {
	return labels.SelectorFromSet(s.MatchLabels).Matches(labels.Set(of))
}

// Whatever the policies, the rules let through exactly the packets that the API's documentation allows.
func TestTheRulesMeanWhatThePoliciesSay(t *testing.T) {
	apps := []map[string]string{nil, web, store}
	envs := []map[string]string{nil, prod}
	rapid.Check(t, func(t *rapid.T) {
		pick := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") }
		s := State{NodeName: "n1"}
		for i := range 2 {
			s.Namespaces = append(s.Namespaces, namespace(fmt.Sprintf("ns%d", i), envs[pick(2)]))
		}
		addrs := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("10.244.0.200")}
		for i := range 5 {
			ip := netip.AddrFrom4([4]byte{10, 244, byte(i % 2), byte(i + 2)})
			made := pod(fmt.Sprintf("ns%d", pick(2)), fmt.Sprintf("p%d", i), ip.String(), apps[pick(3)])
			if pick(4) == 0 {
				made.Spec.NodeName = "n2"
			}
			made.Spec.Containers[0].Ports[0].ContainerPort = int32(8080 + pick(2))
			s.Pods, addrs = append(s.Pods, made), append(addrs, ip)
		}
		peers := func() (found []networkingv1.NetworkPolicyPeer) {
			for range pick(4) {
				found = append(found, []networkingv1.NetworkPolicyPeer{
					podPeer(apps[pick(3)]), namespacePeer(envs[pick(2)]), blockPeer("0.0.0.0/0"), blockPeer("10.244.0.0/16", "10.244.0.0/24"),
					blockPeer("10.244.0.0/25"), blockPeer("192.0.2.7/32"), blockPeer("0.0.0.0/0", "10.0.0.0/8", "192.0.2.0/24"),
					{NamespaceSelector: &metav1.LabelSelector{MatchLabels: envs[pick(2)]}, PodSelector: &metav1.LabelSelector{MatchLabels: apps[pick(3)]}},
				}[pick(8)])
			}
			return found
		}
		ports := func() (found []networkingv1.NetworkPolicyPort) {
			for range pick(3) {
				found = append(found, []networkingv1.NetworkPolicyPort{
					port(corev1.ProtocolTCP, intstr.FromInt32(8080)), port(corev1.ProtocolUDP, intstr.FromInt32(5353)), portRange(80, 8080),
					port(corev1.ProtocolTCP, intstr.FromString("http")), port(corev1.ProtocolUDP, intstr.FromString("dns")),
				}[pick(5)])
			}
			return found
		}
		for i := range pick(4) {
			spec := networkingv1.NetworkPolicySpec{}
			for range pick(3) {
				spec.Ingress = append(spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: peers(), Ports: ports()})
			}
			for range pick(3) {
				spec.Egress = append(spec.Egress, networkingv1.NetworkPolicyEgressRule{To: peers(), Ports: ports()})
			}
			spec.PolicyTypes = [][]networkingv1.PolicyType{
				{networkingv1.PolicyTypeIngress}, {networkingv1.PolicyTypeEgress}, {networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			}[pick(3)]
			s.Policies = append(s.Policies, policy(fmt.Sprintf("ns%d", pick(2)), fmt.Sprintf("np%d", i), apps[pick(3)], spec))
		}
		rules := Render(s, Options{})
		for _, from := range addrs {
			for _, to := range addrs {
				for _, p := range []packet{{from, to, "tcp", 80}, {from, to, "tcp", 8080}, {from, to, "tcp", 8081}, {from, to, "udp", 5353}, {from, to, "sctp", 8080}} {
					if got, want := walk(rules, p), allowed(s, p); got != want {
						t.Fatalf("%v passes: %v, and should: %v, by these rules:\n%s", p, got, want, rules.Text())
					}
				}
			}
		}
	})
}
