package proxy

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestRenderGolden(t *testing.T) {
	one := service("web", "10.96.0.10")
	two := ep("10.244.0.5", on("n1"))
	three := ep("10.244.1.5", on("n2"))
	many := service("dns", "10.96.0.11", ports(
		corev1.ServicePort{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt32(5353)},
		corev1.ServicePort{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53, TargetPort: intstr.FromInt32(5353)},
		corev1.ServicePort{Name: "assoc", Protocol: corev1.ProtocolSCTP, Port: 7000, TargetPort: intstr.FromInt32(7000)},
	))
	np := service("web", "10.96.0.10", nodePort(30001))
	stuck := service("web", "10.96.0.10", sticky(600))
	lb := service("web", "10.96.0.10", balancer(30001, "198.51.100.7", "203.0.113.0/24", "192.0.2.0/24"), localOutside)
	inside := service("web", "10.96.0.10", nodePort(30001), localInside)
	external := service("web", "10.96.0.10")
	external.Spec.ExternalIPs = []string{"198.51.100.9"}
	headless := service("headless", corev1.ClusterIPNone)
	away := service("away", "")
	away.Spec.Type = corev1.ServiceTypeExternalName
	hinted := func(ip, node, zone string) discoveryv1.Endpoint {
		e := ep(ip, on(node))
		e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}}
		return e
	}
	zoned := state(one, slice(one, hinted("10.244.0.5", "n1", "a"), hinted("10.244.1.5", "n2", "b")))
	zoned.Zone = "b"
	all := Options{MasqueradeAll: true}

	for name, c := range map[string]struct {
		state State
		opts  Options
	}{
		"nothing":                      {state(), Options{}},
		"one-endpoint":                 {state(one, slice(one, two)), Options{}},
		"three-endpoints":              {state(one, slice(one, two, three, ep("10.244.2.5"))), Options{}},
		"no-endpoints":                 {state(one, np), Options{}},
		"endpoint-not-ready":           {state(np, slice(np, two, ep("10.244.1.6", notReady))), Options{}},
		"only-terminating-endpoints":   {state(one, slice(one, ep("10.244.0.5", leaving), ep("10.244.1.5", notReady))), Options{}},
		"several-ports":                {state(many, slice(many, two)), Options{}},
		"node-port":                    {state(np, slice(np, two, three)), Options{}},
		"session-affinity":             {state(stuck, slice(stuck, two, three)), Options{}},
		"load-balancer-local":          {state(lb, slice(lb, two, three)), Options{}},
		"load-balancer-local-elsewher": {state(lb, slice(lb, three)), Options{}},
		"internal-policy-local":        {state(inside, slice(inside, two, three)), Options{}},
		"internal-policy-local-none":   {state(inside, slice(inside, three)), Options{}},
		"external-ips":                 {state(external, slice(external, two)), Options{}},
		"external-ips-no-endpoints":    {state(external), Options{}},
		"without-rules":                {state(headless, slice(headless, two), away), Options{}},
		"zone-hints":                   {zoned, Options{}},
		"another-prefix-and-mark":      {state(np, slice(np, two)), Options{ChainPrefix: "DEV2", MasqueradeBit: 20}},
		"masquerade-all":               {state(one, slice(one, two)), all},
		"host-ports": {state(
			HostPort{Pod: "default/a", HostPort: 8080, PodIP: netip.MustParseAddr("10.244.0.5"), ContainerPort: 80},
			HostPort{Pod: "default/b", HostPort: 8080, PodIP: netip.MustParseAddr("10.244.0.6"), ContainerPort: 80, HostIP: netip.MustParseAddr("192.0.2.1")},
			HostPort{Pod: "default/b", HostPort: 53, PodIP: netip.MustParseAddr("10.244.0.6"), ContainerPort: 5353, Protocol: corev1.ProtocolUDP},
		), Options{}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", name+".golden")
			got := Render(c.state, c.opts).Text()
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
		})
	}
}
