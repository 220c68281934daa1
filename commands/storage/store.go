package storage

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Store is the storage of one resource.
type Store struct {
	*Engine
	kind    *domain.Kind
	gr      domain.Resource
	scheme  *runtime.Scheme
	newObj  func() runtime.Object
	newList func() runtime.Object
	prefix  string
	keep    schema.GroupVersion // the version that the log and the live view hold
	ver     storage.APIObjectVersioner
}

var _ storage.Interface = (*Store)(nil)

// Store makes the store of a resource.
func (e *Engine) Store(o Options) (*Store, error) {
	if o.Kind == nil || o.Scheme == nil || o.New == nil {
		return nil, fmt.Errorf("making a store of %q: kind, scheme and New must be given", o.Prefix)
	}
	if e.keys != nil && e.kinds == nil {
		return nil, fmt.Errorf("making the store of %s: there are keys, but no kinds to say which of them are in use", o.Kind.GroupResource())
	}
	prefix := "/" + strings.Trim(o.Prefix, "/")
	if prefix == "/" {
		return nil, fmt.Errorf("making the store of %s: the prefix of its keys is empty", o.Kind.GroupResource())
	}
	return &Store{
		Engine: e, kind: o.Kind, gr: o.Kind.GroupResource(), scheme: o.Scheme, newObj: o.New, newList: o.NewList,
		prefix: prefix, keep: o.Kind.GroupVersionKind().GroupVersion(),
	}, nil
}

// Versioner implements storage.Interface.
func (s *Store) Versioner() storage.Versioner { return s.ver }

// ReadinessCheck implements storage.Interface: the live view is filled before anything is served.
func (s *Store) ReadinessCheck() error { return nil }

// RequestWatchProgress implements storage.Interface. Watches follow the live view, which tells its position by itself.
func (s *Store) RequestWatchProgress(context.Context) error { return nil }

// GetCurrentResourceVersion implements storage.Interface.
func (s *Store) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	snap, err := s.Current(ctx)
	if err != nil {
		return 0, err
	}
	return snap.Position(), nil
}

// EnableResourceSizeEstimation implements storage.Interface. Sizes are known without asking for keys.
func (s *Store) EnableResourceSizeEstimation(storage.KeysFunc) error { return nil }

// CompactRevision implements storage.Interface: nothing is ever compacted away by the API server.
func (s *Store) CompactRevision() int64 { return 0 }

// Stats implements storage.Interface.
func (s *Store) Stats(context.Context) (storage.Stats, error) {
	var count, bytes int64
	for o := range s.live.Snapshot().List(s.gr, "") {
		count++
		bytes += int64(len(o.JSON))
	}
	if count > 0 {
		bytes /= count
	}
	return storage.Stats{ObjectCount: count, EstimatedAverageObjectSizeBytes: bytes}, nil
}

// place is what a key names: a resource, a namespace of it, or one object.
type place struct {
	namespace, name string
	nowhere         bool // the key lies below an object: nothing is there
}

// object parses the key of one object.
func (s *Store) object(key string) (domain.Ref, error) {
	rest, err := s.rest(key, false)
	if err != nil {
		return domain.Ref{}, err
	}
	namespace, name := "", rest
	if s.kind.Namespaced {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			namespace, name = rest[:i], rest[i+1:]
		}
	}
	return s.kind.Ref(namespace, name), nil
}

// collection parses the key of a list or a watch.
func (s *Store) collection(key string, recursive bool) (place, error) {
	if !recursive {
		ref, err := s.object(key)
		return place{namespace: ref.Namespace, name: ref.Name, nowhere: ref.Name == ""}, err
	}
	rest, err := s.rest(key, true)
	if err != nil {
		return place{}, err
	}
	rest = strings.TrimSuffix(rest, "/")
	if rest != "" && !s.kind.Namespaced || strings.Contains(rest, "/") {
		return place{nowhere: true}, nil
	}
	return place{namespace: rest}, nil
}

func (s *Store) rest(key string, recursive bool) (string, error) {
	prepared, err := s.prepare(key, recursive)
	return strings.TrimPrefix(prepared, s.prefix+"/"), err
}

// prepare checks a key, and completes that of a collection.
func (s *Store) prepare(key string, recursive bool) (string, error) {
	return storage.PrepareKey(s.prefix+"/", key, recursive)
}

// key is the inverse of object.
func (s *Store) key(ref domain.Ref) string {
	if s.kind.Namespaced {
		return s.prefix + "/" + ref.Namespace + "/" + ref.Name
	}
	return s.prefix + "/" + ref.Name
}

// into converts an object to the caller's type. What it points to is shared with all readers: the caller may set fields of
// the object itself, and must not change what these point to. It is the bargain of upstream's own watch cache.
func (s *Store) into(o *projections.Object, out runtime.Object) error {
	typed, err := o.Typed()
	if err != nil {
		return fmt.Errorf("reading %s: %w", o.Ref, err)
	}
	return s.convert(typed, out)
}

func (s *Store) convert(typed, out runtime.Object) error {
	if err := s.scheme.Convert(typed, out, nil); err != nil {
		return fmt.Errorf("converting %T to %T: %w", typed, out, err)
	}
	return nil
}

// memory converts an object to a new one of the type that the API machinery works on.
func (s *Store) memory(o *projections.Object) (runtime.Object, error) {
	out := s.newObj()
	return out, s.into(o, out)
}

// stored converts the caller's object to one of the kept version that shares nothing with it.
func (s *Store) stored(obj runtime.Object) (runtime.Object, error) {
	out, err := s.scheme.ConvertToVersion(obj, s.keep)
	if err != nil {
		return nil, fmt.Errorf("converting %T to %s: %w", obj, s.keep, err)
	}
	return out, nil
}

func (s *Store) setVersion(obj runtime.Object, position uint64) error {
	if err := s.ver.UpdateObject(obj, position); err != nil {
		return fmt.Errorf("setting the resourceVersion: %w", err)
	}
	return nil
}

func (s *Store) parseVersion(rv string) (uint64, error) {
	n, err := s.ver.ParseResourceVersion(rv)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	return n, nil
}

func uidOf(obj runtime.Object) domain.Ref {
	m, err := meta.Accessor(obj)
	if err != nil {
		return domain.Ref{}
	}
	return domain.Ref{UID: m.GetUID()}
}
