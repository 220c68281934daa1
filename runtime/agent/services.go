package agent

import (
	"context"
	"errors"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/runtime/dns"
	"github.com/shiplog/shiplog/runtime/policy"
	"github.com/shiplog/shiplog/runtime/proxy"
)

// burst is how long changes of services and endpoints are gathered before the rules are written.
const burst = 20 * time.Millisecond

// syntheticSlices are the endpoints that this node itself is: DNS on its gateway address, and the relay to the API server.
// Slices of others for these services do not count on this node.
func syntheticSlices(gateway netip.Addr, dns bool, relayPort int32) []*discoveryv1.EndpointSlice {
	if !gateway.IsValid() {
		return nil
	}
	yes := true
	tcp, udp := corev1.ProtocolTCP, corev1.ProtocolUDP
	make := func(namespace, service string, ports ...discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: service + "-of-this-node", Labels: map[string]string{discoveryv1.LabelServiceName: service},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{gateway.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes}}},
			Ports:       ports,
		}
	}
	port := func(name string, p *corev1.Protocol, n int32) discoveryv1.EndpointPort {
		return discoveryv1.EndpointPort{Name: &name, Protocol: p, Port: &n}
	}
	var out []*discoveryv1.EndpointSlice
	if dns {
		out = append(out, make("kube-system", "kube-dns", port("dns", &udp, 53), port("dns-tcp", &tcp, 53)))
	}
	if relayPort != 0 {
		out = append(out, make(corev1.NamespaceDefault, "kubernetes", port("https", &tcp, relayPort)))
	}
	return out
}

// withOwn replaces the slices of the services that this node itself serves.
func withOwn(all, own []*discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice {
	mine := map[string]bool{}
	for _, s := range own {
		mine[s.Namespace+"/"+s.Labels[discoveryv1.LabelServiceName]] = true
	}
	out := make([]*discoveryv1.EndpointSlice, 0, len(all)+len(own))
	for _, s := range all {
		if !mine[s.Namespace+"/"+s.Labels[discoveryv1.LabelServiceName]] {
			out = append(out, s)
		}
	}
	return append(out, own...)
}

// hostPorts are the ports of the node that lead to its pods.
func hostPorts(pods []*corev1.Pod, addressOf func(*corev1.Pod) string) []proxy.HostPort {
	var out []proxy.HostPort
	for _, p := range pods {
		if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		ip, err := netip.ParseAddr(addressOf(p))
		if err != nil {
			continue
		}
		containers := append(append([]corev1.Container(nil), p.Spec.InitContainers...), p.Spec.Containers...)
		for i := range containers {
			for _, port := range containers[i].Ports {
				if port.HostPort == 0 {
					continue
				}
				h := proxy.HostPort{
					Pod: p.Namespace + "/" + p.Name, Protocol: port.Protocol, HostPort: uint16(port.HostPort), PodIP: ip, ContainerPort: uint16(port.ContainerPort),
				}
				if at, err := netip.ParseAddr(port.HostIP); err == nil {
					h.HostIP = at
				}
				out = append(out, h)
			}
		}
	}
	return out
}

// serve keeps the rules and the names of services as the feed has them: once a burst of changes.
func (a *Agent) serve(ctx context.Context) {
	wait := 200 * time.Millisecond
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.network:
		}
		select { // what comes meanwhile is taken along
		case <-ctx.Done():
			return
		case <-time.After(burst):
		}
		select {
		case <-a.network:
		default:
		}
		if err := a.applyServices(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("applying services", "error", err)
			select {
			case <-time.After(wait):
				wait = min(2*wait, 30*time.Second)
			case <-ctx.Done():
				return
			}
			a.touchNetwork()
			continue
		}
		wait = 200 * time.Millisecond
	}
}

func (a *Agent) applyServices(ctx context.Context) error {
	services, slices, pods := a.cluster.services(), withOwn(a.cluster.slices(), a.own), a.cluster.pods()
	if a.cfg.DNS != nil {
		a.cfg.DNS.Update(dns.State{Services: services, Slices: slices, Pods: pods})
	}
	var failed []error
	if a.cfg.Policy != nil {
		// The node's own pods, with the addresses that they have now: the API learns of them a moment later.
		failed = append(failed, a.cfg.Policy.Apply(ctx, policy.State{
			Policies: a.cluster.policies(), Namespaces: a.cluster.namespaces(), Pods: a.Pods(), NodeName: a.cfg.NodeName,
		}))
	}
	if a.cfg.Proxy != nil {
		failed = append(failed, a.applyProxy(ctx, services, slices, pods))
	}
	return errors.Join(failed...)
}

func (a *Agent) applyProxy(ctx context.Context, services []*corev1.Service, slices []*discoveryv1.EndpointSlice, pods []*corev1.Pod) error {
	return a.cfg.Proxy.Apply(ctx, proxy.State{
		Services: services, Slices: slices, NodeName: a.cfg.NodeName, NodeIPs: []netip.Addr{a.cfg.NodeIP}, PodCIDR: a.cfg.PodCIDR,
		ClusterCIDR: a.cfg.ClusterCIDR, HostPorts: hostPorts(pods, a.podIP),
	})
}

// podIP is a pod's address on this node, "" while it has none.
func (a *Agent) podIP(api *corev1.Pod) string {
	p := a.pod(string(api.UID))
	if p == nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return firstOf(p.obs.PodIPs)
}

// touchFor has them applied anew when a pod that comes or goes changes them: by its host ports, or as one whom a policy names.
func (a *Agent) touchFor(api *corev1.Pod) {
	if a.cfg.Policy != nil {
		a.touchNetwork()
		return
	}
	for _, list := range [][]corev1.Container{api.Spec.InitContainers, api.Spec.Containers} {
		for i := range list {
			for _, port := range list[i].Ports {
				if port.HostPort != 0 {
					a.touchNetwork()
					return
				}
			}
		}
	}
}

// touchNetwork has services and host ports applied anew, soon.
func (a *Agent) touchNetwork() {
	select {
	case a.network <- struct{}{}:
	default:
	}
}
