package projections

import (
	"iter"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/domain"
)

// Object is one object as of one position. It is shared by all who read it: never change it or anything it points to.
type Object struct {
	Kind     *domain.Kind
	Ref      domain.Ref
	Position uint64 // of its last event; its resourceVersion
	Revision uint64 // of its last event in its stream; what the next append expects
	// JSON is canonical, without a resourceVersion, as the log has it: what a kind seals is sealed. See Document.
	JSON []byte

	typed func() (runtime.Object, error)
}

// NewObject makes an object whose typed form is given by a function, called at the first need and remembered by it.
func NewObject(o Object, typed func() (runtime.Object, error)) *Object {
	o.typed = typed
	return &o
}

// Typed returns the object as the Go type of its kind's version (*corev1.Pod), resourceVersion set. Never change it.
func (o *Object) Typed() (runtime.Object, error) { return o.typed() }

// Document returns the object in canonical JSON for readers: JSON, but for one whose payload is sealed with the payload in its place or,
// when it is erased, with the marker domain.ErasedAnnotation.
func (o *Object) Document() ([]byte, error) {
	if !domain.IsSealed(o.JSON) {
		return o.JSON, nil
	}
	typed, err := o.Typed()
	if err != nil {
		return nil, err
	}
	return domain.Encode(o.Kind, typed)
}

// Reader reads the cluster as it is at one position: a consistent snapshot, free of locks and safe for many goroutines.
type Reader interface {
	// Position is the last event that the snapshot reflects.
	Position() uint64
	Get(gr domain.Resource, namespace, name string) (*Object, bool)
	// List yields the objects of a resource ordered by namespace and name; namespace "" means all.
	List(gr domain.Resource, namespace string) iter.Seq[*Object]
	// Index yields the objects whose index (see domain.Kind.Indexes) holds the value.
	Index(gr domain.Resource, index, value string) iter.Seq[*Object]
}

// Get returns an object as its Go type, or false when it is not there or cannot be read as a T.
func Get[T runtime.Object](r Reader, gr domain.Resource, namespace, name string) (T, bool) {
	var zero T
	o, ok := r.Get(gr, namespace, name)
	if !ok {
		return zero, false
	}
	return As[T](o)
}

// As returns an object as its Go type, or false when it cannot be read as a T.
func As[T runtime.Object](o *Object) (T, bool) {
	typed, err := o.Typed()
	if err != nil {
		var zero T
		return zero, false
	}
	t, ok := typed.(T)
	return t, ok
}

// List yields the objects of a resource as their Go type, those that cannot be read as a T left out.
func List[T runtime.Object](r Reader, gr domain.Resource, namespace string) iter.Seq[T] {
	return typedSeq[T](r.List(gr, namespace))
}

// Index yields the objects under an index value as their Go type, those that cannot be read as a T left out.
func Index[T runtime.Object](r Reader, gr domain.Resource, index, value string) iter.Seq[T] {
	return typedSeq[T](r.Index(gr, index, value))
}

func typedSeq[T runtime.Object](objects iter.Seq[*Object]) iter.Seq[T] {
	return func(yield func(T) bool) {
		for o := range objects {
			if t, ok := As[T](o); ok && !yield(t) {
				return
			}
		}
	}
}
