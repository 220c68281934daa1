package policy

import (
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// State is everything that the rules depend on. The objects are not changed.
type State struct {
	Policies   []*networkingv1.NetworkPolicy
	Namespaces []*corev1.Namespace
	Pods       []*corev1.Pod // all that may be a peer; those whose spec.nodeName is NodeName are guarded
	NodeName   string
}

// Options are the choices of an installation. Zero values are the defaults in parentheses.
type Options struct {
	ChainPrefix string        // what our chains' and sets' names begin with ("SHIPLOG"); the same as the other rooms'
	MarkBit     int           // the bit of the packet mark that says "allowed" (17)
	IPTables    string        // the iptables program ("iptables")
	IPSet       string        // the ipset program ("ipset")
	LockWait    time.Duration // how long a command waits for the xtables lock (5 s)
	Logger      *slog.Logger  // (slog.Default())
}

// podInfo is what the rules need of a pod.
type podInfo struct {
	namespace, name string
	labels          map[string]string
	ip              netip.Addr
	ports           []corev1.ContainerPort
	local           bool
}

// podsOf returns the pods that have an address of their own.
func podsOf(s State) []podInfo {
	var found []podInfo
	for _, p := range s.Pods {
		ip, err := netip.ParseAddr(p.Status.PodIP)
		if err != nil || !ip.Is4() || p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		info := podInfo{namespace: p.Namespace, name: p.Name, labels: p.Labels, ip: ip, local: s.NodeName != "" && p.Spec.NodeName == s.NodeName}
		// The sidecars among the init containers have ports, too.
		for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range containers {
				info.ports = append(info.ports, containers[i].Ports...)
			}
		}
		found = append(found, info)
	}
	return found
}
