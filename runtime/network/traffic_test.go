package network

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/shiplog/shiplog/runtime/internal/nstest"
)

// ping needs no program and no raw socket: a refused TCP connection is an answer of the machine that has the address.
func ping(addr netip.Addr) error {
	conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(addr, 9).String(), 10*time.Second)
	if err == nil {
		return conn.Close()
	}
	if strings.Contains(err.Error(), "connection refused") {
		return nil
	}
	return err
}

func sorted(text string) []string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return lines
}

// whoAmI serves, in the namespace, the address that each caller is seen with.
func whoAmI(t *testing.T, ns *nstest.NS, addr string) {
	t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen("tcp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			fmt.Fprintln(conn, host)
			conn.Close()
		}
	}()
}

func ask(ns *nstest.NS, addr string) (answer string, err error) {
	err = ns.Do(func() error {
		conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		answer, err = bufio.NewReader(conn).ReadString('\n')
		return err
	})
	return strings.TrimSpace(answer), err
}

func TestWhoIsSeenWithWhichAddress(t *testing.T) {
	nstest.Need(t, "iptables", "ip")
	n := start(t, config(t))
	a, b := nstest.New(t), nstest.New(t)
	addrA, addrB := attach(t, n, "a", a), attach(t, n, "b", b)

	// Given a machine outside, which knows the node's address and not the pods'
	outside := nstest.New(t)
	wire(t, outside, "192.0.2.1/24", "192.0.2.2/24")
	whoAmI(t, outside, "192.0.2.2:80")
	whoAmI(t, b, addrB.IP.String()+":80")

	for _, c := range []struct {
		given string
		from  *nstest.NS
		to    string
		want  string
	}{
		{"a pod asks a pod", a, addrB.IP.String() + ":80", addrA.IP.String()},
		{"a pod asks the outside", a, "192.0.2.2:80", "192.0.2.1"},
		{"a pod asks itself", b, addrB.IP.String() + ":80", addrB.IP.String()},
	} {
		if got, err := ask(c.from, c.to); err != nil || got != c.want {
			t.Errorf("%s: it is seen as %q, %v; want %s", c.given, got, err, c.want)
		}
	}
}

// wire connects the test's host to another machine.
func wire(t *testing.T, other *nstest.NS, here, there string) {
	t.Helper()
	output(t, "ip", "link", "add", "uplink", "type", "veth", "peer", "name", "uplink-far")
	t.Cleanup(func() { output(t, "ip", "link", "del", "uplink") })
	far, err := netlink.LinkByName("uplink-far")
	if err != nil {
		t.Fatal(err)
	}
	output(t, "ip", "addr", "add", here, "dev", "uplink")
	output(t, "ip", "link", "set", "uplink", "up")
	ns, err := os.Open(other.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := netlink.LinkSetNsFd(far, int(ns.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := other.Do(func() error {
		addr, err := netlink.ParseAddr(there)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(far, addr); err != nil {
			return err
		}
		return netlink.LinkSetUp(far)
	}); err != nil {
		t.Fatal(err)
	}
}
