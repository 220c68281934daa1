// Package bootstrap holds the objects that every cluster has from its first moment, and puts those that are missing there by
// commands like any others.
package bootstrap

import (
	"net"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	schedulingv1 "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

// Cluster says what of the objects differs from cluster to cluster.
type Cluster struct {
	ServiceCIDR string
	APIService  net.IP // the address of the service "kubernetes"
	DNSService  net.IP // the address of the service "kube-dns"
	Advertise   net.IP // where the API server is reached
	Port        int
}

// Stage is a set of objects that may be made at the same time.
type Stage []runtime.Object

// Stages returns all objects in the order in which they must come to be: services need a range of addresses, and everything its
// namespace.
func (c Cluster) Stages() []Stage {
	return []Stage{namespaces(), append(append(roles(), priorities()...), c.addresses()), c.services()}
}

func namespaces() Stage {
	var out Stage
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		out = append(out, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	return out
}

func priorities() Stage {
	var out Stage
	for _, p := range schedulingv1.SystemPriorityClasses() {
		out = append(out, p)
	}
	return out
}

func (c Cluster) addresses() runtime.Object {
	return &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{c.ServiceCIDR}},
	}
}

func (c Cluster) services() Stage {
	return Stage{
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{
				Name: "kubernetes", Namespace: metav1.NamespaceDefault,
				Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"},
			},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeClusterIP, ClusterIP: c.APIService.String(), ClusterIPs: []string{c.APIService.String()},
				Ports: []corev1.ServicePort{{
					Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(int32(c.Port)),
				}},
			},
		},
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{
				Name: "kube-dns", Namespace: metav1.NamespaceSystem,
				Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"},
			},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeClusterIP, ClusterIP: c.DNSService.String(), ClusterIPs: []string{c.DNSService.String()},
				Ports: []corev1.ServicePort{
					{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
					{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
				},
			},
		},
	}
}

// roles returns upstream's roles and bindings, and those for what is ours.
func roles() Stage {
	var out Stage
	for _, set := range [][]rbacv1.ClusterRole{bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles(), ourRoles()} {
		for i := range set {
			out = append(out, &set[i])
		}
	}
	for _, set := range [][]rbacv1.ClusterRoleBinding{
		bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings(), ourBindings(),
	} {
		for i := range set {
			out = append(out, &set[i])
		}
	}
	for namespace, set := range bootstrappolicy.NamespaceRoles() {
		for i := range set {
			set[i].Namespace = namespace
			out = append(out, &set[i])
		}
	}
	for namespace, set := range bootstrappolicy.NamespaceRoleBindings() {
		for i := range set {
			set[i].Namespace = namespace
			out = append(out, &set[i])
		}
	}
	return out
}

func ourRoles() []rbacv1.ClusterRole {
	return []rbacv1.ClusterRole{
		{
			ObjectMeta: metav1.ObjectMeta{Name: "shiplog:join"},
			Rules:      []rbacv1.PolicyRule{{NonResourceURLs: []string{"/shiplog/v1/ca"}, Verbs: []string{"get"}}},
		},
		{
			ObjectMeta: metav1.ObjectMeta{Name: "shiplog:node-feed"},
			Rules:      []rbacv1.PolicyRule{{NonResourceURLs: []string{"/shiplog/v1/nodes/*"}, Verbs: []string{"get"}}},
		},
	}
}

func ourBindings() []rbacv1.ClusterRoleBinding {
	bind := func(name, role string, groups ...string) rbacv1.ClusterRoleBinding {
		b := rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		}
		for _, g := range groups {
			b.Subjects = append(b.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: g})
		}
		return b
	}
	return []rbacv1.ClusterRoleBinding{
		bind("shiplog:join", "shiplog:join", "system:unauthenticated", "system:authenticated"),
		bind("shiplog:node-feed", "shiplog:node-feed", "system:nodes"),
		bind("shiplog:node-bootstrapper", "system:node-bootstrapper", "system:bootstrappers"),
	}
}
