package policy

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/shiplog/shiplog/runtime/internal/nstest"
	"github.com/shiplog/shiplog/runtime/network"
	"github.com/shiplog/shiplog/runtime/proxy"
)

// Whoever comes first: policies are asked before services, and both before what accepts the pods' traffic.
func TestWhoIsAskedFirst(t *testing.T) {
	nstest.Need(t, "iptables", "ipset")
	quiet := slog.New(slog.DiscardHandler)
	for _, order := range []string{"n s p", "n p s", "s n p", "s p n", "p n s", "p s n"} {
		t.Run(order, func(t *testing.T) {
			n, err := network.New(network.Config{Bridge: "slbr0", PodCIDR: netip.MustParsePrefix("10.244.0.0/24"), StateDir: t.TempDir(), Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			s, err := proxy.New(proxy.Options{Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			p := start(t)
			t.Cleanup(func() {
				if err := s.Teardown(context.Background()); err != nil {
					t.Error(err)
				}
				if err := n.Teardown(context.Background()); err != nil {
					t.Error(err)
				}
			})
			for who := range strings.FieldsSeq(order) {
				switch who {
				case "n":
					err = n.Setup(t.Context())
				case "s":
					err = s.Apply(t.Context(), proxy.State{})
				case "p":
					err = p.Apply(t.Context(), State{})
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			var asked []string
			for line := range strings.Lines(output(t, "iptables", "-S", "FORWARD")) {
				if _, target, ok := strings.Cut(strings.TrimSpace(line), " -j "); ok {
					asked = append(asked, strings.TrimPrefix(target, "SHIPLOG-"))
				}
			}
			if want := strings.Fields("POLICY FIREWALL SERVICES EXTERNALS FORWARD NET-FORWARD"); !slices.Equal(asked, want) {
				t.Errorf("asked in the order %v, want %v", asked, want)
			}
		})
	}
}

func TestVerifyRepairs(t *testing.T) {
	nstest.Need(t, "iptables", "ipset")
	e := start(t)
	if repaired, err := e.Verify(t.Context()); repaired || err != nil {
		t.Errorf("before the first state: %v, %v", repaired, err)
	}
	apply(t, e, example(policy("default", "deny", nil, deny)))
	want := saved(t)
	if repaired, err := e.Verify(t.Context()); repaired || err != nil {
		t.Errorf("with all in place: %v, %v", repaired, err)
	}
	output(t, "iptables", "-F")
	if repaired, err := e.Verify(t.Context()); !repaired || err != nil {
		t.Errorf("after a flush: %v, %v", repaired, err)
	}
	if got := saved(t); got != want {
		t.Errorf("after the repair:\n%s\nbefore:\n%s", got, want)
	}
}
