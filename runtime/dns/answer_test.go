package dns

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func question(name, qtype string) mdns.Question {
	return mdns.Question{Name: name, Qtype: mdns.StringToType[qtype], Qclass: mdns.ClassINET}
}

// text prints a reply the way people read zones.
func text(r Reply) string {
	if !r.Mine {
		return "  ask somebody else\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  %s\n", mdns.RcodeToString[r.Rcode])
	for i, section := range [][]mdns.RR{r.Answer, r.Ns, r.Extra} {
		for _, rr := range section {
			fmt.Fprintf(&b, "  %-9s %s\n", []string{"answer", "authority", "extra"}[i], strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	if r.Chase != "" {
		fmt.Fprintf(&b, "  and ask somebody else for %s\n", r.Chase)
	}
	return b.String()
}

// The questions of the specification's sections and the ones that resolvers ask on the way; the answers stand in the golden file.
func TestAnswersGolden(t *testing.T) {
	sections := []struct{ about, questions string }{
		{"schema version", "TXT dns-version.cluster.local.\nA dns-version.cluster.local."},
		{"a service with a cluster IP", `A web.default.svc.cluster.local.
A WEB.Default.svc.Cluster.Local.
AAAA web.default.svc.cluster.local.
SRV _http._tcp.web.default.svc.cluster.local.
SRV _dns._udp.web.default.svc.cluster.local.
SRV _http._udp.web.default.svc.cluster.local.
SRV web.default.svc.cluster.local.
A _http._tcp.web.default.svc.cluster.local.
A _tcp.web.default.svc.cluster.local.
A _sctp.web.default.svc.cluster.local.
A 10-244-0-5.web.default.svc.cluster.local.
A 10-244-0-6.web.default.svc.cluster.local.
PTR 10.0.96.10.in-addr.arpa.
A 10.0.96.10.in-addr.arpa.
PTR 5.0.244.10.in-addr.arpa.`},
		{"a headless service", `A db.default.svc.cluster.local.
A db-0.db.default.svc.cluster.local.
AAAA db-0.db.default.svc.cluster.local.
SRV db-0.db.default.svc.cluster.local.
A db-2.db.default.svc.cluster.local.
A 10-244-0-9.db.default.svc.cluster.local.
SRV _http._tcp.db.default.svc.cluster.local.
SRV _none._tcp.db.default.svc.cluster.local.
PTR 7.0.244.10.in-addr.arpa.
PTR 10.0.244.10.in-addr.arpa.`},
		{"a headless service without ready endpoints", "A unready.prod.svc.cluster.local.\nSRV unready.prod.svc.cluster.local."},
		{"a headless service that publishes what is not ready", "A eager.prod.svc.cluster.local."},
		{"two families", `A dual.prod.svc.cluster.local.
AAAA dual.prod.svc.cluster.local.
SRV _http._tcp.dual.prod.svc.cluster.local.
PTR 0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.`},
		{"aliases", `A out.default.svc.cluster.local.
CNAME out.default.svc.cluster.local.
A in.default.svc.cluster.local.
SRV in.default.svc.cluster.local.
A below.out.default.svc.cluster.local.
A circle.default.svc.cluster.local.`},
		{"pods", `A 10-244-0-5.default.pod.cluster.local.
AAAA 10-244-0-5.default.pod.cluster.local.
AAAA fd00--1.default.pod.cluster.local.
A nonsense.default.pod.cluster.local.
A a.10-244-0-5.default.pod.cluster.local.`},
		{"names on the way, which exist and have nothing", `A svc.cluster.local.
A default.svc.cluster.local.
A pod.cluster.local.
A default.pod.cluster.local.
A cluster.local.`},
		{"the zone itself", "SOA cluster.local.\nNS cluster.local.\nA ns.dns.cluster.local.\nA dns.cluster.local."},
		{"no such names", `A missing.default.svc.cluster.local.
A missing.svc.cluster.local.
A web.default.svc.cluster.local.default.svc.cluster.local.
A a.b.c.d.e.web.default.svc.cluster.local.
A elsewhere.cluster.local.`},
		{"somebody else's", "A example.com.\nA notcluster.local.\nA local.\nPTR 1.2.3.4.in-addr.arpa.\nPTR 96.10.in-addr.arpa."},
	}
	b := newBuilder(Config{}.zoneOptions(), []netip.Addr{netip.MustParseAddr("10.244.0.1")})
	b.update(example())
	zone := b.publish()
	var got strings.Builder
	for _, s := range sections {
		fmt.Fprintf(&got, "# %s\n", s.about)
		for line := range strings.Lines(s.questions) {
			qtype, name, _ := strings.Cut(strings.TrimSpace(line), " ")
			fmt.Fprintf(&got, "%s %s\n%s", qtype, name, text(zone.Answer(question(name, qtype))))
		}
	}
	path := filepath.Join("testdata", "answers.golden")
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("answers differ from %s (rewrite with -update):\n%s", path, diff)
	}
}

func TestAnswerIsPure(t *testing.T) {
	q := question("web.default.svc.cluster.example.", "A")
	first, second := Answer("cluster.example", example(), q), Answer("cluster.example", example(), q)
	if text(first) != text(second) || !strings.Contains(text(first), "10.96.0.10") {
		t.Errorf("got %s and %s", text(first), text(second))
	}
}

func TestVerifiedPods(t *testing.T) {
	for _, c := range []struct {
		mode PodRecords
		name string
		want int
	}{
		{PodsVerified, "10-244-0-5.default.pod.cluster.local.", mdns.RcodeSuccess},
		{PodsVerified, "10-244-0-5.prod.pod.cluster.local.", mdns.RcodeNameError},
		{PodsVerified, "10-244-0-99.default.pod.cluster.local.", mdns.RcodeNameError},
		{PodsInsecure, "10-244-0-99.default.pod.cluster.local.", mdns.RcodeSuccess},
		{PodsDisabled, "10-244-0-5.default.pod.cluster.local.", mdns.RcodeNameError},
	} {
		b := newBuilder(Config{PodRecords: c.mode}.zoneOptions(), nil)
		b.update(example())
		if r := b.publish().Answer(question(c.name, "A")); r.Rcode != c.want {
			t.Errorf("%s with mode %d: %s", c.name, c.mode, text(r))
		}
	}
}

// Whatever was before, the zone is that of the last state, and a zone once published never changes.
func TestAnyHistoryEndsAtTheZoneOfItsLastState(t *testing.T) {
	var questions []mdns.Question
	for i := range 4 {
		for _, ns := range []string{"a", "b"} {
			own := fmt.Sprintf("s%d.%s.svc.cluster.local.", i, ns)
			for _, name := range []string{own, "_http._tcp." + own, "h0." + own, "h1." + own} {
				questions = append(questions, question(name, "A"), question(name, "SRV"))
			}
		}
		questions = append(questions, question(fmt.Sprintf("%d.0.0.10.in-addr.arpa.", i), "PTR"),
			question(fmt.Sprintf("10-0-0-%d.a.pod.cluster.local.", i), "A"))
	}
	questions = append(questions, question("a.svc.cluster.local.", "A"), question("b.svc.cluster.local.", "A"))
	ask := func(z *Zone) string {
		var b strings.Builder
		for _, q := range questions {
			r := z.Answer(q)
			r.Ns = nil // the serial tells the history
			fmt.Fprintf(&b, "%s %s\n%s", q.Name, mdns.TypeToString[q.Qtype], text(r))
		}
		return b.String()
	}
	opts := Config{PodRecords: PodsVerified}.zoneOptions()
	rapid.Check(t, func(t *rapid.T) {
		b := newBuilder(opts, nil)
		var state State
		pick := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") }
		published := b.publish()
		said := ask(published)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			state.Services, state.Slices, state.Pods = slices.Clone(state.Services), slices.Clone(state.Slices), slices.Clone(state.Pods)
			switch ns, i := []string{"a", "b"}[pick(2)], pick(4); pick(6) {
			case 0, 1:
				made := []*corev1.Service{
					service1(ns, fmt.Sprintf("s%d", i), fmt.Sprintf("10.0.0.%d", pick(4))), headless(ns, fmt.Sprintf("s%d", i)),
					alias(ns, fmt.Sprintf("s%d", i), "s1.b.svc.cluster.local"),
				}[pick(3)]
				state.Services = append(slices.DeleteFunc(state.Services, func(s *corev1.Service) bool {
					return s.Name == made.Name && s.Namespace == made.Namespace
				}), made)
			case 2, 3:
				if n := len(state.Services); n > 0 {
					state.Slices = append(state.Slices, endpoints(state.Services[pick(n)],
						at(fmt.Sprintf("10.0.0.%d", pick(4)), []string{"", "h0", "h1"}[pick(3)], pick(3) > 0)))
				}
			case 4:
				if n := len(state.Services); n > 0 && pick(2) == 0 {
					state.Services = slices.Delete(state.Services, n-1, n)
				} else if n := len(state.Slices); n > 0 {
					state.Slices = slices.Delete(state.Slices, 0, 1)
				}
			case 5:
				if n := len(state.Pods); n > 0 && pick(3) == 0 {
					state.Pods = slices.Delete(state.Pods, 0, 1)
					break
				}
				made := pod(ns, fmt.Sprintf("p%d", pick(3)), fmt.Sprintf("10.0.0.%d", i))
				state.Pods = append(slices.DeleteFunc(state.Pods, func(p *corev1.Pod) bool {
					return p.Name == made.Name && p.Namespace == made.Namespace
				}), made)
			}
			b.update(state)
			fresh := newBuilder(opts, nil)
			fresh.update(state)
			if diff := cmp.Diff(ask(fresh.publish()), ask(b.publish())); diff != "" {
				t.Fatalf("the zone depends on what was before (-from scratch +after the walk):\n%s", diff)
			}
			if got := ask(published); got != said {
				t.Fatalf("a published zone changed:\n%s", cmp.Diff(said, got))
			}
			published = b.publish()
			said = ask(published)
		}
		if b.update(state) {
			t.Fatal("the same state again counts as a change")
		}
	})
}

func big(services int) State {
	var s State
	for i := range services {
		svc := service1(fmt.Sprintf("ns-%d", i%100), fmt.Sprintf("svc-%d", i), fmt.Sprintf("10.%d.%d.%d", 96+i>>16, i>>8&255, i&255))
		s.Services = append(s.Services, svc)
		s.Slices = append(s.Slices, endpoints(svc, at(fmt.Sprintf("10.%d.%d.%d", 100+i>>16, i>>8&255, i&255), "", true)))
	}
	return s
}

func BenchmarkUpdateOfOneService(b *testing.B) {
	for _, n := range []int{10, 10000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			s := big(n)
			other := slices.Clone(s.Slices)
			other[n/2] = endpoints(s.Services[n/2])
			builder := newBuilder(Config{}.zoneOptions(), nil)
			b.ReportAllocs()
			for b.Loop() {
				s.Slices, other = other, s.Slices
				builder.update(s)
				builder.publish()
			}
		})
	}
}

func BenchmarkAnswer(b *testing.B) {
	builder := newBuilder(Config{}.zoneOptions(), nil)
	builder.update(big(10000))
	zone := builder.publish()
	q := question("svc-500.ns-0.svc.cluster.local.", "A")
	b.ReportAllocs()
	for b.Loop() {
		if r := zone.Answer(q); len(r.Answer) != 1 {
			b.Fatal(text(r))
		}
	}
}
