package memory

import (
	"fmt"
	"reflect"
	"strconv"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// New returns the cluster that consists of some typed objects, as of a position: the "Given view" of a test. An object whose
// resourceVersion is a number was last changed at that position, any other at the given one. The objects are copied.
//
// New panics when an object is of no kind of the set, or cannot be encoded: that is a mistake in the test.
func New(kinds *domain.Set, position uint64, objects ...runtime.Object) projections.Reader {
	return NewSnapshot(kinds, position, objects...)
}

// NewSnapshot is New for those who also want what a Snapshot has.
func NewSnapshot(kinds *domain.Set, position uint64, objects ...runtime.Object) *Snapshot {
	byType := make(map[reflect.Type]*domain.Kind)
	for _, k := range kinds.All() {
		byType[reflect.TypeOf(k.New())] = k
	}
	s := NewStore()
	for _, typed := range objects {
		k, ok := kinds.ByKind(typed.GetObjectKind().GroupVersionKind().GroupKind())
		if !ok {
			k, ok = byType[reflect.TypeOf(typed)]
		}
		if !ok {
			panic(fmt.Sprintf("memory: no kind of the set is a %T", typed))
		}
		o, err := given(k, typed, position)
		if err != nil {
			panic(fmt.Sprintf("memory: taking a %T: %v", typed, err))
		}
		s.Put(o)
	}
	return s.Snapshot(position)
}

func given(k *domain.Kind, typed runtime.Object, position uint64) (*projections.Object, error) {
	m, err := meta.Accessor(typed)
	if err != nil {
		return nil, err
	}
	if n, err := strconv.ParseUint(m.GetResourceVersion(), 10, 64); err == nil {
		position = n
	}
	ref, err := domain.ObjectRef(k, typed)
	if err != nil {
		return nil, err
	}
	data, err := domain.Encode(k, typed)
	if err != nil {
		return nil, err
	}
	o, ok := Known(projections.Object{Kind: k, Ref: ref, Position: position, JSON: data}, typed.DeepCopyObject())
	if !ok {
		return nil, fmt.Errorf("it is not of the Go type of %s", k.GroupVersionKind())
	}
	return o, nil
}
