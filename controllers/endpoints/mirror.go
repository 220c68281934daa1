package endpoints

//lint:file-ignore SA1019 Endpoints are deprecated for those who write clients; a cluster keeps them for those who still read them.

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

const mirrorManager = "endpointslicemirroring-controller.k8s.io"

// Mirror makes EndpointSlices from the Endpoints of Services without selectors, which people or programs write.
type Mirror struct{}

// NewMirror makes the controller.
func NewMirror() controllers.Controller { return Mirror{} }

// Name implements controllers.Controller.
func (Mirror) Name() string { return "endpointslicemirroring-controller" }

// Inputs implements controllers.Controller.
func (Mirror) Inputs() []controllers.Input {
	return []controllers.Input{
		{Resource: endpointsGR, Why: "what is written by hand", Keys: func(_ projections.Reader, ch projections.Change) []controllers.Key {
			return []controllers.Key{controllers.KeyOf(services, ch.Event.Ref.Namespace, ch.Event.Ref.Name)}
		}},
		{Resource: services, Why: "whether there is a selector"},
		{Resource: slicesGR, Why: "what is there", Keys: serviceOfSlice(mirrorManager)},
	}
}

// Outputs implements controllers.Controller.
func (Mirror) Outputs() []controllers.Output {
	return []controllers.Output{{
		Resource: slicesGR, Of: "of services without a selector", Creates: true, Deletes: true, Fields: []string{"endpoints", "ports", "metadata.labels", "metadata.ownerReferences"},
	}}
}

// Reconcile implements controllers.Controller. The key is a service.
func (Mirror) Reconcile(view projections.Reader, key controllers.Key, _ time.Time) (controllers.Decision, error) {
	existing := slicesOf(view, key.Namespace, key.Name, mirrorManager)
	e, at, ok := controllers.Fetch[*corev1.Endpoints](view, controllers.KeyOf(endpointsGR, key.Namespace, key.Name))
	svc, _, has := controllers.Fetch[*corev1.Service](view, key)
	if !ok || !has || svc.Spec.Selector != nil || e.DeletionTimestamp != nil || svc.DeletionTimestamp != nil || e.Labels[discoveryv1.LabelSkipMirror] == "true" || elsewhere(e) {
		var d controllers.Decision
		for _, s := range existing {
			d.Commands = append(d.Commands, controllers.Delete(resources.EndpointSlices, s))
		}
		return d, nil
	}
	a := arrangement{
		view: view, namespace: e.Namespace, prefix: e.Name + "-", uid: e.UID, position: at.Position,
		owner:    *metav1.NewControllerRef(e, endpointsKind),
		labels:   labelsFrom(e.Labels, map[string]string{discoveryv1.LabelServiceName: e.Name, discoveryv1.LabelManagedBy: mirrorManager}),
		existing: existing,
	}
	total := 0
	for i := range e.Subsets {
		groups := mirrored(&e.Subsets[i])
		for _, f := range slices.Sorted(maps.Keys(groups)) {
			total += len(groups[f].endpoints)
			a.groups = append(a.groups, groups[f])
		}
	}
	var cs []commands.Command
	if len(a.groups) > 0 || len(existing) > 0 {
		cs = a.commands()
	}
	return controllers.Decision{Commands: cs, Settle: settle(total)}, nil
}

// mirrored makes groups, by address family, of a subset.
func mirrored(s *corev1.EndpointSubset) map[discoveryv1.AddressType]*group {
	var ports []discoveryv1.EndpointPort
	for i := range s.Ports {
		p := s.Ports[i]
		ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	groups := map[discoveryv1.AddressType]*group{}
	add := func(as []corev1.EndpointAddress, ready bool) {
		for _, a := range as {
			ip, err := netip.ParseAddr(a.IP)
			if err != nil {
				continue
			}
			family := discoveryv1.AddressTypeIPv4
			if ip.Is6() {
				family = discoveryv1.AddressTypeIPv6
			}
			e := discoveryv1.Endpoint{Addresses: []string{a.IP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, TargetRef: a.TargetRef, NodeName: a.NodeName}
			if a.Hostname != "" {
				e.Hostname = &a.Hostname
			}
			if groups[family] == nil {
				groups[family] = &group{family: family, ports: ports}
			}
			groups[family].endpoints = append(groups[family].endpoints, e)
		}
	}
	add(s.Addresses, true)
	add(s.NotReadyAddresses, false)
	return groups
}
