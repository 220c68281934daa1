package registry

import (
	"fmt"
	"net"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/projections"
)

// serviceAddresses tells where a webhook's service is reached: at its cluster address.
type serviceAddresses struct{ live projections.Live }

// ResolveEndpoint implements upstream's ServiceResolver.
func (s *serviceAddresses) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	svc, ok := projections.Get[*corev1.Service](s.live.Snapshot(), servicesOf, namespace, name)
	if !ok {
		return nil, fmt.Errorf("the webhook's service %s/%s does not exist", namespace, name)
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(svc.Spec.ExternalName, strconv.Itoa(int(port)))}, nil
	}
	if svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil, fmt.Errorf("the webhook's service %s/%s has no cluster address", namespace, name)
	}
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(svc.Spec.ClusterIP, strconv.Itoa(int(port)))}, nil
}
