package domain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
)

// Errors of the codec, tested with errors.Is.
var (
	// ErrBadJSON says that data is not one JSON value.
	ErrBadJSON = errors.New("not valid JSON")
	// ErrWrongKind says that data holds an object of another kind or version than its descriptor.
	ErrWrongKind = errors.New("object of another kind")
)

// Encode writes an object in canonical JSON, as the log and the read models keep it: apiVersion and kind set to those of the
// descriptor, without metadata.resourceVersion. The object is not changed.
func Encode(k *Kind, obj runtime.Object) ([]byte, error) {
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	b.raw.Reset()
	enc := json.NewEncoder(&b.raw)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(obj); err != nil {
		return nil, fmt.Errorf("encoding a %s: %w", k.Kind, err)
	}
	c := canonicalizer{in: b.raw.Bytes(), out: b.out[:0], members: b.members[:0], scratch: b.scratch[:0], kind: k}
	err := c.document()
	b.out, b.members, b.scratch = c.out, c.members, c.scratch
	if err != nil {
		return nil, fmt.Errorf("encoding a %s: %w", k.Kind, err)
	}
	return bytes.Clone(c.out), nil
}

// buffers lends the memory that encoding needs; it holds no state that anybody could observe.
var buffers = sync.Pool{New: func() any { return new(buffer) }}

type buffer struct {
	raw     bytes.Buffer
	out     []byte
	members []member
	scratch []byte
}

// Decode reads what Encode wrote as the Go type of the kind. resourceVersion becomes the position, empty for position 0. A sealed
// payload stays closed, and the object says so (see DecodeOpen).
func Decode(k *Kind, data []byte, position uint64) (runtime.Object, error) {
	if IsSealed(data) {
		return decodeErased(k, data, position, ErrErased)
	}
	obj := k.New()
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, obj); err != nil {
		return nil, fmt.Errorf("decoding a %s: %w: %w", k.Kind, ErrBadJSON, err)
	}
	gvk := k.GroupVersionKind()
	if got := obj.GetObjectKind().GroupVersionKind(); got != gvk {
		if got != (schema.GroupVersionKind{}) {
			return nil, fmt.Errorf("decoding a %s: the data holds a %s: %w", gvk, got, ErrWrongKind)
		}
		obj.GetObjectKind().SetGroupVersionKind(gvk)
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, fmt.Errorf("decoding a %s: %w", k.Kind, err)
	}
	m.SetResourceVersion("")
	if position > 0 {
		m.SetResourceVersion(strconv.FormatUint(position, 10))
	}
	return obj, nil
}

// Canonical writes any JSON value in its one canonical form: no whitespace; members ordered by the bytes of their keys as
// written; strings in UTF-8 with no escapes but the necessary ones; numbers as they were written. Of members with the same
// key the last counts, as for encoding/json.
func Canonical(data []byte) ([]byte, error) {
	c := canonicalizer{in: data, out: make([]byte, 0, len(data))}
	if err := c.document(); err != nil {
		return nil, err
	}
	return c.out, nil
}

// ObjectRef names the object that a typed object is, with its uid.
func ObjectRef(k *Kind, obj runtime.Object) (Ref, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return Ref{}, fmt.Errorf("naming a %s: %w", k.Kind, err)
	}
	r := k.Ref(m.GetNamespace(), m.GetName())
	r.UID = m.GetUID()
	return r, nil
}
