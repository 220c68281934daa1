package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/graphql/view"
	"github.com/shiplog/shiplog/projections"
)

// Resource is an object of any kind.
type Resource interface {
	IsResource()
	Object() *projections.Object
}

// base has the fields that every object has. What it says comes from the JSON that may be shown, so that an object that cannot be
// read as its Go type can still be seen.
type base struct {
	view *view.View
	obj  *projections.Object

	once  sync.Once
	meta  metav1.ObjectMeta
	shown []byte
}

// Wrap gives an object of a view the type that the schema has for its kind; nil stays nil.
func Wrap(v *view.View, o *projections.Object) Resource {
	if o == nil {
		return nil
	}
	gr := o.Ref.GroupResource()
	switch {
	case gr.Group == "" && gr.Resource == "pods":
		return newPod(v, o)
	case gr.Group == "" && gr.Resource == "nodes":
		return newNode(v, o)
	case gr.Group == "" && gr.Resource == "services":
		return newService(v, o)
	case gr.Group == "" && gr.Resource == "configmaps":
		return newConfigMap(v, o)
	case gr.Group == "" && gr.Resource == "namespaces":
		return newNamespace(v, o)
	case gr.Group == "" && gr.Resource == "replicationcontrollers":
		return newReplicationController(v, o)
	case gr.Group == "apps" && gr.Resource == "deployments":
		return newDeployment(v, o)
	case gr.Group == "apps" && gr.Resource == "replicasets":
		return newReplicaSet(v, o)
	}
	return &Object{base: &base{view: v, obj: o}}
}

// Object is an object of a kind that has no type of its own in the schema.
type Object struct{ *base }

// IsResource marks the type.
func (*base) IsResource() {}

// Object is what is wrapped.
func (b *base) Object() *projections.Object { return b.obj }

func (b *base) load() *base {
	b.once.Do(func() {
		b.shown = view.Document(b.obj)
		var partial struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
		}
		if json.Unmarshal(b.shown, &partial) == nil {
			b.meta = partial.Metadata
		}
	})
	return b
}

// typedOf returns an object as its Go type.
func typedOf[T runtime.Object](b *base) (T, error) {
	t, ok := projections.As[T](b.obj)
	if !ok {
		return t, fmt.Errorf("%s cannot be read as a %s; ask for its json", b.obj.Ref, b.obj.Kind.Kind)
	}
	return t, nil
}

func (b *base) set() *view.Set { return b.view.Set() }

// ID names the object in the cluster.
func (b *base) ID() string { return b.obj.Ref.String() }

// APIVersion is group and version.
func (b *base) APIVersion() string { return b.obj.Kind.GroupVersionKind().GroupVersion().String() }

// Kind is the kind's name.
func (b *base) Kind() string { return b.obj.Kind.Kind }

// Namespace is nil for an object without one.
func (b *base) Namespace() *string { return optional(b.obj.Ref.Namespace) }

// Name is unique for its kind and namespace.
func (b *base) Name() string { return b.obj.Ref.Name }

// UID tells incarnations of a name apart.
func (b *base) UID() string { return string(b.load().meta.UID) }

// Labels are in order of their keys.
func (b *base) Labels() []*KeyValue { return keyValues(b.load().meta.Labels) }

// Label is nil when there is none.
func (b *base) Label(key string) *string { return member(b.load().meta.Labels, key) }

// Annotations are in order of their keys.
func (b *base) Annotations() []*KeyValue { return keyValues(b.load().meta.Annotations) }

// Annotation is nil when there is none.
func (b *base) Annotation(key string) *string { return member(b.load().meta.Annotations, key) }

// Created is when it was created.
func (b *base) Created() *Time { return when(b.load().meta.CreationTimestamp.Time) }

// DeletionRequested is nil when nobody did.
func (b *base) DeletionRequested() *Time {
	if at := b.load().meta.DeletionTimestamp; at != nil {
		return when(at.Time)
	}
	return nil
}

// Position is that of its last event.
func (b *base) Position() Position { return Position(b.obj.Position) }

// AsOf is the position that the answer is of.
func (b *base) AsOf() Position { return Position(b.view.Position()) }

// Redacted says whether parts are withheld.
func (b *base) Redacted() bool { return view.Withholds(b.obj.Ref.GroupResource()) }

// JSON is all that may be shown.
func (b *base) JSON() JSON { return JSON(b.load().shown) }

// Field is a part of the JSON.
func (b *base) Field(path string) (*JSON, error) {
	p, err := domain.ParsePath(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", view.ErrBadRequest, err)
	}
	return value(p.In(b.load().shown)), nil
}

// Owner is the controlling owner, or else the first that is there.
func (b *base) Owner(ctx context.Context) (Resource, error) {
	refs := slices.Clone(b.load().meta.OwnerReferences)
	slices.SortStableFunc(refs, func(x, y metav1.OwnerReference) int { return controls(y) - controls(x) })
	for _, ref := range refs {
		if o, err := b.owner(ctx, ref); err != nil || o != nil {
			return Wrap(b.view, o), err
		}
	}
	return nil, nil
}

func controls(r metav1.OwnerReference) int {
	if r.Controller != nil && *r.Controller {
		return 1
	}
	return 0
}

// Owners are those that are there.
func (b *base) Owners(ctx context.Context) ([]Resource, error) {
	out := []Resource{}
	for _, ref := range b.load().meta.OwnerReferences {
		o, err := b.owner(ctx, ref)
		if err != nil {
			return nil, err
		}
		if o != nil {
			out = append(out, Wrap(b.view, o))
		}
	}
	return out, nil
}

// owner finds what a reference means: the object of that name, unless it is another incarnation.
func (b *base) owner(ctx context.Context, ref metav1.OwnerReference) (*projections.Object, error) {
	k, ok := b.set().Kinds.ByKind(gvk(ref).GroupKind())
	if !ok {
		return nil, nil
	}
	namespace := b.obj.Ref.Namespace
	if !k.Namespaced {
		namespace = ""
	}
	o, err := b.view.Get(ctx, k, namespace, ref.Name)
	if err != nil || o == nil || uidOf(o) != ref.UID {
		return nil, err
	}
	return o, nil
}

func uidOf(o *projections.Object) types.UID {
	if o.Ref.UID != "" {
		return o.Ref.UID
	}
	return types.UID(uidPath.Text(o.JSON))
}

// Children are what it owns; kinds that the caller may not list are left out.
func (b *base) Children(ctx context.Context, kind *string, first *int, after *string) (*ResourceConnection, error) {
	kinds := b.set().Kinds.All()
	if kind != nil {
		k, err := b.set().Kind(*kind)
		if err != nil {
			return nil, err
		}
		kinds = []*domain.Kind{k}
	}
	var list []*projections.Object
	for _, k := range kinds {
		if !k.Namespaced && b.obj.Ref.Namespace != "" {
			continue // an owner with a namespace owns nothing outside of it
		}
		if kind == nil && b.set().Allow(ctx, k, b.obj.Ref.Namespace, "list") != nil {
			continue
		}
		found, err := b.children(ctx, k)
		if kind == nil && k.Retained() && errors.Is(err, projections.ErrTooOld) {
			continue // of such kinds the past is not kept
		}
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	slices.SortFunc(list, func(x, y *projections.Object) int { return cmpString(view.SortKey(x), view.SortKey(y)) })
	return resourcePage(b.view, list, first, after)
}

func (b *base) children(ctx context.Context, k *domain.Kind) ([]*projections.Object, error) {
	uid := b.UID()
	if uid == "" {
		return nil, nil
	}
	return b.view.Index(ctx, k, b.obj.Ref.Namespace, domain.OwnerIndex, uid)
}

// Events are what happened to this incarnation and to those before it, up to the moment of the view.
func (b *base) Events(ctx context.Context, first *int, after *string, oldestFirst bool, types []string) (*LogEventConnection, error) {
	f := view.EventFilter{Kinds: []*domain.Kind{b.obj.Kind}, Namespace: b.obj.Ref.Namespace, Name: b.obj.Ref.Name, Types: types}
	return EventPage(ctx, b.set(), f, first, after, oldestFirst, b.view.Position())
}

// Notes are Kubernetes' own Events about it, oldest first.
func (b *base) Notes(ctx context.Context) ([]*Note, error) {
	k, ok := b.set().Kinds.ByResource(domain.Resource{Resource: "events"})
	uid := b.UID()
	if !ok || uid == "" {
		return []*Note{}, nil
	}
	namespace := b.obj.Ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where notes about objects without a namespace are kept
	}
	list, err := b.view.Index(ctx, k, namespace, domain.InvolvedIndex, uid)
	if errors.Is(err, projections.ErrTooOld) {
		return nil, nil // they are kept for a short time only
	}
	if err != nil {
		return nil, err
	}
	out := []*Note{}
	for _, o := range list {
		if e, ok := projections.As[*corev1.Event](o); ok {
			out = append(out, noteOf(e))
		}
	}
	slices.SortStableFunc(out, compareNotes)
	return out, nil
}

// At is the same object at another moment.
func (b *base) At(ctx context.Context, asOf AsOf) (Resource, error) {
	v, err := b.set().Of(ctx, string(asOf))
	if err != nil {
		return nil, err
	}
	o, err := v.Get(ctx, b.obj.Kind, b.obj.Ref.Namespace, b.obj.Ref.Name)
	return Wrap(v, o), err
}

// ChangesSince compares it with what it was.
func (b *base) ChangesSince(ctx context.Context, asOf AsOf) ([]*FieldChange, error) {
	v, err := b.set().Of(ctx, string(asOf))
	if err != nil {
		return nil, err
	}
	o, err := v.Get(ctx, b.obj.Kind, b.obj.Ref.Namespace, b.obj.Ref.Name)
	if err != nil {
		return nil, err
	}
	return Changes(o, b.obj)
}

// Changes tells how an object became another; nil is not there.
func Changes(before, after *projections.Object) ([]*FieldChange, error) {
	changes, err := view.Changes(before, after)
	if err != nil {
		return nil, err
	}
	return fieldChanges(changes), nil
}

func fieldChanges(changes []domain.FieldChange) []*FieldChange {
	out := make([]*FieldChange, len(changes))
	for i, c := range changes {
		out[i] = &FieldChange{Path: c.Path, Before: JSON(c.Before), After: JSON(c.After)}
	}
	return out
}

func keyValues(m map[string]string) []*KeyValue {
	out := make([]*KeyValue, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, &KeyValue{Key: k, Value: m[k]})
	}
	return out
}

func member(m map[string]string, key string) *string {
	if v, ok := m[key]; ok {
		return &v
	}
	return nil
}

// images are those of the containers that stay.
func images(spec *corev1.PodSpec) []string {
	out := []string{}
	for i := range spec.Containers {
		out = append(out, spec.Containers[i].Image)
	}
	return out
}
