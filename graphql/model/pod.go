package model

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/graphql/view"
	"github.com/shiplog/shiplog/projections"
)

// The collections that the typed kinds are found in.
var (
	podsResource        = domain.Resource{Resource: "pods"}
	nodesResource       = domain.Resource{Resource: "nodes"}
	servicesResource    = domain.Resource{Resource: "services"}
	configMapsResource  = domain.Resource{Resource: "configmaps"}
	namespacesResource  = domain.Resource{Resource: "namespaces"}
	controllersResource = domain.Resource{Resource: "replicationcontrollers"}
	deploymentsResource = domain.Resource{Group: "apps", Resource: "deployments"}
	replicaSetsResource = domain.Resource{Group: "apps", Resource: "replicasets"}
	slicesResource      = domain.Resource{Group: "discovery.k8s.io", Resource: "endpointslices"}
)

// Pod is a group of containers.
type Pod struct{ *base }

func newPod(v *view.View, o *projections.Object) *Pod { return &Pod{&base{view: v, obj: o}} }

func (p *Pod) typed() (*corev1.Pod, error) { return typedOf[*corev1.Pod](p.base) }

// PodOf returns one pod.
func PodOf(ctx context.Context, v *view.View, namespace, name string) (*Pod, error) {
	return one(ctx, v, podsResource, namespace, name, newPod)
}

// one returns an object of a built-in kind, or nil.
func one[T any](ctx context.Context, v *view.View, gr domain.Resource, namespace, name string, wrap func(*view.View, *projections.Object) *T) (*T, error) {
	k, err := v.Set().Kind(gr.String())
	if err != nil {
		return nil, err
	}
	o, err := v.Get(ctx, k, namespace, name)
	if err != nil || o == nil {
		return nil, err
	}
	return wrap(v, o), nil
}

// PodsOf lists pods.
func PodsOf(ctx context.Context, v *view.View, namespace string, a ListArgs) (*PodConnection, error) {
	list, err := a.list(ctx, v, podsResource, namespace)
	return podPage(v, list, err, a)
}

func podPage(v *view.View, list []*projections.Object, err error, a ListArgs) (*PodConnection, error) {
	if err != nil {
		return nil, err
	}
	edges, nodes, info, total, err := connect(v, list, a.First, a.After, newPod, func(c string, n *Pod) *PodEdge { return &PodEdge{Cursor: c, Node: n} })
	if err != nil {
		return nil, err
	}
	return &PodConnection{Edges: edges, Nodes: nodes, PageInfo: info, TotalCount: total}, nil
}

// ownedPods lists the pods that an object owns.
func (b *base) ownedPods(ctx context.Context, a ListArgs) (*PodConnection, error) {
	k, err := b.set().Kind(podsResource.String())
	if err != nil {
		return nil, err
	}
	list, err := a.filtered(b.children(ctx, k))
	return podPage(b.view, list, err, a)
}

// Phase of its life.
func (p *Pod) Phase() (string, error) {
	t, err := p.typed()
	if err != nil {
		return "", err
	}
	return string(t.Status.Phase), nil
}

// Ready says whether it may get traffic.
func (p *Pod) Ready() (bool, error) {
	t, err := p.typed()
	return err == nil && podReady(t), err
}

func podReady(t *corev1.Pod) bool {
	for i := range t.Status.Conditions {
		if c := &t.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// podText reads a text of a pod.
func podText(p *Pod, read func(*corev1.Pod) string) (*string, error) {
	t, err := p.typed()
	if err != nil {
		return nil, err
	}
	return optional(read(t)), nil
}

// Reason of its phase.
func (p *Pod) Reason() (*string, error) {
	return podText(p, func(t *corev1.Pod) string { return t.Status.Reason })
}

// Message about its phase.
func (p *Pod) Message() (*string, error) {
	return podText(p, func(t *corev1.Pod) string { return t.Status.Message })
}

// IP is its address.
func (p *Pod) IP() (*string, error) {
	return podText(p, func(t *corev1.Pod) string { return t.Status.PodIP })
}

// NodeName is nil until it is bound.
func (p *Pod) NodeName() (*string, error) {
	return podText(p, func(t *corev1.Pod) string { return t.Spec.NodeName })
}

// Node that it is bound to.
func (p *Pod) Node(ctx context.Context) (*Node, error) {
	t, err := p.typed()
	if err != nil || t.Spec.NodeName == "" {
		return nil, err
	}
	return one(ctx, p.view, nodesResource, "", t.Spec.NodeName, newNode)
}

// ServiceAccountName is what it acts as.
func (p *Pod) ServiceAccountName() (string, error) {
	t, err := p.typed()
	if err != nil {
		return "", err
	}
	return t.Spec.ServiceAccountName, nil
}

// QosClass of its resources.
func (p *Pod) QosClass() (string, error) {
	t, err := p.typed()
	if err != nil {
		return "", err
	}
	return string(t.Status.QOSClass), nil
}

// Started is when its node took it on.
func (p *Pod) Started() (*Time, error) {
	t, err := p.typed()
	if err != nil || t.Status.StartTime == nil {
		return nil, err
	}
	return when(t.Status.StartTime.Time), nil
}

// Restarts of all its containers.
func (p *Pod) Restarts() (int, error) {
	t, err := p.typed()
	if err != nil {
		return 0, err
	}
	n := 0
	for i := range t.Status.ContainerStatuses {
		n += int(t.Status.ContainerStatuses[i].RestartCount)
	}
	return n, nil
}

// Conditions of its status.
func (p *Pod) Conditions() ([]*Condition, error) {
	t, err := p.typed()
	if err != nil {
		return nil, err
	}
	out := []*Condition{}
	for _, c := range t.Status.Conditions {
		out = append(out, condition(string(c.Type), string(c.Status), c.Reason, c.Message, c.LastTransitionTime))
	}
	return out, nil
}

// Containers, those that run before the others first.
func (p *Pod) Containers() ([]*Container, error) {
	t, err := p.typed()
	if err != nil {
		return nil, err
	}
	out := []*Container{}
	add := func(specs []corev1.Container, statuses []corev1.ContainerStatus, init bool) {
		for i := range specs {
			out = append(out, containerOf(&specs[i], statuses, init))
		}
	}
	add(t.Spec.InitContainers, t.Status.InitContainerStatuses, true)
	add(t.Spec.Containers, t.Status.ContainerStatuses, false)
	return out, nil
}

func containerOf(spec *corev1.Container, statuses []corev1.ContainerStatus, init bool) *Container {
	c := &Container{Name: spec.Name, Image: spec.Image, Init: init, Requests: quantities(spec.Resources.Requests), Limits: quantities(spec.Resources.Limits)}
	for i := range statuses {
		s := &statuses[i]
		if s.Name != spec.Name {
			continue
		}
		c.Ready, c.Restarts = s.Ready, int(s.RestartCount)
		switch {
		case s.State.Running != nil:
			c.State, c.Started = optional("running"), when(s.State.Running.StartedAt.Time)
		case s.State.Terminated != nil:
			end, code := s.State.Terminated, int(s.State.Terminated.ExitCode)
			c.State, c.Reason, c.Message, c.ExitCode = optional("terminated"), optional(end.Reason), optional(end.Message), &code
			c.Started, c.Finished = when(end.StartedAt.Time), when(end.FinishedAt.Time)
		case s.State.Waiting != nil:
			c.State, c.Reason, c.Message = optional("waiting"), optional(s.State.Waiting.Reason), optional(s.State.Waiting.Message)
		}
	}
	return c
}

// Services whose selector it matches.
func (p *Pod) Services(ctx context.Context) ([]*Service, error) {
	k, err := p.set().Kind(servicesResource.String())
	if err != nil {
		return nil, err
	}
	list, err := p.view.List(ctx, k, p.obj.Ref.Namespace)
	if err != nil {
		return nil, err
	}
	mine := view.LabelsOf(p.obj)
	out := []*Service{}
	for _, o := range list {
		if s, ok := projections.As[*corev1.Service](o); ok && len(s.Spec.Selector) > 0 && labels.SelectorFromSet(s.Spec.Selector).Matches(mine) {
			out = append(out, newService(p.view, o))
		}
	}
	return out, nil
}

// Binding is the last event that bound this pod to a node.
func (p *Pod) Binding(ctx context.Context) (*LogEvent, error) {
	f := view.EventFilter{Kinds: []*domain.Kind{p.obj.Kind}, Namespace: p.obj.Ref.Namespace, Name: p.obj.Ref.Name, UID: p.UID(), Types: []string{"PodBound"}}
	one := 1
	page, err := EventPage(ctx, p.set(), f, &one, nil, false, p.view.Position())
	if err != nil || len(page.Nodes) == 0 {
		return nil, err
	}
	return page.Nodes[0], nil
}
