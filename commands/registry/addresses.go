package registry

import (
	"context"

	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	networkingclient "k8s.io/client-go/kubernetes/typed/networking/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

var (
	ipAddresses    = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ipaddresses"}
	servicesOf     = domain.Resource{Resource: "services"}
	endpointsOf    = domain.Resource{Group: "discovery.k8s.io", Resource: "endpointslices"}
	addressManager = domain.Actor{User: "system:service-addresses", Groups: []string{"system:masters"}}
)

// addressClient lets upstream's allocator of service addresses reserve them by commands: an address is taken by creating the
// IPAddress of its name, and a name cannot be taken twice. The allocator uses no more of the client than this.
type addressClient struct {
	networkingclient.NetworkingV1Interface
	bus commands.Bus
}

func (c *addressClient) IPAddresses() networkingclient.IPAddressInterface {
	return &addressReservations{IPAddressInterface: c.NetworkingV1Interface.IPAddresses(), bus: c.bus}
}

type addressReservations struct {
	networkingclient.IPAddressInterface
	bus commands.Bus
}

// Create reserves an address.
func (a *addressReservations) Create(ctx context.Context, ip *networkingv1.IPAddress, _ metav1.CreateOptions) (*networkingv1.IPAddress, error) {
	res, err := a.bus.Do(ctx, commands.Command{Verb: commands.Create, Resource: ipAddresses, Name: ip.Name, Object: ip, Actor: addressManager})
	if err != nil {
		return nil, err
	}
	created, ok := res.Object.(*networkingv1.IPAddress)
	if !ok {
		return nil, apierrors.NewInternalError(errNotThatKind)
	}
	return created, nil
}

// Delete releases an address.
func (a *addressReservations) Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error {
	_, err := a.bus.Do(ctx, commands.Command{Verb: commands.Delete, Resource: ipAddresses, Name: name, DeleteOptions: &opts, Actor: addressManager})
	return err
}

// endpointSlices finds the endpoints of services for the API's proxy.
type endpointSlices struct{ live projections.Live }

// GetEndpointSlices implements upstream's EndpointSliceGetter.
func (e endpointSlices) GetEndpointSlices(namespace, service string) ([]*discoveryv1.EndpointSlice, error) {
	var out []*discoveryv1.EndpointSlice
	for s := range projections.Index[*discoveryv1.EndpointSlice](e.live.Snapshot(), endpointsOf, domain.ServiceIndex, namespace+"/"+service) {
		out = append(out, s)
	}
	return out, nil
}
