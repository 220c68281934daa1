package proxy

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Who reaches what, and with which address he is seen: with a real bridge, real pods, real rules and real packets.
func TestTraffic(t *testing.T) {
	w := newWorld(t)
	for _, pod := range []string{"a", "b", "c"} {
		w.serve(pod)
	}
	ipA, ipB, gateway := w.ips["a"].String(), w.ips["b"].String(), w.gateway.String()

	web := both("web", "10.96.0.10", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort = 30001, 30001
	})
	local := both("local", "10.96.0.11", nodePort(30002), localOutside)
	empty := both("empty", "10.96.0.12", nodePort(30003))
	elsewhere := both("elsewhere", "10.96.0.13", nodePort(30004), localOutside)
	external := both("external", "10.96.0.14")
	external.Spec.ExternalIPs = []string{"198.51.100.1"}
	guarded := both("guarded", "10.96.0.15", balancer(30005, "198.51.100.2", "203.0.113.0/24"))

	apply(t, w.proxy, w.state(
		web, slice(web, ep(ipB, on("n1")), ep(w.pod("c"), notReady)),
		local, slice(local, ep(ipB, on("n1"))),
		empty, slice(empty, ep(w.pod("c"), notReady)),
		elsewhere, slice(elsewhere, ep("10.244.7.7", on("n2"))),
		external, slice(external, ep(ipB, on("n1"))),
		guarded, slice(guarded, ep(ipB, on("n1"))),
		HostPort{Pod: "default/c", HostPort: 8080, PodIP: w.ips["c"], ContainerPort: 8080},
		HostPort{Pod: "default/c", HostPort: 8080, PodIP: w.ips["c"], ContainerPort: 8080, Protocol: corev1.ProtocolUDP},
	))

	for _, network := range []string{"tcp", "udp"} {
		w.expect("a pod keeps its address", "a", network, "10.96.0.10:80", "b "+ipA)
		w.expect("a pod reaches itself through its service", "b", network, "10.96.0.10:80", "b "+gateway)
		w.expect("the node asks with an address that pods can answer to", "node", network, "10.96.0.10:80", "b "+gateway)
		w.expect("an endpoint gone: an error at once", "a", network, "10.96.0.12:80", "refused")
		w.expect("an endpoint gone, from the node", "node", network, "10.96.0.12:80", "refused")
		w.expect("the node port on loopback", "node", network, "127.0.0.1:30001", "b "+gateway)
		w.expect("the node port on the node's address", "node", network, nodeIP+":30001", "b "+gateway)
		w.expect("the node port on the gateway's address", "node", network, gateway+":30001", "b "+gateway)
		w.expect("the node port from outside", "outside", network, nodeIP+":30001", "b "+gateway)
		w.expect("the node port from a pod", "a", network, nodeIP+":30001", "b "+gateway)
		w.expect("a pod reaches itself through the node port", "b", network, nodeIP+":30001", "b "+gateway)
		w.expect("a host port from outside keeps the sender", "outside", network, nodeIP+":8080", "c "+outsideIP)
		w.expect("a host port on loopback", "node", network, "127.0.0.1:8080", "c "+gateway)
		w.expect("a pod reaches itself through its host port", "c", network, nodeIP+":8080", "c "+gateway)
	}
	w.expect("policy Local keeps the sender's address", "outside", "tcp", nodeIP+":30002", "b "+outsideIP)
	w.expect("policy Local, asked by the node", "node", "tcp", nodeIP+":30002", "b "+gateway)
	w.expect("policy Local on loopback", "node", "tcp", "127.0.0.1:30002", "b "+gateway)
	w.expect("a node port without endpoints", "outside", "tcp", nodeIP+":30003", "refused")
	w.expect("an external address from a pod", "a", "tcp", "198.51.100.1:80", "b "+gateway)

	// What is dropped gives no answer: the connection does not come about while one that is served does.
	for _, to := range []string{nodeIP + ":30004", "198.51.100.2:80"} {
		if conn, err := dialBriefly(w, "outside", to); err == nil {
			conn.Close()
			t.Errorf("traffic to %s was not dropped", to)
		}
	}
}

func dialBriefly(w *world, from, to string) (conn net.Conn, err error) {
	err = w.in(from, func() error {
		conn, err = net.DialTimeout("tcp", to, 300*time.Millisecond)
		return err
	})
	return conn, err
}

func TestEveryReadyEndpointGetsItsShare(t *testing.T) {
	w := newWorld(t)
	for _, pod := range []string{"a", "b", "c"} {
		w.serve(pod)
	}
	web := both("web", "10.96.0.10")
	apply(t, w.proxy, w.state(web, slice(web, ep(w.pod("a")), ep(w.pod("b")), ep(w.pod("c"), notReady))))
	// 60 tosses of a fair coin show one side alone once in 10^18 times.
	count := w.answers("node", "tcp", "10.96.0.10:80", 60)
	if count["a"] == 0 || count["b"] == 0 || count["a"]+count["b"] != 60 {
		t.Errorf("answers came from %v", count)
	}
	// When one becomes not ready and the other ready, then all goes there
	apply(t, w.proxy, w.state(web, slice(web, ep(w.pod("a"), notReady), ep(w.pod("b"), notReady), ep(w.pod("c")))))
	if count := w.answers("node", "tcp", "10.96.0.10:80", 10); count["c"] != 10 {
		t.Errorf("answers came from %v", count)
	}
	// When none is ready, then those that serve until they end get it
	apply(t, w.proxy, w.state(web, slice(web, ep(w.pod("a"), notReady), ep(w.pod("b"), leaving))))
	if count := w.answers("node", "tcp", "10.96.0.10:80", 10); count["b"] != 10 {
		t.Errorf("answers came from %v", count)
	}
}

func TestSessionAffinity(t *testing.T) {
	w := newWorld(t)
	for _, pod := range []string{"a", "b"} {
		w.serve(pod)
	}
	web := both("web", "10.96.0.10", sticky(600))
	apply(t, w.proxy, w.state(web, slice(web, ep(w.pod("a")), ep(w.pod("b")))))
	count := w.answers("c", "tcp", "10.96.0.10:80", 30)
	if len(count) != 1 {
		t.Fatalf("one client's connections went to %v", count)
	}
	had, other := "a", "b"
	if count["b"] > 0 {
		had, other = "b", "a"
	}
	// When the endpoint goes, then the client gets the other; when it comes back, the client stays
	apply(t, w.proxy, w.state(web, slice(web, ep(w.pod(other)))))
	if count := w.answers("c", "tcp", "10.96.0.10:80", 5); count[other] != 5 {
		t.Errorf("without %s the answers came from %v", had, count)
	}
	apply(t, w.proxy, w.state(web, slice(web, ep(w.pod("a")), ep(w.pod("b")))))
	if count := w.answers("c", "tcp", "10.96.0.10:80", 20); count[other] != 20 {
		t.Errorf("with %s back the answers came from %v", had, count)
	}
}

// A client that keeps one UDP socket stays with its endpoint as long as that serves, and not a packet longer.
func TestUDPClientsLeaveAGoneEndpoint(t *testing.T) {
	w := newWorld(t)
	for _, pod := range []string{"a", "b"} {
		w.serve(pod)
	}
	web := both("web", "10.96.0.10", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[1].NodePort = 30001
	})
	apply(t, w.proxy, w.state(web, slice(web, ep(w.pod("a")))))
	for _, c := range []struct{ from, to string }{{"c", "10.96.0.10:80"}, {"outside", nodeIP + ":30001"}, {"node", "127.0.0.1:30001"}} {
		apply(t, w.proxy, w.state(web, slice(web, ep(w.pod("a")))))
		var conn net.Conn
		if err := w.in(c.from, func() (err error) { conn, err = net.Dial("udp", c.to); return err }); err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		first, err := exchange(conn)
		if err != nil || !bytes.HasPrefix(first, []byte("a ")) {
			t.Fatalf("%s: %q, %v", c.to, first, err)
		}
		apply(t, w.proxy, w.state(web, slice(web, ep(w.pod("b")))))
		second, err := exchange(conn)
		if err != nil || !bytes.HasPrefix(second, []byte("b ")) {
			t.Errorf("the same socket to %s got %q, %v after its endpoint went", c.to, second, err)
		}
	}
}

// Routing loopback addresses must not open what listens on them to the neighbours (CVE-2020-8558).
func TestLoopbackStaysPrivate(t *testing.T) {
	w := newWorld(t)
	apply(t, w.proxy, w.state())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Given a pod that routes 127.0.0.1 to the node, and a node that would accept it on the bridge
	if err := w.in("a", func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0o644); err != nil {
			return err
		}
		for _, args := range [][]string{
			{"addr", "del", "127.0.0.1/8", "dev", "lo"},
			{"route", "add", "127.0.0.0/8", "via", w.gateway.String(), "src", w.ips["a"].String()},
		} {
			output(t, "ip", args...)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if conn, err := dialBriefly(w, "a", l.Addr().String()); err == nil {
		conn.Close()
		t.Error("a pod reached what listens on the node's loopback address")
	}
	// And the guard is what keeps it off
	output(t, "iptables", "-F", "SHIPLOG-LOCALNET")
	conn, err := dialBriefly(w, "a", l.Addr().String())
	if err != nil {
		t.Fatalf("this test proves nothing: without the guard the pod gets %v", err)
	}
	conn.Close()
}

func TestHostPortsOnOneAddress(t *testing.T) {
	w := newWorld(t)
	w.serve("a")
	w.serve("b")
	apply(t, w.proxy, w.state(
		HostPort{Pod: "default/a", HostPort: 9000, PodIP: w.ips["a"], ContainerPort: 8080},
		HostPort{Pod: "default/b", HostPort: 9000, PodIP: w.ips["b"], ContainerPort: 8080, HostIP: netip.MustParseAddr(nodeIP)},
	))
	w.expect("the port on one address", "outside", "tcp", nodeIP+":9000", "b "+outsideIP)
	w.expect("the port on all others", "node", "tcp", w.gateway.String()+":9000", "a "+w.gateway.String())
}

// A bridge that is made anew, or comes after the rules, serves node ports on loopback from the next call on.
func TestABridgeMadeAnew(t *testing.T) {
	w := newWorld(t)
	w.serve("a")
	web := both("web", "10.96.0.10", nodePort(30001))
	s := w.state(web, slice(web, ep(w.pod("a"))))
	apply(t, w.proxy, s)
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+bridge+"/route_localnet", []byte("0"), 0o644); err != nil {
		t.Fatal(err)
	}
	apply(t, w.proxy, s)
	w.expect("after the bridge was made anew", "node", "tcp", "127.0.0.1:30001", "a "+w.gateway.String())
}

// A load balancer learns from the health-check port whether the node has endpoints of a service with policy Local.
func TestHealthCheckNodePort(t *testing.T) {
	w := newWorld(t)
	lb := both("web", "10.96.0.10", balancer(30001, "198.51.100.7"), localOutside, func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 32001 })
	ask := func() (answer string) {
		err := w.in("outside", func() error {
			conn, err := net.DialTimeout("tcp", nodeIP+":32001", patience)
			if err != nil {
				return err
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := conn.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
				return err
			}
			all, err := io.ReadAll(conn)
			answer = string(all)
			return err
		})
		if err != nil {
			return err.Error()
		}
		return answer
	}
	apply(t, w.proxy, w.state(lb, slice(lb, ep(w.pod("a"), on("n1")), ep("10.244.1.9", on("n2")))))
	if got := ask(); !strings.Contains(got, "200 OK") || !strings.Contains(got, `"localEndpoints":1`) {
		t.Errorf("with an endpoint here: %s", got)
	}
	apply(t, w.proxy, w.state(lb, slice(lb, ep(w.pod("a"), on("n1"), notReady), ep("10.244.1.9", on("n2")))))
	if got := ask(); !strings.Contains(got, "503") || !strings.Contains(got, `"name":"web"`) {
		t.Errorf("with endpoints elsewhere: %s", got)
	}
	apply(t, w.proxy, w.state())
	if got := ask(); !strings.Contains(got, "refused") {
		t.Errorf("without the service: %s", got)
	}
}

func TestTeardownLeavesTheNodeAsItWas(t *testing.T) {
	w := newWorld(t)
	look := func() string {
		links, err := json.Marshal(output(t, "ip", "-4", "-o", "addr"))
		if err != nil {
			t.Fatal(err)
		}
		localnet, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + bridge + "/route_localnet")
		if err != nil {
			t.Fatal(err)
		}
		return saved(t, "iptables") + string(links) + string(localnet)
	}
	before := look()
	web := both("web", "10.96.0.10", nodePort(30001))
	apply(t, w.proxy, w.state(web, slice(web, ep(w.pod("a")))))
	if look() == before {
		t.Fatal("applying changed nothing")
	}
	if err := w.proxy.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := look(); got != before {
		t.Errorf("teardown left\n%s\nbefore it was\n%s", got, before)
	}
}
