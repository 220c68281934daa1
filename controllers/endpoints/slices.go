package endpoints

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// sliceManager is the value of the managed-by label of the slices that follow from selectors.
const sliceManager = "endpointslice-controller.k8s.io"

// Slices keeps the EndpointSlices of Services with selectors.
type Slices struct{}

// NewSlices makes the controller.
func NewSlices() controllers.Controller { return Slices{} }

// Name implements controllers.Controller.
func (Slices) Name() string { return "endpointslice-controller" }

// Inputs implements controllers.Controller.
func (Slices) Inputs() []controllers.Input {
	return []controllers.Input{
		{Resource: services, Why: "what is wanted"},
		{Resource: pods.Resource, Why: "who answers", Keys: ofPod},
		{Resource: nodes, Why: "zones", Keys: relabelled},
		{Resource: slicesGR, Why: "what is there", Keys: serviceOfSlice(sliceManager)},
	}
}

// serviceOfSlice returns the service of a slice of one manager.
func serviceOfSlice(manager string) func(projections.Reader, projections.Change) []controllers.Key {
	return func(_ projections.Reader, ch projections.Change) []controllers.Key {
		var keys []controllers.Key
		for _, side := range []*projections.Object{ch.Before, ch.After} {
			s, ok := controllers.Of(side).(*discoveryv1.EndpointSlice)
			if !ok || s.Labels[discoveryv1.LabelManagedBy] != manager || s.Labels[discoveryv1.LabelServiceName] == "" {
				continue
			}
			key := controllers.KeyOf(services, s.Namespace, s.Labels[discoveryv1.LabelServiceName])
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
		return keys
	}
}

// Outputs implements controllers.Controller.
func (Slices) Outputs() []controllers.Output {
	return []controllers.Output{{
		Resource: slicesGR, Of: "of services with a selector", Creates: true, Deletes: true, Fields: []string{"endpoints", "ports", "metadata.labels", "metadata.ownerReferences"},
	}}
}

// Reconcile implements controllers.Controller. The key is a service.
func (Slices) Reconcile(view projections.Reader, key controllers.Key, _ time.Time) (controllers.Decision, error) {
	svc, at, ok := controllers.Fetch[*corev1.Service](view, key)
	if !ok || svc.DeletionTimestamp != nil || !selects(svc) {
		return controllers.Decision{}, nil // the slices of a service that is gone are garbage
	}
	a := arrangement{
		view: view, namespace: svc.Namespace, prefix: svc.Name + "-", uid: svc.UID, position: at.Position,
		owner:    *metav1.NewControllerRef(svc, serviceKind),
		labels:   labelsFrom(svc.Labels, map[string]string{discoveryv1.LabelServiceName: svc.Name, discoveryv1.LabelManagedBy: sliceManager}),
		existing: slicesOf(view, svc.Namespace, svc.Name, sliceManager),
	}
	if headless(svc) {
		a.labels[corev1.IsHeadlessService] = ""
	}
	found := members(view, svc, true)
	zones, ports := zonesOf(view, found), newResolver(svc)
	for _, family := range families(svc) {
		groups := map[string]*group{}
		for _, p := range found {
			_, ip := address(p, family)
			if ip == "" {
				continue
			}
			key, list := ports.of(p)
			g := groups[string(key)]
			if g == nil {
				g = &group{family: family, ports: list}
				groups[string(key)] = g
			}
			g.endpoints = append(g.endpoints, endpoint(svc, p, ip, zones[p.Spec.NodeName]))
		}
		if len(groups) == 0 { // a slice without endpoints says that there are none
			groups[""] = &group{family: family}
		}
		for _, k := range slices.Sorted(maps.Keys(groups)) {
			a.groups = append(a.groups, groups[k])
		}
	}
	return controllers.Decision{Commands: a.commands(), Settle: settle(len(found))}, nil
}

// slicesOf returns the slices of a service that one manager keeps, ordered by name.
func slicesOf(view projections.Reader, namespace, service, manager string) []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for s := range projections.Index[*discoveryv1.EndpointSlice](view, slicesGR, domain.ServiceIndex, namespace+"/"+service) {
		if s.Labels[discoveryv1.LabelManagedBy] == manager && s.DeletionTimestamp == nil {
			out = append(out, s)
		}
	}
	return out
}

// zonesOf returns the zones of the nodes of some pods.
func zonesOf(view projections.Reader, found []*corev1.Pod) map[string]*string {
	zones := map[string]*string{}
	for _, p := range found {
		name := p.Spec.NodeName
		if _, known := zones[name]; known || name == "" {
			continue
		}
		zones[name] = nil
		if n, ok := projections.Get[*corev1.Node](view, nodes, "", name); ok {
			if zone := n.Labels[corev1.LabelTopologyZone]; zone != "" {
				zones[name] = &zone
			}
		}
	}
	return zones
}

func endpoint(svc *corev1.Service, p *corev1.Pod, ip string, zone *string) discoveryv1.Endpoint {
	serving, terminating := pods.Ready(p), p.DeletionTimestamp != nil
	ready := svc.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discoveryv1.Endpoint{
		Addresses:  []string{ip},
		Conditions: discoveryv1.EndpointConditions{Ready: boolean(ready), Serving: boolean(serving), Terminating: boolean(terminating)},
		TargetRef:  targetRef(p),
		Zone:       zone,
	}
	if p.Spec.NodeName != "" {
		e.NodeName = &p.Spec.NodeName
	}
	if h := hostname(svc, p); h != "" {
		e.Hostname = &h
	}
	if ready {
		e.Hints = hints(svc, p.Spec.NodeName, zone)
	}
	return e
}

// hints says to whom an endpoint is near, when the service prefers near ones.
func hints(svc *corev1.Service, node string, zone *string) *discoveryv1.EndpointHints {
	if svc.Spec.TrafficDistribution == nil {
		return nil
	}
	var h discoveryv1.EndpointHints
	switch *svc.Spec.TrafficDistribution {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if node != "" {
			h.ForNodes = []discoveryv1.ForNode{{Name: node}}
		}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	if zone != nil {
		h.ForZones = []discoveryv1.ForZone{{Name: *zone}}
	}
	if len(h.ForNodes)+len(h.ForZones) == 0 {
		return nil
	}
	return &h
}
