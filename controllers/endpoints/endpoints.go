package endpoints

//lint:file-ignore SA1019 Endpoints are deprecated for those who write clients; a cluster keeps them for those who still read them.

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

// maxAddresses is how many addresses an Endpoints object holds; more are left out, and an annotation says so.
const maxAddresses = 1000

// managedBy says on an Endpoints object that it is not written by hand.
const (
	managedBy           = "endpoints.kubernetes.io/managed-by"
	endpointsController = "endpoint-controller"
)

func itoa(n int32) string { return strconv.Itoa(int(n)) }

// Endpoints keeps the Endpoints objects of Services with selectors.
type Endpoints struct{}

// NewEndpoints makes the controller.
func NewEndpoints() controllers.Controller { return Endpoints{} }

// Name implements controllers.Controller.
func (Endpoints) Name() string { return endpointsController }

// Inputs implements controllers.Controller.
func (Endpoints) Inputs() []controllers.Input {
	return []controllers.Input{
		{Resource: services, Why: "what is wanted"},
		{Resource: pods.Resource, Why: "who answers", Keys: ofPod},
		{Resource: endpointsGR, Why: "what is there", Keys: func(_ projections.Reader, ch projections.Change) []controllers.Key {
			return []controllers.Key{controllers.KeyOf(services, ch.Event.Ref.Namespace, ch.Event.Ref.Name)}
		}},
	}
}

// Outputs implements controllers.Controller.
func (Endpoints) Outputs() []controllers.Output {
	return []controllers.Output{{
		Resource: endpointsGR, Of: "of services with a selector", Creates: true, Deletes: true, Fields: []string{"subsets", "metadata.labels", "metadata.annotations"},
	}}
}

// Reconcile implements controllers.Controller. The key is a service.
func (Endpoints) Reconcile(view projections.Reader, key controllers.Key, _ time.Time) (controllers.Decision, error) {
	have, exists := projections.Get[*corev1.Endpoints](view, endpointsGR, key.Namespace, key.Name)
	svc, _, ok := controllers.Fetch[*corev1.Service](view, key)
	if !ok || svc.DeletionTimestamp != nil {
		// Endpoints go with their service, also those written by hand.
		if exists && have.DeletionTimestamp == nil && !elsewhere(have) {
			return controllers.Decision{Commands: []commands.Command{controllers.Delete(resources.Endpoints, have)}}, nil
		}
		return controllers.Decision{}, nil
	}
	if !selects(svc) {
		return controllers.Decision{}, nil
	}
	found := members(view, svc, svc.Spec.PublishNotReadyAddresses)
	subsets, truncated := subsetsOf(svc, found)
	d := controllers.Decision{Settle: settle(len(found))}
	want := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name}}
	if exists {
		want = have.DeepCopy()
	}
	want.Subsets = subsets
	want.Labels = maps.Clone(svc.Labels)
	if want.Labels == nil {
		want.Labels = map[string]string{}
	}
	want.Labels[managedBy] = endpointsController
	delete(want.Labels, corev1.IsHeadlessService)
	if headless(svc) {
		want.Labels[corev1.IsHeadlessService] = ""
	}
	if truncated {
		if want.Annotations == nil {
			want.Annotations = map[string]string{}
		}
		want.Annotations[corev1.EndpointsOverCapacity] = "truncated"
	} else {
		delete(want.Annotations, corev1.EndpointsOverCapacity)
	}
	switch {
	case !exists:
		d.Commands = append(d.Commands, controllers.Create(resources.Endpoints, want))
	case !sameSubsets(want.Subsets, have.Subsets) || !maps.Equal(want.Labels, have.Labels) || !equal(want.Annotations, have.Annotations):
		d.Commands = append(d.Commands, controllers.Update(resources.Endpoints, want))
	}
	return d, nil
}

// elsewhere says whether an Endpoints object without a service has another use: a leader election's lock.
func elsewhere(e *corev1.Endpoints) bool {
	_, lock := e.Annotations["control-plane.alpha.kubernetes.io/leader"]
	return lock
}

// subsetsOf groups the pods by the ports that they have. Ready addresses are kept first when there are too many.
func subsetsOf(svc *corev1.Service, found []*corev1.Pod) (subsets []corev1.EndpointSubset, truncated bool) {
	family := families(svc)[0]
	groups := map[string]*subset{}
	ports := newResolver(svc)
	for _, p := range found {
		ip, text := address(p, family)
		if text == "" {
			continue
		}
		key, list := ports.of(p)
		if len(list) == 0 && !(len(svc.Spec.Ports) == 0 && headless(svc)) {
			continue
		}
		g := groups[string(key)]
		if g == nil {
			g = &subset{ports: endpointPorts(list)}
			groups[string(key)] = g
		}
		if pods.Ready(p) || svc.Spec.PublishNotReadyAddresses {
			g.ready = append(g.ready, member{ip: ip, text: text, pod: p})
		} else {
			g.notReady = append(g.notReady, member{ip: ip, text: text, pod: p})
		}
	}
	room := maxAddresses
	take := func(ms []member) []corev1.EndpointAddress {
		slices.SortFunc(ms, func(a, b member) int {
			return cmp.Or(a.ip.Compare(b.ip), strings.Compare(string(a.pod.UID), string(b.pod.UID)))
		})
		if len(ms) > room {
			ms, truncated = ms[:room], true
		}
		room -= len(ms)
		var out []corev1.EndpointAddress
		for _, m := range ms {
			a := corev1.EndpointAddress{IP: m.text, Hostname: hostname(svc, m.pod), TargetRef: targetRef(m.pod)}
			if m.pod.Spec.NodeName != "" {
				a.NodeName = &m.pod.Spec.NodeName
			}
			out = append(out, a)
		}
		return out
	}
	keys := slices.Sorted(maps.Keys(groups))
	made := make([]corev1.EndpointSubset, len(keys))
	for i, k := range keys {
		made[i] = corev1.EndpointSubset{Addresses: take(groups[k].ready), Ports: groups[k].ports}
	}
	for i, k := range keys {
		made[i].NotReadyAddresses = take(groups[k].notReady)
		if len(made[i].Addresses)+len(made[i].NotReadyAddresses) > 0 {
			subsets = append(subsets, made[i])
		}
	}
	return subsets, truncated
}

type subset struct {
	ports           []corev1.EndpointPort
	ready, notReady []member
}

type member struct {
	ip   netip.Addr
	text string
	pod  *corev1.Pod
}

func endpointPorts(ports []discoveryv1.EndpointPort) []corev1.EndpointPort {
	var out []corev1.EndpointPort
	for _, p := range ports {
		out = append(out, corev1.EndpointPort{Name: *p.Name, Port: *p.Port, Protocol: *p.Protocol, AppProtocol: p.AppProtocol})
	}
	return out
}
