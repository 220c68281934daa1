package proxy

import (
	"context"
	"log/slog"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shiplog/shiplog/runtime/internal/nstest"
)

func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// saved is what iptables-save says of everything but the built-in chains' policies.
func saved(t testing.TB, program string) string {
	t.Helper()
	tables := map[string]map[string][]string{}
	for _, table := range []string{"filter", "nat"} {
		tables[table] = map[string][]string{}
		for line := range strings.Lines(output(t, program+"-save", "-t", table)) {
			line = strings.TrimSpace(line)
			words := strings.Fields(line)
			switch {
			case strings.HasPrefix(line, ":") && words[1] == "-":
				tables[table][words[0][1:]] = []string{}
			case strings.HasPrefix(line, "-A"):
				tables[table][words[1]] = append(tables[table][words[1]], line)
			}
		}
	}
	// nf_tables makes a table's built-in chains when it is first used; without rules they are as good as none.
	for _, chains := range tables {
		for chain, rules := range chains {
			if rules == nil {
				delete(chains, chain)
			}
		}
	}
	return format(tables)
}

// ours leaves out the chains that we share with others.
func ours(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if strings.HasPrefix(words[1], ":SHIPLOG-") || len(words) > 2 && strings.HasPrefix(words[2], "SHIPLOG-") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func start(t testing.TB, opts Options) *Proxy {
	t.Helper()
	opts.Logger = slog.New(slog.DiscardHandler)
	p, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Teardown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

func apply(t testing.TB, p *Proxy, s State) {
	t.Helper()
	if err := p.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// The kernel's tables, read back by iptables-save, say at each step of a walk exactly what was rendered, and at its end, with
// the proxy gone, nothing.
func TestWalkInTheKernel(t *testing.T) {
	for _, program := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(program, func(t *testing.T) {
			nstest.Need(t, program, program+"-save")
			before := saved(t, program)
			p := start(t, Options{IPTables: program})
			w := &walker{pick: seeded(7), state: state()}
			for range 60 {
				w.step()
				apply(t, p, w.state)
				want := newKernel()
				if err := want.restore(Render(w.state, Options{}).Text()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want.String(), ours(saved(t, program))); diff != "" {
					t.Fatalf("by %s the kernel says something else (-rendered +saved):\n%s", p.Backend(), diff)
				}
			}
			if err := p.Teardown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, saved(t, program)); diff != "" {
				t.Errorf("the proxy is gone and left:\n%s", diff)
			}
		})
	}
}

func TestAFormerProcessLeftChains(t *testing.T) {
	nstest.Need(t, "iptables")
	web := service("web", "10.96.0.10", nodePort(30001))
	other := service("other", "10.96.0.11")
	// Given a proxy that was killed, with rules of a service that is gone by now
	apply(t, start(t, Options{}), state(web, slice(web, ep("10.244.0.5")), other, slice(other, ep("10.244.0.6"))))
	// When another takes over
	apply(t, start(t, Options{}), state(web, slice(web, ep("10.244.0.5"))))
	// Then the tables say what the state says, and nobody else's chains were touched
	want := newKernel()
	if err := want.restore(Render(state(web, slice(web, ep("10.244.0.5"))), Options{}).Text()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), ours(saved(t, "iptables"))); diff != "" {
		t.Error(diff)
	}
}

func TestOthersChainsAreLeftAlone(t *testing.T) {
	nstest.Need(t, "iptables")
	for _, chain := range []string{"KUBE-SERVICES", "SHIPLOG-NET-MASQ", "SHIPLOG2-SERVICES", "DOCKER"} {
		output(t, "iptables", "-t", "nat", "-N", chain)
		t.Cleanup(func() { output(t, "iptables", "-t", "nat", "-X", chain) })
	}
	before := saved(t, "iptables")
	p := start(t, Options{})
	apply(t, p, state())
	if err := p.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, saved(t, "iptables")); diff != "" {
		t.Error(diff)
	}
}

func TestVerifyRepairs(t *testing.T) {
	nstest.Need(t, "iptables")
	web := service("web", "10.96.0.10", nodePort(30001))
	p := start(t, Options{})
	if repaired, err := p.Verify(t.Context()); repaired || err != nil {
		t.Errorf("before the first state: %v, %v", repaired, err)
	}
	apply(t, p, state(web, slice(web, ep("10.244.0.5"))))
	want := saved(t, "iptables")
	if repaired, err := p.Verify(t.Context()); repaired || err != nil {
		t.Errorf("with all in place: %v, %v", repaired, err)
	}
	for _, damage := range []string{"iptables -t nat -F", "iptables -F && iptables -X", "iptables -D FORWARD 1"} {
		output(t, "sh", "-c", damage)
		if repaired, err := p.Verify(t.Context()); !repaired || err != nil {
			t.Errorf("after %s: %v, %v", damage, repaired, err)
		}
		if diff := cmp.Diff(want, saved(t, "iptables")); diff != "" {
			t.Errorf("after %s:\n%s", damage, diff)
		}
	}
}

func TestAFailedApplySaysWhy(t *testing.T) {
	nstest.Need(t, "iptables")
	web := service("web", "10.96.0.10")
	p := start(t, Options{})
	apply(t, p, state(web, slice(web, ep("10.244.0.5"))))
	// Given rules that iptables refuses
	p.rules.set(chainID{Table: natTable, Name: "SHIPLOG-MARK-MASQ"}, "-A SHIPLOG-MARK-MASQ -j SHIPLOG-NOWHERE\n")
	err := p.Apply(t.Context(), state(web))
	if err == nil || !strings.Contains(err.Error(), "nf_tables") || !strings.Contains(err.Error(), "SHIPLOG-NOWHERE") {
		t.Errorf("the error must name the backend and the line: %v", err)
	}
	// When the cause is gone, then the next call makes everything right
	p.rules = newRenderer(p.opts)
	apply(t, p, state(web))
	want := newKernel()
	if err := want.restore(Render(state(web), Options{}).Text()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), ours(saved(t, "iptables"))); diff != "" {
		t.Error(diff)
	}
}

func TestUnusableOptions(t *testing.T) {
	for _, c := range []struct {
		given string
		opts  Options
		want  string
	}{
		{"a prefix too long", Options{ChainPrefix: "ABCDEFGHIJKLM"}, "28"},
		{"a prefix with a dash", Options{ChainPrefix: "A-B"}, "capital letters"},
		{"a mark bit too high", Options{MasqueradeBit: 40}, "0 to 31"},
		{"no iptables", Options{IPTables: "iptables-that-is-not-there"}, "not installed"},
	} {
		if _, err := New(c.opts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.given, err)
		}
	}
}
