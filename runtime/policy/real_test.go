package policy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/runtime/internal/nstest"
	"github.com/shiplog/shiplog/runtime/network"
)

func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// saved is what the kernel has: chains and rules that are not built in, and the names of sets.
func saved(t testing.TB) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(output(t, "iptables-save", "-t", "filter")) {
		if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":") && strings.Contains(line, " - ") {
			line, _, _ = strings.Cut(line, " [")
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + output(t, "ipset", "list", "-name")
}

func start(t *testing.T) *Enforcer {
	t.Helper()
	e, err := New(Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Teardown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

func apply(t *testing.T, e *Enforcer, s State) {
	t.Helper()
	if err := e.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

func TestPoliciesInTheKernel(t *testing.T) {
	nstest.Need(t, "iptables", "ipset")
	before := saved(t)
	n, err := network.New(network.Config{
		Bridge: "slbr0", PodCIDR: netip.MustParsePrefix("10.244.0.0/24"), StateDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Teardown(context.Background()); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(before, saved(t)); diff != "" {
			t.Errorf("policies and network are gone and left:\n%s", diff)
		}
	})
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	spaces, s := map[string]*nstest.NS{"node": nil}, State{NodeName: "n1", Namespaces: []*corev1.Namespace{namespace("default", prod)}}
	addrs := map[string]string{}
	for name, labels := range map[string]map[string]string{"web": web, "store": store, "other": nil} {
		spaces[name] = nstest.New(t)
		addr, err := n.AttachPod(t.Context(), name, spaces[name].Path)
		if err != nil {
			t.Fatal(err)
		}
		addrs[name] = net.JoinHostPort(addr.IP.String(), "8080")
		s.Pods = append(s.Pods, pod("default", name, addr.IP.String(), labels))
		var l net.Listener
		if err := spaces[name].Do(func() (err error) { l, err = net.Listen("tcp", addrs[name]); return err }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	e := start(t)
	// reaches dials from one to the other; what is dropped gives no answer, so a "no" takes as long as the patience.
	reaches := func(from, to string, patience time.Duration) bool {
		dial := func() error {
			conn, err := net.DialTimeout("tcp", addrs[to], patience)
			if err == nil {
				conn.Close()
			}
			return err
		}
		if spaces[from] == nil {
			return dial() == nil
		}
		return spaces[from].Do(dial) == nil
	}
	expect := func(given, from, to string, want bool) {
		t.Helper()
		patience := 10 * time.Second
		if !want {
			patience = 300 * time.Millisecond
		}
		if got := reaches(from, to, patience); got != want {
			t.Errorf("%s: %s reaches %s: %v", given, from, to, got)
		}
	}
	apply(t, e, s)
	expect("without policies", "other", "store", true)

	s.Policies = []*networkingv1.NetworkPolicy{policy("default", "web-to-store", store, networkingv1.NetworkPolicySpec{
		Ingress: []networkingv1.NetworkPolicyIngressRule{{
			From: []networkingv1.NetworkPolicyPeer{podPeer(web)}, Ports: []networkingv1.NetworkPolicyPort{port(corev1.ProtocolTCP, intstr.FromString("http"))},
		}},
	})}
	apply(t, e, s)
	expect("a policy for the web", "web", "store", true)
	expect("a policy for the web", "other", "store", false)
	expect("the node's probes", "node", "store", true)
	expect("a pod that no policy selects", "other", "web", true)
	expect("a pod and itself", "store", "store", true)
	rules := saved(t)
	if want := Render(s, Options{}); !strings.Contains(rules, strings.TrimSpace(lastLine(want.Text()))) {
		t.Errorf("the kernel does not spell the rules as they were rendered:\n%s\n%s", rules, want.Text())
	}

	// When the labels change, then who may come changes
	s.Pods = slices.Clone(s.Pods)
	for i, p := range s.Pods {
		s.Pods[i] = pod("default", p.Name, p.Status.PodIP, map[string]map[string]string{"web": nil, "store": store, "other": web}[p.Name])
	}
	apply(t, e, s)
	expect("labels exchanged", "web", "store", false)
	expect("labels exchanged", "other", "store", true)

	s.Policies = append(s.Policies, policy("default", "no-way-out", web, networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
	}))
	apply(t, e, s)
	expect("no way out", "other", "store", false)

	// A proxy of services, or another agent, that starts later must not come before the policies
	successor := start(t)
	s.Policies = s.Policies[:1]
	apply(t, successor, s)
	expect("a successor", "other", "store", true)
	expect("a successor", "web", "store", false)
	s.Policies = nil
	apply(t, successor, s)
	expect("no policies left", "web", "store", true)
	if sets := output(t, "ipset", "list", "-name"); sets != "" {
		t.Errorf("sets are left: %s", sets)
	}
	if err := successor.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func lastLine(text string) string {
	var last string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "-A") {
			last = line
		}
	}
	return last
}

func TestMissingPrograms(t *testing.T) {
	if _, err := New(Options{IPSet: "ipset-that-is-not-there"}); !errors.Is(err, ErrNoIPSet) {
		t.Errorf("%v", err)
	}
	if _, err := New(Options{IPTables: "iptables-that-is-not-there"}); err == nil || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("%v", err)
	}
	if _, err := New(Options{ChainPrefix: "A-B"}); err == nil {
		t.Error("a prefix with a dash is taken")
	}
}
