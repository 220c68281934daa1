package model

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/graphql/view"
	"github.com/shiplog/shiplog/projections"
)

// Service is a stable address for a set of pods.
type Service struct{ *base }

func newService(v *view.View, o *projections.Object) *Service {
	return &Service{&base{view: v, obj: o}}
}

// ServiceOf returns one service.
func ServiceOf(ctx context.Context, v *view.View, namespace, name string) (*Service, error) {
	return one(ctx, v, servicesResource, namespace, name, newService)
}

// ServicesOf lists services.
func ServicesOf(ctx context.Context, v *view.View, namespace string, a ListArgs) (*ServiceConnection, error) {
	list, err := a.list(ctx, v, servicesResource, namespace)
	if err != nil {
		return nil, err
	}
	edges, nodes, info, total, err := connect(v, list, a.First, a.After, newService, func(c string, n *Service) *ServiceEdge { return &ServiceEdge{Cursor: c, Node: n} })
	if err != nil {
		return nil, err
	}
	return &ServiceConnection{Edges: edges, Nodes: nodes, PageInfo: info, TotalCount: total}, nil
}

func readService[T any](s *Service, read func(*corev1.Service) T) (T, error) {
	t, err := typedOf[*corev1.Service](s.base)
	if err != nil {
		var zero T
		return zero, err
	}
	return read(t), nil
}

// Type says how it is reached.
func (s *Service) Type() (string, error) {
	return readService(s, func(t *corev1.Service) string { return string(t.Spec.Type) })
}

// ClusterIP is its address in the cluster; None for a headless one.
func (s *Service) ClusterIP() (*string, error) {
	return readService(s, func(t *corev1.Service) *string { return optional(t.Spec.ClusterIP) })
}

// ClusterIPs are its addresses in the cluster.
func (s *Service) ClusterIPs() ([]string, error) {
	return readService(s, func(t *corev1.Service) []string { return append([]string{}, t.Spec.ClusterIPs...) })
}

// ExternalName is a name outside of the cluster.
func (s *Service) ExternalName() (*string, error) {
	return readService(s, func(t *corev1.Service) *string { return optional(t.Spec.ExternalName) })
}

// SessionAffinity keeps a client at one pod.
func (s *Service) SessionAffinity() (string, error) {
	return readService(s, func(t *corev1.Service) string { return string(t.Spec.SessionAffinity) })
}

// Selector of its pods.
func (s *Service) Selector() ([]*KeyValue, error) {
	return readService(s, func(t *corev1.Service) []*KeyValue { return keyValues(t.Spec.Selector) })
}

// Ports at which it is reached.
func (s *Service) Ports() ([]*ServicePort, error) {
	return readService(s, func(t *corev1.Service) []*ServicePort {
		out := []*ServicePort{}
		for _, p := range t.Spec.Ports {
			port := &ServicePort{Name: optional(p.Name), Protocol: string(p.Protocol), Port: int(p.Port), TargetPort: p.TargetPort.String()}
			if p.NodePort != 0 {
				n := int(p.NodePort)
				port.NodePort = &n
			}
			out = append(out, port)
		}
		return out
	})
}

// Pods that it selects.
func (s *Service) Pods(ctx context.Context, labelSelector, fieldSelector *string, first *int, after *string) (*PodConnection, error) {
	a := ListArgs{labelSelector, fieldSelector, first, after}
	t, err := typedOf[*corev1.Service](s.base)
	if err != nil {
		return nil, err
	}
	if len(t.Spec.Selector) == 0 {
		return podPage(s.view, nil, nil, a)
	}
	list, err := a.list(ctx, s.view, podsResource, s.obj.Ref.Namespace)
	if err != nil {
		return nil, err
	}
	return podPage(s.view, view.Labels(labels.SelectorFromSet(t.Spec.Selector)).Filter(list), nil, a)
}

// Endpoints are where its traffic goes.
func (s *Service) Endpoints(ctx context.Context) ([]*Endpoint, error) {
	k, err := s.set().Kind(slicesResource.String())
	if err != nil {
		return nil, err
	}
	list, err := s.view.Index(ctx, k, s.obj.Ref.Namespace, domain.ServiceIndex, s.obj.Ref.Namespace+"/"+s.Name())
	if err != nil {
		return nil, err
	}
	out := []*Endpoint{}
	for _, o := range list {
		slice, ok := projections.As[*discoveryv1.EndpointSlice](o)
		if !ok {
			continue
		}
		for i := range slice.Endpoints {
			out = append(out, &Endpoint{view: s.view, namespace: slice.Namespace, endpoint: &slice.Endpoints[i]})
		}
	}
	return out, nil
}

// Endpoint is one address behind a service.
type Endpoint struct {
	view      *view.View
	namespace string
	endpoint  *discoveryv1.Endpoint
}

// Addresses are several names of the same endpoint.
func (e *Endpoint) Addresses() []string { return append([]string{}, e.endpoint.Addresses...) }

// Ready endpoints get traffic; one of which nothing is said is ready.
func (e *Endpoint) Ready() bool {
	return e.endpoint.Conditions.Ready == nil || *e.endpoint.Conditions.Ready
}

// NodeName is where it is.
func (e *Endpoint) NodeName() *string { return e.endpoint.NodeName }

// Pod that it is, if it is one.
func (e *Endpoint) Pod(ctx context.Context) (*Pod, error) {
	target := e.endpoint.TargetRef
	if target == nil || target.Kind != "Pod" {
		return nil, nil
	}
	return PodOf(ctx, e.view, e.namespace, target.Name)
}
