package proxy

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/runtime/dns"
)

// The name server at the gateway's address answers a pod, also through the service address that clusters are used to.
func TestPodsAskForNames(t *testing.T) {
	w := newWorld(t)
	at := netip.AddrPortFrom(w.gateway, 53)
	server, err := dns.New(dns.Config{
		Addrs: []string{at.String()}, ResolvConf: filepath.Join(t.TempDir(), "none"), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-server.Ready()

	store := both("store", "10.96.0.20")
	names := service("kube-dns", "10.96.0.10", ports(
		corev1.ServicePort{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt32(53)},
		corev1.ServicePort{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53, TargetPort: intstr.FromInt32(53)},
	))
	s := w.state(store, names, slice(names, ep(w.gateway.String())))
	apply(t, w.proxy, s)
	server.Update(dns.State{Services: s.Services, Slices: []*discoveryv1.EndpointSlice{}})

	for _, c := range []struct{ from, to string }{{"a", at.String()}, {"a", "10.96.0.10:53"}, {"node", at.String()}, {"node", "10.96.0.10:53"}} {
		for _, network := range []string{"udp", "tcp"} {
			var got *mdns.Msg
			err := w.in(c.from, func() (err error) {
				q := new(mdns.Msg)
				q.SetQuestion("store.default.svc.cluster.local.", mdns.TypeA)
				got, _, err = (&mdns.Client{Net: network, Timeout: patience}).Exchange(q, c.to)
				return err
			})
			if err != nil || len(got.Answer) != 1 || got.Answer[0].(*mdns.A).A.String() != "10.96.0.20" {
				t.Errorf("%s asking %s by %s: %v, %v", c.from, c.to, network, got, err)
			}
		}
	}
}
