package domain

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
)

// ErrBadSealedField says that a text does not name fields that can be sealed.
var ErrBadSealedField = errors.New("not fields that can be sealed")

// ErasedAnnotation stands, when an object is read whose payload cannot be, in the place of the payload, and says why. It is never
// stored.
const ErasedAnnotation = "shiplog.dev/erased"

// lastApplied is where kubectl apply keeps a copy of all that it was given.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

func erasedPath() []string { return []string{"metadata", "annotations", ErasedAnnotation} }

// sealed are the paths of members of a kind whose payload is secret, and of the annotation that repeats them.
func sealed(members ...string) []Path {
	var out []Path
	for _, m := range members {
		out = append(out, Path{{kind: '.', key: m}})
	}
	return append(out, lastAppliedPath())
}

func lastAppliedPath() Path {
	return Path{{kind: '.', key: "metadata"}, {kind: '.', key: "annotations"}, {kind: '.', key: lastApplied}}
}

// SealFields returns kinds with further fields sealed, each named as "<kind>:<field>[,<field>...]": "configmaps:data",
// `widgets.example.com:spec.password`. Fields are paths of members as ParsePath reads them, outside of metadata but for
// annotations. The kinds given are not changed. Errors are ErrBadSealedField.
func SealFields(kinds []*Kind, names ...string) ([]*Kind, error) {
	out := slices.Clone(kinds)
	for _, name := range names {
		kind, fields, ok := strings.Cut(name, ":")
		if !ok || fields == "" {
			return nil, fmt.Errorf("%w: %q: write it as in configmaps:data", ErrBadSealedField, name)
		}
		known, ok := NewSet(out).Lookup(kind)
		if !ok {
			return nil, fmt.Errorf("%w: %q: there is no kind %q", ErrBadSealedField, name, kind)
		}
		k := *known
		k.Sealed = slices.Clone(k.Sealed)
		for field := range strings.SplitSeq(fields, ",") {
			p, err := sealable(&k, field)
			if err != nil {
				return nil, fmt.Errorf("%w: %q: %w", ErrBadSealedField, name, err)
			}
			for _, p := range []Path{p, lastAppliedPath()} {
				if !slices.ContainsFunc(k.Sealed, func(q Path) bool { return reflect.DeepEqual(p, q) }) {
					k.Sealed = append(k.Sealed, p)
				}
			}
		}
		out[slices.Index(out, known)] = &k
	}
	return out, nil
}

// sealable reads the path of a field that can be sealed.
func sealable(k *Kind, field string) (Path, error) {
	p, err := ParsePath(field)
	if err != nil {
		return nil, err
	}
	if len(p) == 0 {
		return nil, errors.New("a field is missing")
	}
	for _, step := range p {
		if step.kind != '.' {
			return nil, fmt.Errorf("%s is in a list: seal the whole list", field)
		}
	}
	switch first := p[0].key; {
	case first == "apiVersion", first == "kind", first == sealedMember, first == "metadata" && (len(p) != 3 || p[1].key != "annotations"):
		return nil, fmt.Errorf("%s says what the object is and cannot be sealed", field)
	case k.Retained():
		return nil, fmt.Errorf("the past of %s is forgotten soon: they cannot be sealed", k.Resource)
	}
	for _, q := range k.Sealed {
		n := min(len(p), len(q))
		if len(p) != len(q) && reflect.DeepEqual(p[:n], q[:n]) {
			return nil, fmt.Errorf("%s is a part of another sealed field, or the other way round", field)
		}
	}
	return p, nil
}

// WithKeys returns the same set with the keys that open what is sealed. Without keys everything sealed reads as erased.
func (s *Set) WithKeys(keys Keys) *Set {
	c := *s
	c.keys = keys
	return &c
}

// Keys are what readers open sealed payloads with; nil without any.
func (s *Set) Keys() Keys { return s.keys }

// DecodeOpen reads what Encode or Seal wrote as the Go type of the kind, a sealed payload opened. One that cannot be opened is no
// error: the object is read without it, marked by ErasedAnnotation, so that it breaks no list of its kind.
func DecodeOpen(k *Kind, ref Ref, document []byte, position uint64, keys Keys) (runtime.Object, error) {
	if !IsSealed(document) {
		return Decode(k, document, position)
	}
	open, err := Open(document, ref, keys)
	if err != nil {
		return decodeErased(k, document, position, err)
	}
	return Decode(k, open, position)
}

// decodeErased reads a document without its sealed payload and says why.
func decodeErased(k *Kind, document []byte, position uint64, why error) (runtime.Object, error) {
	e, _ := EnvelopeOf(document)
	obj, err := Decode(k, withoutEnvelope(document, e), position)
	if err != nil {
		return nil, err
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, fmt.Errorf("decoding a %s: %w", k.Kind, err)
	}
	annotations := m.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[ErasedAnnotation] = fmt.Sprintf("%v (key %s)", why, e.KeyID)
	m.SetAnnotations(annotations)
	return obj, nil
}

// Erased tells whether an object was read without its payload.
func Erased(obj runtime.Object) bool { return ErasedMark(obj) != "" }

// ErasedMark is what ErasedAnnotation says of an object, "" when it was read whole. It is the same for the same payload.
func ErasedMark(obj runtime.Object) string {
	m, err := meta.Accessor(obj)
	if err != nil {
		return ""
	}
	return m.GetAnnotations()[ErasedAnnotation]
}

// WithoutPayload returns a document, sealed or open, without the envelope, the sealed fields of the kind and the marker of an erased payload.
func WithoutPayload(k *Kind, document []byte) []byte {
	if e, ok := EnvelopeOf(document); ok {
		return withoutEnvelope(document, e)
	}
	rest, _ := k.Split(document)
	rest, _ = cut(rest, erasedPath())
	return rest
}
