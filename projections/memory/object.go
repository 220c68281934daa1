package memory

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Decoded makes an object that is decoded when somebody first asks for its typed form. o.Kind may be nil: then it is the set's
// kind of the reference's resource or, when the set has none (a custom resource), one made from what the JSON says of itself.
func Decoded(kinds *domain.Set, o projections.Object) *projections.Object {
	if o.Kind == nil {
		o.Kind = KindOf(kinds, o.Ref, o.JSON)
	}
	if domain.IsSealed(o.JSON) {
		return opened(kinds, o)
	}
	l := &lazy{kind: o.Kind, data: o.JSON, position: o.Position}
	return projections.NewObject(o, l.get)
}

// opened makes an object whose payload is opened, with the set's keys, when somebody first asks for its typed form. That is kept
// as long as the object is: what was read once stays readable here when its key is destroyed.
func opened(kinds *domain.Set, o projections.Object) *projections.Object {
	var keys domain.Keys
	if kinds != nil {
		keys = kinds.Keys()
	}
	return projections.NewObject(o, sync.OnceValues(func() (runtime.Object, error) {
		return domain.DecodeOpen(o.Kind, o.Ref, o.JSON, o.Position, keys)
	}))
}

// Broken makes an object that cannot be read: it is kept, with the error as its typed form, so that it breaks nothing else.
func Broken(o projections.Object, err error) *projections.Object {
	return projections.NewObject(o, func() (runtime.Object, error) { return nil, err })
}

// Known makes an object whose typed form is at hand and never changes. It returns false when typed is not of the Go type that
// decoding would give.
func Known(o projections.Object, typed runtime.Object) (*projections.Object, bool) {
	if reflect.TypeOf(typed) != reflect.TypeOf(o.Kind.New()) {
		return nil, false
	}
	typed, err := withVersion(typed, o.Kind.GroupVersionKind(), o.Position)
	if err != nil {
		return nil, false
	}
	return projections.NewObject(o, func() (runtime.Object, error) { return typed, nil }), true
}

// KindOf returns the set's kind of a resource, or one made from what the object says of itself.
func KindOf(kinds *domain.Set, ref domain.Ref, data []byte) *domain.Kind {
	if k, ok := kinds.ByResource(ref.GroupResource()); ok {
		return k
	}
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	k := &domain.Kind{
		Group: ref.Group, Resource: ref.Resource, Namespaced: ref.Namespace != "",
		New: func() runtime.Object { return &unstructured.Unstructured{} },
	}
	if err := json.Unmarshal(data, &head); err == nil { // else decoding says so
		k.Version, k.Kind = schema.FromAPIVersionAndKind(head.APIVersion, head.Kind).Version, head.Kind
	}
	return k
}

// lazy decodes once.
type lazy struct {
	once     sync.Once
	kind     *domain.Kind
	data     []byte
	position uint64
	typed    runtime.Object
	err      error
}

func (l *lazy) get() (runtime.Object, error) {
	l.once.Do(func() {
		l.typed, l.err = domain.Decode(l.kind, l.data, l.position)
		l.data = nil
	})
	return l.typed, l.err
}

// withVersion returns a copy of the outermost part of an object with its type and resourceVersion set; everything else is shared.
func withVersion(obj runtime.Object, gvk schema.GroupVersionKind, position uint64) (runtime.Object, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		u = &unstructured.Unstructured{Object: copyMap(u.Object)}
		if metadata, ok := u.Object["metadata"].(map[string]any); ok {
			u.Object["metadata"] = copyMap(metadata)
		}
		u.SetResourceVersion(version(position))
		return u, nil
	}
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return nil, fmt.Errorf("%T is not an object", obj)
	}
	c := reflect.New(v.Type().Elem())
	c.Elem().Set(v.Elem())
	out, ok := c.Interface().(runtime.Object)
	if !ok {
		return nil, fmt.Errorf("%T is not an object", obj)
	}
	m, err := meta.Accessor(out)
	if err != nil {
		return nil, err
	}
	m.SetResourceVersion(version(position))
	out.GetObjectKind().SetGroupVersionKind(gvk)
	return out, nil
}

func version(position uint64) string {
	if position == 0 {
		return ""
	}
	return strconv.FormatUint(position, 10)
}

func copyMap(m map[string]any) map[string]any {
	c := make(map[string]any, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}
