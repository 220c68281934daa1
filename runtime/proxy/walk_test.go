package proxy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"
)

// walker changes a state at random, the way a cluster does: objects come, change and go, and are never changed in place.
type walker struct {
	pick  func(n int) int // a number below n
	state State
	seq   int
}

func (w *walker) step() {
	s := &w.state
	s.Services, s.Slices, s.HostPorts = slices.Clone(s.Services), slices.Clone(s.Slices), slices.Clone(s.HostPorts)
	switch w.pick(12) {
	case 0, 1, 2: // a service comes or is changed
		svc := w.service()
		s.Services = slices.DeleteFunc(s.Services, func(o *corev1.Service) bool { return o.Name == svc.Name })
		s.Services = append(s.Services, svc)
	case 3, 4, 5, 6, 7: // its endpoints come or are changed
		if len(s.Services) > 0 {
			made := slice(s.Services[w.pick(len(s.Services))], w.endpoints()...)
			made.Name = fmt.Sprintf("%s-%d", made.Labels[discoveryv1.LabelServiceName], w.pick(2))
			s.Slices = slices.DeleteFunc(s.Slices, func(o *discoveryv1.EndpointSlice) bool { return o.Name == made.Name })
			s.Slices = append(s.Slices, made)
		}
	case 8:
		if n := len(s.Services); n > 0 {
			i := w.pick(n)
			s.Services = slices.Delete(s.Services, i, i+1)
		}
	case 9:
		if n := len(s.Slices); n > 0 {
			i := w.pick(n)
			s.Slices = slices.Delete(s.Slices, i, i+1)
		}
	case 10:
		if n := len(s.HostPorts); n > 0 && w.pick(2) == 0 {
			s.HostPorts = slices.Delete(s.HostPorts, n-1, n)
			break
		}
		s.HostPorts = append(s.HostPorts, HostPort{
			Pod: fmt.Sprintf("default/p%d", w.pick(3)), HostPort: uint16(8000 + w.pick(3)), ContainerPort: 80,
			PodIP: netip.AddrFrom4([4]byte{10, 244, 0, byte(w.pick(5) + 2)}), Protocol: []corev1.Protocol{"", "TCP", "UDP"}[w.pick(3)],
		})
		s.HostPorts = slices.Compact(s.HostPorts)
	case 11:
		s.NodeIPs = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(w.pick(2))})}
	}
}

func (w *walker) service() *corev1.Service {
	w.seq++
	i := w.pick(6)
	svc := service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.96.%d.%d", i, 10+i%3))
	switch w.pick(6) {
	case 0:
		svc.Spec.ClusterIP = corev1.ClusterIPNone
	case 1:
		nodePort(int32(30000 + 20*i))(svc)
	case 2:
		balancer(int32(30000+20*i), fmt.Sprintf("198.51.100.%d", i))(svc)
		if w.pick(2) == 0 {
			svc.Spec.LoadBalancerSourceRanges = []string{"203.0.113.0/24", "192.0.2.1/32"}
		}
	case 3:
		svc.Spec.ExternalIPs = []string{fmt.Sprintf("198.51.100.%d", 10+i)}
	}
	if w.pick(3) == 0 {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{
			Name: "more", Protocol: []corev1.Protocol{"UDP", "SCTP", "TCP"}[w.pick(3)], Port: 90,
		})
	}
	if w.pick(3) == 0 {
		sticky(int32(60 * (1 + w.pick(2))))(svc)
	}
	if w.pick(3) == 0 {
		localOutside(svc)
	}
	if w.pick(4) == 0 {
		localInside(svc)
	}
	svc.ResourceVersion, svc.UID = fmt.Sprint(w.seq), "u"
	return svc
}

func (w *walker) endpoints() []discoveryv1.Endpoint {
	var eps []discoveryv1.Endpoint
	for range w.pick(4) {
		eps = append(eps, ep(fmt.Sprintf("10.244.%d.%d", w.pick(2), 2+w.pick(4)),
			[]epOption{on("n1"), on("n2")}[w.pick(2)], []epOption{func(*discoveryv1.Endpoint) {}, notReady, leaving}[w.pick(3)]))
	}
	return eps
}

// Whatever happened before, the rules are those of the last state; the transactions that lead from one to the next are such
// that iptables accepts them; no chain is there that nothing leads to; and when all is gone, only what was there at the
// beginning is left.
func TestAnyHistoryEndsAtTheRulesOfItsLastState(t *testing.T) {
	opts, err := Options{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		w := &walker{pick: func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") }, state: state()}
		r, k := newRenderer(opts), newKernel()
		atOnce := rapid.IntRange(0, 3).Draw(t, "chains in one transaction")
		follow := func(s State) {
			r.update(s)
			if err := k.restore(string(r.delta(atOnce))); err != nil {
				t.Fatal(err)
			}
			r.settle()
			fresh := newKernel()
			if err := fresh.restore(Render(s, opts).Text()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(fresh.String(), k.String()); diff != "" {
				t.Fatalf("the rules depend on what was before (-from scratch +after the walk):\n%s", diff)
			}
			if lost := k.unreachable(roots(opts)); len(lost) > 0 {
				t.Fatalf("nothing leads to %v", lost)
			}
		}
		follow(w.state)
		empty := k.String()
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			w.step()
			follow(w.state)
		}
		follow(state())
		if diff := cmp.Diff(empty, k.String()); diff != "" {
			t.Fatalf("when all is gone the tables are not as at the beginning:\n%s", diff)
		}
	})
}

// roots are the chains that jumps from everybody's chains, or marks, lead to.
func roots(opts Options) map[string][]string {
	found := map[string][]string{"nat": {opts.ChainPrefix + markChain}}
	for _, jump := range (&Proxy{opts: opts}).jumps() {
		found[jump.Table] = append(found[jump.Table], jump.To)
	}
	return found
}

func TestAChangeRewritesWhatItConcerns(t *testing.T) {
	s := big(1000)
	opts, _ := Options{}.withDefaults()
	r := newRenderer(opts)
	r.update(s)
	r.settle()
	// Given the same state again, nothing is written
	r.update(s)
	if delta := r.delta(0); len(delta) > 0 {
		t.Errorf("an unchanged state wrote %s", delta)
	}
	// When one of three endpoints of one service goes, then only its chain and the service's are written
	s.Slices = slices.Clone(s.Slices)
	s.Slices[500] = slice(s.Services[500], s.Slices[500].Endpoints[:2]...)
	r.update(s)
	var written []string
	for id := range r.changed {
		written = append(written, id.Name)
	}
	slices.Sort(written)
	if len(written) != 2 || !strings.Contains(written[0], "-SEP-") || !strings.Contains(written[1], "-SVC-") {
		t.Errorf("one endpoint's end rewrote %v", written)
	}
}

func TestNamesCannotWriteRules(t *testing.T) {
	svc := service("web\"\n-A INPUT -j ACCEPT\n#", "10.96.0.10", nodePort(30001))
	text := Render(state(svc, HostPort{
		Pod: "x\n-A INPUT -j ACCEPT", HostPort: 1, PodIP: netip.MustParseAddr("10.244.0.2"), ContainerPort: 1,
	}), Options{}).Text()
	if err := newKernel().restore(text); err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "-A INPUT") || strings.Count(line, `"`)%2 == 1 {
			t.Errorf("a name became the rule %s", line)
		}
	}
}

func seeded(seed uint64) func(int) int {
	rng := rand.New(rand.NewPCG(seed, 1))
	return rng.IntN
}
