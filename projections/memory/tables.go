package memory

import (
	"bytes"
	"iter"

	"github.com/tidwall/btree"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// item is an object with the values under which the indexes of its table hold it: one list for each index, in their order.
type item struct {
	object *projections.Object
	values [][]string
}

func (i *item) key() (namespace, name string) { return i.object.Ref.Namespace, i.object.Ref.Name }

// entry stands in an index. A pivot of a search has an object of which only the reference is set.
type entry struct {
	value string
	*item
}

// table holds the objects of one resource, ordered by namespace and name, and once more by each index.
type table struct {
	objects *btree.BTreeG[*item]
	indexes []index
	late    *late // the indexes are still to be made: see asked and settle
}

type index struct {
	domain.Index
	tree *btree.BTreeG[entry]
}

func newTable(indexes []domain.Index) *table {
	opts := btree.Options{NoLocks: true, Degree: 16} // one writer; small nodes, since a change copies a path of them
	t := &table{objects: btree.NewBTreeGOptions(itemLess, opts)}
	for _, i := range indexes {
		t.indexes = append(t.indexes, index{Index: i, tree: btree.NewBTreeGOptions(entryLess, opts)})
	}
	return t
}

func itemLess(a, b *item) bool {
	ans, an := a.key()
	bns, bn := b.key()
	if ans != bns {
		return ans < bns
	}
	return an < bn
}

func entryLess(a, b entry) bool {
	if a.value != b.value {
		return a.value < b.value
	}
	return itemLess(a.item, b.item)
}

func pivot(namespace, name string) *item {
	return &item{object: &projections.Object{Ref: domain.Ref{Namespace: namespace, Name: name}}}
}

// freeze returns a table that shares everything with t and that no later change of t reaches.
func (t *table) freeze() *table {
	return &table{objects: t.objects.Copy(), indexes: copied(t.indexes), late: t.late}
}

func copied(indexes []index) []index {
	c := make([]index, len(indexes))
	for n, i := range indexes {
		c[n] = index{Index: i.Index, tree: i.tree.Copy()}
	}
	return c
}

func (t *table) get(namespace, name string) (*projections.Object, bool) {
	i, ok := t.objects.Get(pivot(namespace, name))
	if !ok {
		return nil, false
	}
	return i.object, true
}

func (t *table) indexNames() []string {
	names := make([]string, len(t.indexes))
	for n := range t.indexes {
		names[n] = t.indexes[n].Name
	}
	return names
}

func (t *table) items(yield func(*projections.Object, [][]string) bool) {
	t.asked() // for the values
	t.objects.Scan(func(i *item) bool { return yield(i.object, i.values) })
}

func (t *table) put(o *projections.Object) (before *projections.Object) {
	return t.putItem(&item{object: o, values: t.valuesOf(o)})
}

func (t *table) putItem(i *item) (before *projections.Object) {
	t.settle()
	old, replaced := t.objects.Set(i)
	for n := range t.indexes {
		var had, has []string
		if replaced && old.values != nil {
			had = old.values[n]
		}
		if i.values != nil {
			has = i.values[n]
		}
		for _, v := range had {
			if !contains(has, v) {
				t.indexes[n].tree.Delete(entry{v, old})
			}
		}
		for _, v := range has {
			t.indexes[n].tree.Set(entry{v, i})
		}
	}
	if !replaced {
		return nil
	}
	return old.object
}

func (t *table) remove(namespace, name string) (before *projections.Object) {
	t.settle()
	old, ok := t.objects.Delete(pivot(namespace, name))
	if !ok {
		return nil
	}
	for n, values := range old.values {
		for _, v := range values {
			t.indexes[n].tree.Delete(entry{v, old})
		}
	}
	return old.object
}

// valuesOf asks each index for the values of an object. An object that cannot be read stands in no index. An object of a kind
// that is only indexed by owner, and has none, is not read at all: most objects of most kinds are never looked at.
func (t *table) valuesOf(o *projections.Object) [][]string {
	if !t.reads(o) {
		return nil
	}
	typed, err := o.Typed()
	if err != nil {
		return nil
	}
	values := make([][]string, len(t.indexes))
	for n := range t.indexes {
		values[n] = t.indexes[n].Values(typed)
	}
	return values
}

// reads says whether an object has to be decoded for its place in the indexes.
func (t *table) reads(o *projections.Object) bool {
	ownersOnly := len(t.indexes) == 1 && t.indexes[0].Name == domain.OwnerIndex
	return len(t.indexes) > 0 && !(ownersOnly && !bytes.Contains(o.JSON, ownerReferences))
}

var ownerReferences = []byte(`"ownerReferences"`)

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func (t *table) list(namespace string) iter.Seq[*projections.Object] {
	return func(yield func(*projections.Object) bool) {
		if namespace == "" {
			t.objects.Scan(func(i *item) bool { return yield(i.object) })
			return
		}
		t.objects.Ascend(pivot(namespace, ""), func(i *item) bool {
			return i.object.Ref.Namespace == namespace && yield(i.object)
		})
	}
}

func (t *table) index(name, value string) iter.Seq[*projections.Object] {
	return func(yield func(*projections.Object) bool) {
		for _, i := range t.asked() {
			if i.Name != name {
				continue
			}
			i.tree.Ascend(entry{value, pivot("", "")}, func(e entry) bool {
				return e.value == value && yield(e.object)
			})
			return
		}
	}
}
