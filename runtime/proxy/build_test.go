package proxy

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/runtime/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// The builders of test states: a service "svc" with port 80 behind 10.96.0.10, changed by options.

type svcOption func(*corev1.Service)

func service(name, clusterIP string, options ...svcOption) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: clusterIP, ClusterIPs: []string{clusterIP},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	for _, o := range options {
		o(s)
	}
	return s
}

func ports(ports ...corev1.ServicePort) svcOption {
	return func(s *corev1.Service) { s.Spec.Ports = ports }
}

func nodePort(port int32) svcOption {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = port
	}
}

func balancer(port int32, ip string, ranges ...string) svcOption {
	return func(s *corev1.Service) {
		nodePort(port)(s)
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.LoadBalancerSourceRanges = ranges
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip}}
	}
}

func sticky(seconds int32) svcOption {
	return func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}

func localOutside(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func localInside(s *corev1.Service) {
	local := corev1.ServiceInternalTrafficPolicyLocal
	s.Spec.InternalTrafficPolicy = &local
}

type epOption func(*discoveryv1.Endpoint)

func ep(ip string, options ...epOption) discoveryv1.Endpoint {
	yes := true
	e := discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes}}
	for _, o := range options {
		o(&e)
	}
	return e
}

func on(node string) epOption { return func(e *discoveryv1.Endpoint) { e.NodeName = &node } }

func notReady(e *discoveryv1.Endpoint) {
	no := false
	e.Conditions.Ready, e.Conditions.Serving = &no, &no
}

func leaving(e *discoveryv1.Endpoint) {
	no, yes := false, true
	e.Conditions.Ready, e.Conditions.Serving, e.Conditions.Terminating = &no, &yes, &yes
}

func slice(svc *corev1.Service, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: svc.Name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   endpoints,
	}
	for _, p := range svc.Spec.Ports {
		name, protocol, port := p.Name, p.Protocol, p.TargetPort.IntVal
		if port == 0 {
			port = 8080
		}
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &port})
	}
	return s
}

func state(objects ...any) State {
	s := State{
		NodeName: "n1", NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"), PodCIDR: netip.MustParsePrefix("10.244.0.0/24"),
	}
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Service:
			s.Services = append(s.Services, o)
		case *discoveryv1.EndpointSlice:
			s.Slices = append(s.Slices, o)
		case HostPort:
			s.HostPorts = append(s.HostPorts, o)
		default:
			panic(fmt.Sprintf("a state has no %T", o))
		}
	}
	return s
}

// big is a state of many services with three endpoints each.
func big(services int) State {
	s := state()
	for i := range services {
		svc := service(fmt.Sprintf("svc-%05d", i), fmt.Sprintf("10.%d.%d.%d", 96+i>>16, i>>8&255, i&255))
		svc.ResourceVersion, svc.UID = "1", "u"
		var eps []discoveryv1.Endpoint
		for e := range 3 {
			n := 3*i + e
			eps = append(eps, ep(fmt.Sprintf("10.%d.%d.%d", 244+n>>16, n>>8&255, n&255), on("n1")))
		}
		s.Services, s.Slices = append(s.Services, svc), append(s.Slices, slice(svc, eps...))
	}
	return s
}
