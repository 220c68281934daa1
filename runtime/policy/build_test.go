package policy

import (
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shiplog/shiplog/runtime/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

func namespace(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// pod is a pod of node n1 that serves "http" on 8080 and "dns" on UDP 5353.
func pod(ns, name, ip string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: labels},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
			{Name: "http", ContainerPort: 8080}, {Name: "dns", ContainerPort: 5353, Protocol: corev1.ProtocolUDP},
		}}}},
		Status: corev1.PodStatus{PodIP: ip},
	}
}

func policy(ns, name string, selector map[string]string, spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
	spec.PodSelector = metav1.LabelSelector{MatchLabels: selector}
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: spec}
}

func podPeer(labels map[string]string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: labels}}
}

func namespacePeer(labels map[string]string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: labels}}
}

func blockPeer(cidr string, except ...string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: except}}
}

func port(protocol corev1.Protocol, port intstr.IntOrString) networkingv1.NetworkPolicyPort {
	return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &port}
}

func portRange(first, last int32) networkingv1.NetworkPolicyPort {
	p := port(corev1.ProtocolTCP, intstr.FromInt32(first))
	p.EndPort = &last
	return p
}

// deny isolates the pods it selects from everybody.
var deny = networkingv1.NetworkPolicySpec{}

var (
	web   = map[string]string{"app": "web"}
	store = map[string]string{"app": "store"}
	prod  = map[string]string{"env": "prod"}
)

func example(policies ...*networkingv1.NetworkPolicy) State {
	away := pod("other", "away", "10.244.1.9", web)
	away.Spec.NodeName = "n2"
	return State{
		Policies: policies, NodeName: "n1",
		Namespaces: []*corev1.Namespace{namespace("default", prod), namespace("other", nil)},
		Pods:       []*corev1.Pod{pod("default", "web", "10.244.0.2", web), pod("default", "store", "10.244.0.3", store), away},
	}
}
