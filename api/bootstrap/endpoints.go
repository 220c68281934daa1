package bootstrap

//lint:file-ignore SA1019 clients that know no slices are still about

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Endpoints returns where the API server is reached, as the service "kubernetes" tells it.
func (c Cluster) Endpoints() (*corev1.Endpoints, *discoveryv1.EndpointSlice) {
	family := discoveryv1.AddressTypeIPv4
	if c.Advertise.To4() == nil {
		family = discoveryv1.AddressTypeIPv6
	}
	meta := metav1.ObjectMeta{Name: "kubernetes", Namespace: metav1.NamespaceDefault}
	ep := &corev1.Endpoints{
		ObjectMeta: meta,
		Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: c.Advertise.String()}},
			Ports:     []corev1.EndpointPort{{Name: "https", Port: int32(c.Port), Protocol: corev1.ProtocolTCP}},
		}},
	}
	// The slice says itself whose it is; the mirror of the Endpoints object is not wanted beside it.
	ep.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  meta,
		AddressType: family,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{c.Advertise.String()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
		}},
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To(int32(c.Port)), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "kubernetes"}
	return ep, slice
}
