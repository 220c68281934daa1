package agent

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections/nodefeed"
)

func core(resource string) domain.Resource { return domain.Resource{Resource: resource} }

// cluster is what the node knows of the cluster, by the names that this room uses.
type cluster struct{ copy *nodefeed.Copy }

// ConfigMap implements volumes.Objects.
func (c cluster) ConfigMap(namespace, name string) (*corev1.ConfigMap, bool) {
	return nodefeed.Get[*corev1.ConfigMap](c.copy, core("configmaps"), namespace, name)
}

// Secret implements volumes.Objects.
func (c cluster) Secret(namespace, name string) (*corev1.Secret, bool) {
	return nodefeed.Get[*corev1.Secret](c.copy, core("secrets"), namespace, name)
}

// Claim implements volumes.Objects.
func (c cluster) Claim(namespace, name string) (*corev1.PersistentVolumeClaim, bool) {
	return nodefeed.Get[*corev1.PersistentVolumeClaim](c.copy, core("persistentvolumeclaims"), namespace, name)
}

// PersistentVolume implements volumes.Objects.
func (c cluster) PersistentVolume(name string) (*corev1.PersistentVolume, bool) {
	return nodefeed.Get[*corev1.PersistentVolume](c.copy, core("persistentvolumes"), "", name)
}

func (c cluster) serviceAccount(namespace, name string) (*corev1.ServiceAccount, bool) {
	return nodefeed.Get[*corev1.ServiceAccount](c.copy, core("serviceaccounts"), namespace, name)
}

func (c cluster) node(name string) (*corev1.Node, bool) {
	return nodefeed.Get[*corev1.Node](c.copy, core("nodes"), "", name)
}

func (c cluster) pods() []*corev1.Pod {
	return slices.Collect(nodefeed.List[*corev1.Pod](c.copy, core("pods"), ""))
}

func (c cluster) services() []*corev1.Service {
	return slices.Collect(nodefeed.List[*corev1.Service](c.copy, core("services"), ""))
}

// servicesFor are those whose variables a pod's containers may get.
func (c cluster) servicesFor(namespace string) []*corev1.Service {
	out := slices.Collect(nodefeed.List[*corev1.Service](c.copy, core("services"), namespace))
	if namespace != corev1.NamespaceDefault {
		if s, ok := nodefeed.Get[*corev1.Service](c.copy, core("services"), corev1.NamespaceDefault, "kubernetes"); ok {
			out = append(out, s)
		}
	}
	return out
}

func (c cluster) policies() []*networkingv1.NetworkPolicy {
	gr := domain.Resource{Group: networkingv1.GroupName, Resource: "networkpolicies"}
	return slices.Collect(nodefeed.List[*networkingv1.NetworkPolicy](c.copy, gr, ""))
}

func (c cluster) namespaces() []*corev1.Namespace {
	return slices.Collect(nodefeed.List[*corev1.Namespace](c.copy, core("namespaces"), ""))
}

func (c cluster) slices() []*discoveryv1.EndpointSlice {
	gr := domain.Resource{Group: discoveryv1.GroupName, Resource: "endpointslices"}
	return slices.Collect(nodefeed.List[*discoveryv1.EndpointSlice](c.copy, gr, ""))
}
