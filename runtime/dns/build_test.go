package dns

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func service1(namespace, name string, ips ...string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	s.Spec.ClusterIP, s.Spec.ClusterIPs = ips[0], ips
	s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80, Protocol: "TCP"}, {Name: "dns", Port: 53, Protocol: "UDP"}, {Port: 90}}
	return s
}

func headless(namespace, name string) *corev1.Service {
	return service1(namespace, name, corev1.ClusterIPNone)
}

func alias(namespace, name, to string) *corev1.Service {
	s := service1(namespace, name, "")
	s.Spec.ClusterIPs = nil
	s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, to
	return s
}

func endpoints(s *corev1.Service, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	http, tcp, number := "http", corev1.ProtocolTCP, int32(8080)
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: s.Name + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: s.Name},
		},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: eps,
		Ports: []discoveryv1.EndpointPort{{Name: &http, Protocol: &tcp, Port: &number}},
	}
}

func at(ip, hostname string, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	if hostname != "" {
		e.Hostname = &hostname
	}
	return e
}

func pod(namespace, name, ip string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Status:     corev1.PodStatus{PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}},
	}
}

func example() State {
	web, db := service1("default", "web", "10.96.0.10"), headless("default", "db")
	dual := service1("prod", "dual", "10.96.0.20", "fd00::20")
	unready := headless("prod", "unready")
	eager := headless("prod", "eager")
	eager.Spec.PublishNotReadyAddresses = true
	return State{
		Services: []*corev1.Service{
			web, db, dual, unready, eager, alias("default", "out", "example.com"), alias("default", "in", "web.default.svc.cluster.local"),
			alias("default", "circle", "circle.default.svc.cluster.local"),
		},
		Slices: []*discoveryv1.EndpointSlice{
			endpoints(web, at("10.244.0.5", "", true), at("10.244.0.6", "", false)),
			endpoints(db, at("10.244.0.7", "db-0", true), at("10.244.0.8", "db-1", true), at("10.244.0.9", "", true), at("10.244.0.10", "db-2", false)),
			endpoints(unready, at("10.244.0.11", "", false)),
			endpoints(eager, at("10.244.0.12", "eager-0", false)),
		},
		Pods: []*corev1.Pod{pod("default", "p", "10.244.0.5")},
	}
}
