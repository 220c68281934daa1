package network

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/shiplog/shiplog/runtime/internal/nstest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

func config(t testing.TB) Config {
	return Config{
		Bridge: "slbr0", PodCIDR: netip.MustParsePrefix("10.99.0.0/24"), ClusterCIDR: netip.MustParsePrefix("10.96.0.0/14"),
		ServiceCIDR: netip.MustParsePrefix("10.200.0.0/16"),
		StateDir:    t.TempDir(), Logger: slog.New(slog.DiscardHandler),
	}
}

func start(t testing.TB, cfg Config) *Network {
	t.Helper()
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Teardown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n
}

func attach(t testing.TB, n *Network, pod string, ns *nstest.NS) Address {
	t.Helper()
	addr, err := n.AttachPod(t.Context(), pod, ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// machine is what a careless node would leave traces in.
func machine(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	noise := regexp.MustCompile(`(?m)^#.*\n|\[\d+:\d+\]`)
	for _, table := range []string{"filter", "nat"} {
		out := noise.ReplaceAllString(output(t, "iptables-save", "-t", table), "")
		// nf_tables makes a table's built-in chains when it is first used; without rules they are as good as none.
		for _, line := range strings.Split(out, "\n") {
			if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":") && strings.Contains(line, " - ") {
				b.WriteString(table + " " + line + "\n")
			}
		}
	}
	b.WriteString(regexp.MustCompile(`(?m)^\d+: `).ReplaceAllString(output(t, "ip", "-o", "link"), ""))
	b.WriteString(output(t, "ip", "route"))
	for _, s := range machineSettings {
		value, err := readSysctl(s.sysctl)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(s.name + "=" + value + "\n")
	}
	return b.String()
}

func TestRulesGolden(t *testing.T) {
	cfg := config(t)
	cfg.ChainPrefix = "SHIPLOG"
	path := filepath.Join("testdata", "rules.golden")
	got := rules(cfg)
	for _, j := range jumps(cfg) {
		got += j.String() + "\n"
	}
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("rules differ from %s (rewrite with -update):\n%s", path, diff)
	}
}

func TestUnusableConfigurations(t *testing.T) {
	for _, c := range []struct {
		given  string
		change func(*Config)
		want   string
	}{
		{"a range too small", func(c *Config) { c.PodCIDR = netip.MustParsePrefix("10.0.0.0/31") }, "unusable pod CIDR"},
		{"an IPv6 range", func(c *Config) { c.PodCIDR = netip.MustParsePrefix("fd00::/64") }, "unusable pod CIDR"},
		{"no range", func(c *Config) { c.PodCIDR = netip.Prefix{} }, "unusable pod CIDR"},
		{"a bridge name too long", func(c *Config) { c.Bridge = "a-bridge-with-a-long-name" }, "at most 15 bytes"},
		{"a chain prefix too long", func(c *Config) { c.ChainPrefix = "AVERYLONGPREFIXINDEED" }, "28"},
		{"a chain prefix that is part of another's", func(c *Config) { c.ChainPrefix = "SHIPLOG-2" }, "capital letters and digits"},
		{"no state directory", func(c *Config) { c.StateDir = "" }, "directory"},
		{"no iptables", func(c *Config) { c.IPTables = "iptables-that-is-not-there" }, "not installed"},
	} {
		cfg := config(t)
		c.change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.given, err)
		}
	}
}

func TestSetupAndTeardownLeaveNothing(t *testing.T) {
	nstest.Need(t, "iptables", "ip")
	if err := writeSysctl("net/ipv4/ip_forward", "0"); err != nil {
		t.Fatal(err)
	}
	// nf_tables and the bridge module make things of their own at first use, which is not ours to undo.
	output(t, "iptables-save")
	before := machine(t)
	n, err := New(config(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	up := machine(t)
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal("a second setup:", err)
	}
	if diff := cmp.Diff(up, machine(t)); diff != "" {
		t.Errorf("a second setup changed the machine:\n%s", diff)
	}
	if !strings.Contains(up, "ip_forward=1") || !strings.Contains(up, "SHIPLOG-NET-MASQ") {
		t.Errorf("setup did not do its work:\n%s", up)
	}
	attach(t, n, "a", nstest.New(t))
	if err := n.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, machine(t)); diff != "" {
		t.Errorf("teardown left the machine changed:\n%s", diff)
	}
	if left, _ := os.ReadDir(n.cfg.StateDir); len(left) > 0 {
		t.Errorf("teardown left %v in the state directory", left)
	}
	if err := n.Teardown(t.Context()); err != nil {
		t.Error("a second teardown:", err)
	}
}

func TestSetupRepairs(t *testing.T) {
	nstest.Need(t, "iptables", "ip")
	n := start(t, config(t))
	a, b := nstest.New(t), nstest.New(t)
	attach(t, n, "a", a)
	addr := attach(t, n, "b", b)
	// Whoever deletes the bridge deletes what it says of the former settings; and the carrier comes with a port's, a little later.
	passing := regexp.MustCompile(`alias shiplog bridge.*|NO-CARRIER,|LOWER_UP|state \w+`)
	look := func() []string { return sorted(passing.ReplaceAllString(machine(t), "")) }
	want := look()
	for _, damage := range []string{
		"iptables -t nat -F SHIPLOG-NET-MASQ", "iptables -F FORWARD", "ip link del slbr0", "ip addr flush dev slbr0", "sysctl -qw net.ipv4.ip_forward=0",
		"ip link set slbr0 down",
	} {
		output(t, "sh", "-c", damage)
		if err := n.Setup(t.Context()); err != nil {
			t.Fatalf("after %q: %v", damage, err)
		}
		if diff := cmp.Diff(want, look()); diff != "" {
			t.Errorf("after %q setup left:\n%s", damage, diff)
		}
		if err := a.Do(func() error { return ping(addr.IP) }); err != nil {
			t.Errorf("after %q pods do not reach each other: %v", damage, err)
		}
	}
}

func TestTwoNodesOnOneMachine(t *testing.T) {
	nstest.Need(t, "iptables", "ip")
	if err := writeSysctl("net/ipv4/ip_forward", "0"); err != nil {
		t.Fatal(err)
	}
	before := machine(t)
	first, second := config(t), config(t)
	second.Bridge, second.PodCIDR, second.ChainPrefix = "slbr1", netip.MustParsePrefix("10.98.0.0/24"), "OTHER"
	n1, err := New(first)
	if err != nil {
		t.Fatal(err)
	}
	n2, err := New(second)
	if err != nil {
		t.Fatal(err)
	}
	// Given two nodes, when the one that came first goes first
	for _, n := range []*Network{n1, n2} {
		if err := n.Setup(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	a, b := nstest.New(t), nstest.New(t)
	attach(t, n1, "pod", a)
	addr := attach(t, n2, "pod", b)
	if err := a.Do(func() error { return ping(addr.IP) }); err != nil {
		t.Errorf("pods of two nodes of one machine: %v", err)
	}
	if err := n1.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Then the other still works, and when it goes too, the machine is as it was before both
	if forward, _ := readSysctl("net/ipv4/ip_forward"); forward != "1" {
		t.Error("the first node's end turned the second one's forwarding off")
	}
	if err := n2.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, machine(t)); diff != "" {
		t.Errorf("both are gone and left:\n%s", diff)
	}
}

func TestOverlapIsRefused(t *testing.T) {
	nstest.Need(t, "iptables", "ip")
	output(t, "ip", "link", "add", "lan", "type", "bridge")
	t.Cleanup(func() { output(t, "ip", "link", "del", "lan") })
	output(t, "ip", "addr", "add", "10.99.0.77/16", "dev", "lan")
	n, err := New(config(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Setup(t.Context()); !errors.Is(err, ErrCIDR) || !strings.Contains(err.Error(), "lan") {
		t.Errorf("an overlapping range: %v", err)
	}
}

func TestSomebodyElsesBridgeIsLeftAlone(t *testing.T) {
	nstest.Need(t, "iptables", "ip")
	output(t, "ip", "link", "add", "slbr0", "type", "bridge")
	t.Cleanup(func() { output(t, "ip", "link", "del", "slbr0") })
	output(t, "ip", "addr", "add", "10.55.0.1/24", "dev", "slbr0")
	n, err := New(config(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Setup(t.Context()); err == nil || !strings.Contains(err.Error(), "somebody else's") {
		t.Errorf("set up on a foreign bridge: %v", err)
	}
	if err := n.Teardown(t.Context()); err != nil {
		t.Error(err)
	}
	if addrs := output(t, "ip", "addr", "show", "dev", "slbr0"); !strings.Contains(addrs, "10.55.0.1/24") {
		t.Errorf("the foreign bridge was changed: %s", addrs)
	}
}

func TestPodsAreNotLargerThanTheWayOut(t *testing.T) {
	nstest.Need(t, "iptables", "ip")
	output(t, "ip", "link", "add", "lan", "mtu", "1400", "type", "bridge")
	t.Cleanup(func() { output(t, "ip", "link", "del", "lan") })
	output(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "lan")
	output(t, "ip", "link", "set", "lan", "up")
	output(t, "ip", "route", "add", "default", "via", "192.0.2.2")
	n := start(t, config(t))
	ns := nstest.New(t)
	attach(t, n, "a", ns)
	if err := ns.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err == nil && eth0.Attrs().MTU != 1400 {
			t.Errorf("the pod's MTU is %d", eth0.Attrs().MTU)
		}
		addrs, addrErr := netlink.AddrList(eth0, netlink.FAMILY_V6)
		if len(addrs) > 0 {
			t.Errorf("the pod gave itself IPv6 addresses: %v", addrs)
		}
		return errors.Join(err, addrErr)
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAttachIsIdempotent(t *testing.T) {
	nstest.Need(t, "iptables", "ip")
	n := start(t, config(t))
	ns := nstest.New(t)
	first := attach(t, n, "a", ns)
	if want := netip.MustParseAddr("10.99.0.1"); first.Gateway != want || n.GatewayIP() != want {
		t.Errorf("gateway %v, %v", first.Gateway, n.GatewayIP())
	}
	if again := attach(t, n, "a", ns); again != first {
		t.Errorf("attached again: %v, first %v", again, first)
	}
	// Given a namespace in which somebody removed the route
	if err := ns.Do(func() error {
		return netlink.RouteDel(&netlink.Route{Gw: first.Gateway.AsSlice()})
	}); err != nil {
		t.Fatal(err)
	}
	// When it is attached again, then the route is back
	attach(t, n, "a", ns)
	if err := ns.Do(func() error { return ping(n.GatewayIP()) }); err != nil {
		t.Error(err)
	}
	// Given a new sandbox of the same pod, while the old one still exists, then the address moves
	moved := nstest.New(t)
	if got := attach(t, n, "a", moved); got != first {
		t.Errorf("the new sandbox has %v, the old one had %v", got, first)
	}
	if err := moved.Do(func() error { return ping(n.GatewayIP()) }); err != nil {
		t.Error(err)
	}
}

func TestAttachErrors(t *testing.T) {
	nstest.Need(t, "iptables", "ip")
	cfg := config(t)
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.AttachPod(t.Context(), "a", nstest.New(t).Path); err == nil || !strings.Contains(err.Error(), "set up first") {
		t.Errorf("without a bridge: %v", err)
	}
	n = start(t, cfg)
	if _, err := n.AttachPod(t.Context(), "a", "/nowhere"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a namespace: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.AttachPod(t.Context(), "a", file); err == nil || !strings.Contains(err.Error(), "namespace") {
		t.Errorf("a file that is no namespace: %v", err)
	}
	if pods := n.addresses.pods(); len(pods) > 0 {
		t.Errorf("failed attachments keep addresses: %v", pods)
	}
	if _, err := n.AttachPod(t.Context(), "", file); err == nil {
		t.Error("a pod without uid was attached")
	}
	if err := n.DetachPod(t.Context(), "never-seen"); err != nil {
		t.Error(err)
	}
}

func TestAKilledAgentFindsItsPodsAgain(t *testing.T) {
	nstest.Need(t, "iptables", "ip")
	cfg := config(t)
	n := start(t, cfg)
	a, b, gone := nstest.New(t), nstest.New(t), nstest.New(t)
	addrA, addrB := attach(t, n, "a", a), attach(t, n, "b", b)
	attach(t, n, "gone", gone)
	gone.Close()
	// Given that even the record of addresses is lost
	if err := os.Remove(filepath.Join(cfg.StateDir, "addresses.json")); err != nil {
		t.Fatal(err)
	}
	// When another agent starts
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Then it gives nobody a living pod's address
	c := nstest.New(t)
	if addrC := attach(t, n, "c", c); addrC == addrA || addrC == addrB {
		t.Fatalf("pod c got %v, which another has", addrC)
	}
	if got := attach(t, n, "a", a); got != addrA {
		t.Errorf("pod a has %v, had %v", got, addrA)
	}
	if err := a.Do(func() error { return ping(addrB.IP) }); err != nil {
		t.Error(err)
	}
	// And sweeping removes who is not wanted any more
	if err := n.Sweep(t.Context(), map[string]bool{"a": true, "c": true}); err != nil {
		t.Fatal(err)
	}
	ports, err := n.ports()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(n.addresses.pods(), " "); got != "a c" || len(ports) != 2 {
		t.Errorf("after sweeping %s have addresses and %d devices are left", got, len(ports))
	}
}

func TestManyPodsAtOnce(t *testing.T) {
	nstest.Need(t, "iptables", "ip")
	n := start(t, config(t))
	const pods = 24
	spaces := make([]*nstest.NS, pods)
	for i := range spaces {
		spaces[i] = nstest.New(t)
	}
	var wg sync.WaitGroup
	addrs := make([]Address, pods)
	errs := make([]error, pods)
	for i := range pods {
		wg.Go(func() { addrs[i], errs[i] = n.AttachPod(t.Context(), fmt.Sprintf("pod-%d", i), spaces[i].Path) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	seen := map[netip.Addr]bool{}
	for i, addr := range addrs {
		if seen[addr.IP] {
			t.Errorf("address %v was given twice", addr.IP)
		}
		seen[addr.IP] = true
		if err := spaces[i].Do(func() error { return ping(addrs[(i+1)%pods].IP) }); err != nil {
			t.Error(err)
		}
	}
	for i := range pods {
		wg.Go(func() { errs[i] = n.DetachPod(t.Context(), fmt.Sprintf("pod-%d", i)) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if ports, err := n.ports(); err != nil || len(ports) > 0 {
		t.Errorf("%d devices are left, %v", len(ports), err)
	}
}

func BenchmarkAttachDetach(b *testing.B) {
	nstest.Need(b, "iptables", "ip")
	n := start(b, config(b))
	ns := nstest.New(b)
	for b.Loop() {
		if _, err := n.AttachPod(b.Context(), "a", ns.Path); err != nil {
			b.Fatal(err)
		}
		if err := n.DetachPod(b.Context(), "a"); err != nil {
			b.Fatal(err)
		}
	}
}
