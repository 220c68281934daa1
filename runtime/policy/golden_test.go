package policy

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestRenderGolden(t *testing.T) {
	from := func(peers ...networkingv1.NetworkPolicyPeer) networkingv1.NetworkPolicySpec {
		return networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{From: peers}}}
	}
	ports := func(ports ...networkingv1.NetworkPolicyPort) networkingv1.NetworkPolicySpec {
		return networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{Ports: ports}}}
	}
	egress := networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		Egress: []networkingv1.NetworkPolicyEgressRule{
			{To: []networkingv1.NetworkPolicyPeer{podPeer(store)}, Ports: []networkingv1.NetworkPolicyPort{port(corev1.ProtocolTCP, intstr.FromString("http"))}},
			{To: []networkingv1.NetworkPolicyPeer{blockPeer("0.0.0.0/0")}, Ports: []networkingv1.NetworkPolicyPort{port(corev1.ProtocolUDP, intstr.FromInt32(53))}},
		},
	}
	for name, state := range map[string]State{
		"no-policies":      example(),
		"deny-all":         example(policy("default", "deny", nil, networkingv1.NetworkPolicySpec{})),
		"pods-may-come":    example(policy("default", "web-to-store", store, from(podPeer(web)))),
		"namespaces":       example(policy("default", "all-of-prod", store, from(namespacePeer(prod), namespacePeer(nil)))),
		"ranges":           example(policy("default", "ranges", web, from(blockPeer("10.0.0.0/8", "10.1.0.0/16"), blockPeer("192.0.2.1/32")))),
		"ports":            example(policy("default", "ports", web, ports(port("TCP", intstr.FromInt32(80)), portRange(8000, 8010), port("UDP", intstr.FromString("dns"))))),
		"egress":           example(policy("default", "out", web, egress)),
		"both-ways":        example(policy("default", "out", web, egress), policy("default", "web-to-store", store, from(podPeer(web)))),
		"another-s-pods":   example(policy("other", "deny", nil, networkingv1.NetworkPolicySpec{})),
		"two-for-one-pod":  example(policy("default", "a", web, from(podPeer(store))), policy("default", "b", web, ports(portRange(80, 90)))),
		"nobody-may-match": example(policy("default", "none", web, from(podPeer(map[string]string{"app": "missing"})))),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", name+".golden")
			got := Render(state, Options{}).Text()
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
