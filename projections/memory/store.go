package memory

import (
	"iter"
	"maps"
	"slices"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Store holds objects for one writer at a time. The zero value is not usable: see NewStore.
type Store struct {
	ordinals map[domain.Resource]int // shared with snapshots: replaced, never changed
	tables   []*table
	dirty    []bool
	frozen   []*table // of the last snapshot
	objects  int
}

// NewStore returns an empty store.
func NewStore() *Store { return &Store{ordinals: map[domain.Resource]int{}} }

// Put adds or replaces an object and returns the one it replaces, or nil. The object's kind says how it is indexed.
func (s *Store) Put(o *projections.Object) (before *projections.Object) {
	n, ok := s.ordinals[o.Ref.GroupResource()]
	if !ok {
		n = s.add(o)
	}
	s.dirty[n] = true
	if before = s.tables[n].put(o); before == nil {
		s.objects++
	}
	return before
}

// PutIndexed is Put for an object of which somebody knows what Table said of it: under which values the named indexes hold it. It is
// not decoded then, unless the indexes of its resource are others by now.
func (s *Store) PutIndexed(o *projections.Object, indexes []string, values [][]string) {
	n, ok := s.ordinals[o.Ref.GroupResource()]
	if !ok {
		n = s.add(o)
	}
	s.dirty[n] = true
	t := s.tables[n]
	if !slices.Equal(t.indexNames(), indexes) || values != nil && len(values) != len(indexes) {
		values = t.valuesOf(o)
	}
	if t.putItem(&item{object: o, values: values}) == nil {
		s.objects++
	}
}

// PutAll is Put for many objects. Of a resource that had none before, nothing is decoded for the indexes until somebody looks into one
// of them or the resource changes; then all processors do it.
func (s *Store) PutAll(objects []*projections.Object) {
	var filling []*table
	for _, o := range objects {
		n, ok := s.ordinals[o.Ref.GroupResource()]
		if !ok {
			n = s.add(o)
		}
		t := s.tables[n]
		switch {
		case slices.Contains(filling, t):
		case t.objects.Len() > 0:
			s.Put(o)
			continue
		default:
			filling = append(filling, t)
		}
		s.dirty[n] = true
		if _, replaced := t.objects.Set(&item{object: o}); !replaced {
			s.objects++
		}
	}
	for _, t := range filling {
		t.postpone()
	}
}

// Get returns an object as of the last change.
func (s *Store) Get(gr domain.Resource, namespace, name string) (*projections.Object, bool) {
	n, ok := s.ordinals[gr]
	if !ok {
		return nil, false
	}
	return s.tables[n].get(namespace, name)
}

// Delete removes an object and returns it, or nil when it was not there.
func (s *Store) Delete(gr domain.Resource, namespace, name string) (before *projections.Object) {
	n, ok := s.ordinals[gr]
	if !ok {
		return nil
	}
	if before = s.tables[n].remove(namespace, name); before != nil {
		s.dirty[n] = true
		s.objects--
	}
	return before
}

// Len returns the number of objects.
func (s *Store) Len() int { return s.objects }

// Snapshot returns the objects as they are now; later changes of the store do not reach it. Its cost depends on the number of
// resources that have changed since the last snapshot, not on that of the objects.
func (s *Store) Snapshot(position uint64) *Snapshot {
	frozen := slices.Clone(s.frozen)
	for n := range s.tables {
		if s.dirty[n] || n >= len(frozen) {
			if n >= len(frozen) {
				frozen = append(frozen, nil)
			}
			frozen[n] = s.tables[n].freeze()
			s.dirty[n] = false
		}
	}
	s.frozen = frozen
	return &Snapshot{position: position, ordinals: s.ordinals, tables: frozen}
}

func (s *Store) add(o *projections.Object) int {
	indexes := []domain.Index{ownerIndex}
	if o.Kind != nil {
		indexes = o.Kind.Indexes
		if !slices.ContainsFunc(indexes, func(i domain.Index) bool { return i.Name == domain.OwnerIndex }) {
			indexes = append(slices.Clone(indexes), ownerIndex)
		}
	}
	n := len(s.tables)
	s.tables = append(s.tables, newTable(indexes))
	s.dirty = append(s.dirty, true)
	s.ordinals = maps.Clone(s.ordinals)
	s.ordinals[o.Ref.GroupResource()] = n
	return n
}

// Snapshot is a set of objects that never changes. It implements projections.Reader.
type Snapshot struct {
	position uint64
	ordinals map[domain.Resource]int
	tables   []*table
}

var _ projections.Reader = (*Snapshot)(nil)

// Position is the last event that the snapshot reflects.
func (s *Snapshot) Position() uint64 { return s.position }

// At returns the same objects as of another position: for a position that has moved on without changing any of them.
func (s *Snapshot) At(position uint64) *Snapshot {
	moved := *s
	moved.position = position
	return &moved
}

// Get implements projections.Reader.
func (s *Snapshot) Get(gr domain.Resource, namespace, name string) (*projections.Object, bool) {
	t := s.table(gr)
	if t == nil {
		return nil, false
	}
	return t.get(namespace, name)
}

// List implements projections.Reader.
func (s *Snapshot) List(gr domain.Resource, namespace string) iter.Seq[*projections.Object] {
	t := s.table(gr)
	if t == nil {
		return none
	}
	return t.list(namespace)
}

// Index implements projections.Reader. An index that the resource does not have holds nothing.
func (s *Snapshot) Index(gr domain.Resource, index, value string) iter.Seq[*projections.Object] {
	t := s.table(gr)
	if t == nil {
		return none
	}
	return t.index(index, value)
}

// All yields every object, resource by resource.
func (s *Snapshot) All() iter.Seq[*projections.Object] {
	return func(yield func(*projections.Object) bool) {
		for _, t := range s.tables {
			for o := range t.list("") {
				if !yield(o) {
					return
				}
			}
		}
	}
}

// Table is the objects of one resource, ordered by namespace and name, each with the values under which the indexes hold it: a list
// for each index; nil when it stands in none.
type Table struct {
	Indexes []string
	Items   iter.Seq2[*projections.Object, [][]string]
}

// Tables yields the objects as they are kept, for whoever wants to keep them elsewhere.
func (s *Snapshot) Tables() iter.Seq[Table] {
	return func(yield func(Table) bool) {
		for _, t := range s.tables {
			if !yield(Table{Indexes: t.indexNames(), Items: t.items}) {
				return
			}
		}
	}
}

// Len returns the number of objects.
func (s *Snapshot) Len() int {
	n := 0
	for _, t := range s.tables {
		n += t.objects.Len()
	}
	return n
}

// Resources returns the resources of which the snapshot holds, or once held, objects.
func (s *Snapshot) Resources() []domain.Resource { return slices.Collect(maps.Keys(s.ordinals)) }

// table returns the table of a resource, nil when there is none. The map may name tables that were added after the snapshot.
func (s *Snapshot) table(gr domain.Resource) *table {
	n, ok := s.ordinals[gr]
	if !ok || n >= len(s.tables) {
		return nil
	}
	return s.tables[n]
}

func none(func(*projections.Object) bool) {}
