package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/runtime/internal/nstest"
	"github.com/shiplog/shiplog/runtime/network"
)

// world is a node with pods a, b and c on its bridge and a machine outside that knows the node alone.
type world struct {
	t       *testing.T
	proxy   *Proxy
	gateway netip.Addr
	spaces  map[string]*nstest.NS // "a", "b", "c", "outside"; nil: the node itself
	ips     map[string]netip.Addr
}

const (
	nodeIP    = "192.0.2.1"
	outsideIP = "192.0.2.2"
	bridge    = "slbr0"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	nstest.Need(t, "iptables")
	n, err := network.New(network.Config{
		Bridge: bridge, PodCIDR: netip.MustParsePrefix("10.244.0.0/24"), ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"),
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/12"), StateDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler),
	})
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
	w := &world{t: t, gateway: n.GatewayIP(), spaces: map[string]*nstest.NS{"node": nil}, ips: map[string]netip.Addr{"node": netip.MustParseAddr(nodeIP)}}
	w.proxy = start(t, Options{LocalnetDevices: []string{bridge}})
	for _, pod := range []string{"a", "b", "c"} {
		ns := nstest.New(t)
		addr, err := n.AttachPod(t.Context(), pod, ns.Path)
		if err != nil {
			t.Fatal(err)
		}
		w.spaces[pod], w.ips[pod] = ns, addr.IP
	}
	w.wireOutside()
	return w
}

func (w *world) wireOutside() {
	w.t.Helper()
	ns := nstest.New(w.t)
	w.spaces["outside"], w.ips["outside"] = ns, netip.MustParseAddr(outsideIP)
	output(w.t, "ip", "link", "add", "uplink", "type", "veth", "peer", "name", "uplink-far")
	w.t.Cleanup(func() { output(w.t, "ip", "link", "del", "uplink") })
	output(w.t, "ip", "addr", "add", nodeIP+"/24", "dev", "uplink")
	output(w.t, "ip", "link", "set", "uplink", "up")
	far, err := netlink.LinkByName("uplink-far")
	if err != nil {
		w.t.Fatal(err)
	}
	file, err := os.Open(ns.Path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer file.Close()
	if err := netlink.LinkSetNsFd(far, int(file.Fd())); err != nil {
		w.t.Fatal(err)
	}
	if err := ns.Do(func() error {
		addr, err := netlink.ParseAddr(outsideIP + "/24")
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(far, addr), netlink.LinkSetUp(far))
	}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) in(place string, f func() error) error {
	if ns := w.spaces[place]; ns != nil {
		return ns.Do(f)
	}
	return f()
}

// serve answers every caller on the pod's port 8080, TCP and UDP, with "<pod> <the address that the caller is seen with>".
func (w *world) serve(pod string) {
	w.t.Helper()
	addr := netip.AddrPortFrom(w.ips[pod], 8080).String()
	var l net.Listener
	var u net.PacketConn
	if err := w.in(pod, func() (err error) {
		if l, err = net.Listen("tcp", addr); err != nil {
			return err
		}
		u, err = net.ListenPacket("udp", addr)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close(); u.Close() })
	answer := func(caller net.Addr) []byte {
		host, _, _ := net.SplitHostPort(caller.String())
		return []byte(pod + " " + host)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write(answer(conn.RemoteAddr()))
			conn.Close()
		}
	}()
	go func() {
		buf := make([]byte, 512)
		for {
			_, caller, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(answer(caller), caller)
		}
	}()
}

const patience = 10 * time.Second // far more than an answer takes; a refusal comes at once

// ask returns the answer to a call from a place, "refused" when it was, or another error's text.
func (w *world) ask(from, network, to string) string {
	var answer []byte
	err := w.in(from, func() error {
		conn, err := net.DialTimeout(network, to, patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if network == "tcp" {
			answer, err = io.ReadAll(conn)
			return err
		}
		answer, err = exchange(conn)
		return err
	})
	switch {
	case err == nil:
		return string(answer)
	case strings.Contains(err.Error(), "refused"), strings.Contains(err.Error(), "not permitted"):
		// The second is what REJECT tells a sender on the node itself.
		return "refused"
	default:
		return err.Error()
	}
}

func exchange(conn net.Conn) ([]byte, error) {
	if _, err := conn.Write([]byte("?")); err != nil {
		return nil, err
	}
	buf := make([]byte, 512)
	n, err := conn.Read(buf)
	return buf[:n], err
}

// expect asks and compares.
func (w *world) expect(given, from, network, to, want string) {
	w.t.Helper()
	if got := w.ask(from, network, to); got != want {
		w.t.Errorf("%s: %s asking %s %s got %q, want %q", given, from, network, to, got, want)
	}
}

// answers asks many times and returns how often each pod answered.
func (w *world) answers(from, network, to string, times int) map[string]int {
	count := map[string]int{}
	for range times {
		pod, _, _ := strings.Cut(w.ask(from, network, to), " ")
		count[pod]++
	}
	return count
}

// both is a service with port 80 for TCP and for UDP.
func both(name, ip string, options ...svcOption) *corev1.Service {
	return service(name, ip, append([]svcOption{ports(
		corev1.ServicePort{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)},
		corev1.ServicePort{Name: "udp", Protocol: corev1.ProtocolUDP, Port: 80, TargetPort: intstr.FromInt32(8080)},
	)}, options...)...)
}

func (w *world) state(objects ...any) State {
	s := state(objects...)
	s.NodeIPs = []netip.Addr{netip.MustParseAddr(nodeIP)}
	return s
}

func (w *world) pod(name string) string { return fmt.Sprint(w.ips[name]) }
