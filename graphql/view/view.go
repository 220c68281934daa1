// Package view reads the cluster for GraphQL: as it is, from the live view, or as it was at a position, from the history, with
// the same methods. It checks who may read what, remembers what one request has read, and withholds what secrets hold.
package view

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
)

// Source is where everything is read from.
type Source struct {
	Live    projections.Live
	History projections.History // nil: the past cannot be asked about
	Log     eventstore.Log
	Kinds   *domain.Set
	Now     func() time.Time
	// Authorize says whether the caller, whom the context knows, may do something with the objects of a resource in a
	// namespace ("" for those without one, and for all); nil allows everything. Verbs are get, list and watch.
	Authorize func(ctx context.Context, gr domain.Resource, namespace, verb string) error
}

// Errors of reading, besides those of package projections; tested with errors.Is.
var (
	ErrUnknownKind = errors.New("unknown kind")
	ErrBadRequest  = errors.New("bad request")
	ErrForbidden   = errors.New("forbidden")
)

// Set is what one request reads: the view of now that it began with, and views of the past. It is safe for many goroutines.
type Set struct {
	Source
	mu      sync.Mutex
	live    *View
	past    map[uint64]*View
	allowed map[access]error
}

type access struct {
	gr              domain.Resource
	namespace, verb string
}

// NewSet begins a request.
func NewSet(s Source) *Set { return &Set{Source: s} }

// Fresh begins anew: the next look at now sees what has happened since.
func (s *Set) Fresh() *Set { return NewSet(s.Source) }

// Allow checks that the caller may do something with the objects of a kind, and remembers the answer for the request.
func (s *Set) Allow(ctx context.Context, k *domain.Kind, namespace, verb string) error {
	if !k.Namespaced {
		namespace = ""
	}
	return s.allow(ctx, access{k.GroupResource(), namespace, verb})
}

// AllowEvent checks that the caller may see an event: who may read the object may read what happened to it.
func (s *Set) AllowEvent(ctx context.Context, e domain.Event) error {
	return s.allow(ctx, access{e.Ref.GroupResource(), e.Ref.Namespace, "get"})
}

func (s *Set) allow(ctx context.Context, key access) error {
	if s.Authorize == nil {
		return nil
	}
	s.mu.Lock()
	err, known := s.allowed[key]
	s.mu.Unlock()
	if known {
		return err
	}
	err = s.Authorize(ctx, key.gr, key.namespace, key.verb)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.allowed == nil {
		s.allowed = map[access]error{}
	}
	s.allowed[key] = err
	return err
}

// Kind finds a kind by any name that kubectl takes.
func (s *Set) Kind(name string) (*domain.Kind, error) {
	if k, ok := s.Kinds.Lookup(name); ok {
		return k, nil
	}
	return nil, fmt.Errorf("%w %q: ask for kinds to see which there are", ErrUnknownKind, name)
}

// Now is the view of now: the same for all that one request asks.
func (s *Set) now() *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		reader := s.Live.Snapshot()
		s.live = &View{set: s, position: reader.Position(), reader: reader}
	}
	return s.live
}

// patience is how long a request waits for a position that the log has reached and the live view not yet.
const patience = 2 * time.Second

// At is the view of a position.
func (s *Set) At(ctx context.Context, position uint64) (*View, error) {
	now := s.now()
	if position == now.position {
		return now, nil
	}
	if position > now.position {
		head, err := s.Log.Head(ctx)
		if err != nil {
			return nil, fmt.Errorf("asking where the log stands: %w", err)
		}
		if position > uint64(head) {
			return nil, fmt.Errorf("%w: the log is at %d", projections.ErrFuture, head)
		}
		waiting, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := s.Live.WaitFor(waiting, position); err != nil {
			return nil, fmt.Errorf("%w: the live view has not reached position %d: %w", projections.ErrUnavailable, position, err)
		}
		if reader := s.Live.Snapshot(); reader.Position() == position {
			return &View{set: s, position: position, reader: reader}, nil
		}
	}
	if s.History == nil && position > 0 {
		return nil, fmt.Errorf("%w: no history is kept here, only now can be asked about", projections.ErrUnavailable)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.past[position]
	if !ok {
		if s.past == nil {
			s.past = map[uint64]*View{}
		}
		v = &View{set: s, position: position}
		s.past[position] = v
	}
	return v, nil
}

// View is the cluster at one position. It is safe for many goroutines.
type View struct {
	set      *Set
	position uint64
	reader   projections.Reader // nil for the past

	mu    sync.Mutex
	gets  map[domain.Ref]*memo[*projections.Object]
	lists map[listKey]*memo[[]*projections.Object]
	index map[indexKey]*memo[map[string][]*projections.Object]
}

type listKey struct {
	gr        domain.Resource
	namespace string
}

type indexKey struct {
	listKey
	name string
}

// memo is something that is read once, however many ask.
type memo[T any] struct {
	once  sync.Once
	value T
	err   error
}

func (m *memo[T]) get(read func() (T, error)) (T, error) {
	m.once.Do(func() { m.value, m.err = read() })
	return m.value, m.err
}

// entry returns the memo of a key, made at the first need.
func entry[K comparable, T any](mu *sync.Mutex, memos *map[K]*memo[T], key K) *memo[T] {
	mu.Lock()
	defer mu.Unlock()
	if *memos == nil {
		*memos = map[K]*memo[T]{}
	}
	m, ok := (*memos)[key]
	if !ok {
		m = &memo[T]{}
		(*memos)[key] = m
	}
	return m
}

// Set is the request that the view belongs to.
func (v *View) Set() *Set { return v.set }

// Position is what the view is of.
func (v *View) Position() uint64 { return v.position }

// Get returns an object, or nil when it is not there.
func (v *View) Get(ctx context.Context, k *domain.Kind, namespace, name string) (*projections.Object, error) {
	if err := v.set.Allow(ctx, k, namespace, "get"); err != nil {
		return nil, err
	}
	if v.reader != nil {
		o, _ := v.reader.Get(k.GroupResource(), namespace, name)
		return o, nil
	}
	if v.position == 0 {
		return nil, nil
	}
	// What has not changed since is what it was then.
	if now := v.set.now(); now.position >= v.position {
		if o, ok := now.reader.Get(k.GroupResource(), namespace, name); ok && o.Position <= v.position {
			return o, nil
		}
	}
	ref := k.Ref(namespace, name)
	return entry(&v.mu, &v.gets, ref).get(func() (*projections.Object, error) {
		o, err := v.set.History.GetAt(ctx, ref, v.position)
		if errors.Is(err, projections.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s at position %d: %w", ref, v.position, err)
		}
		return o, nil
	})
}

// List returns the objects of a kind in a namespace ("": in all), ordered by namespace and name.
func (v *View) List(ctx context.Context, k *domain.Kind, namespace string) ([]*projections.Object, error) {
	if err := v.set.Allow(ctx, k, namespace, "list"); err != nil {
		return nil, err
	}
	return v.list(ctx, k, namespace)
}

func (v *View) list(ctx context.Context, k *domain.Kind, namespace string) ([]*projections.Object, error) {
	gr := k.GroupResource()
	if v.position == 0 {
		return nil, nil
	}
	return entry(&v.mu, &v.lists, listKey{gr, namespace}).get(func() ([]*projections.Object, error) {
		if v.reader != nil {
			return slices.Collect(v.reader.List(gr, namespace)), nil
		}
		list, err := v.set.History.ListAt(ctx, gr, namespace, v.position)
		if err != nil {
			return nil, fmt.Errorf("listing %s at position %d: %w", gr, v.position, err)
		}
		slices.SortFunc(list, func(a, b *projections.Object) int { return compareNames(a.Ref, b.Ref) })
		return list, nil
	})
}

// Index returns the objects of a kind in a namespace ("": in all) that have a value in an index.
func (v *View) Index(ctx context.Context, k *domain.Kind, namespace, index, value string) ([]*projections.Object, error) {
	if err := v.set.Allow(ctx, k, namespace, "list"); err != nil {
		return nil, err
	}
	gr := k.GroupResource()
	if v.reader != nil {
		var out []*projections.Object
		for o := range v.reader.Index(gr, index, value) {
			if namespace == "" || o.Ref.Namespace == namespace {
				out = append(out, o)
			}
		}
		slices.SortFunc(out, func(a, b *projections.Object) int { return compareNames(a.Ref, b.Ref) })
		return out, nil
	}
	byValue, err := entry(&v.mu, &v.index, indexKey{listKey{gr, namespace}, index}).get(func() (map[string][]*projections.Object, error) {
		list, err := v.list(ctx, k, namespace)
		if err != nil {
			return nil, err
		}
		return indexed(k, list, index), nil
	})
	return byValue[value], err
}

// indexed makes an index of the past of what the descriptor says.
func indexed(k *domain.Kind, list []*projections.Object, index string) map[string][]*projections.Object {
	out := map[string][]*projections.Object{}
	for _, ix := range k.Indexes {
		if ix.Name != index {
			continue
		}
		for _, o := range list {
			typed, err := o.Typed()
			if err != nil {
				continue // an object that cannot be read has no place in an index, and breaks none
			}
			for _, value := range ix.Values(typed) {
				out[value] = append(out[value], o)
			}
		}
	}
	return out
}
