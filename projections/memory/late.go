package memory

import (
	"runtime"
	"slices"
	"sync"
)

// late is the indexes of a table that nobody has looked into since it was filled, shared by the table and what was frozen of it. To
// index objects most of them have to be decoded, which takes longer than all else about a moment of the past, and whoever looks at one
// seldom asks for more than a few objects by their names.
type late struct {
	once    sync.Once
	table   *table // as it was filled
	indexes []index
}

// postpone leaves the values of the objects, and the indexes, which are empty, for later.
func (t *table) postpone() {
	filled := *t
	filled.objects = t.objects.Copy()
	t.late = &late{table: &filled}
}

// asked returns the indexes. It may be called by many goroutines.
func (t *table) asked() []index {
	if t.late == nil {
		return t.indexes
	}
	return t.late.made()
}

// settle makes what was postponed the table's own, which is about to change.
func (t *table) settle() {
	if t.late != nil {
		t.indexes, t.late = copied(t.late.made()), nil
	}
}

func (l *late) made() []index {
	l.once.Do(func() {
		t := l.table
		items := make([]*item, 0, t.objects.Len())
		t.objects.Scan(func(i *item) bool { items = append(items, i); return true })
		var reading sync.WaitGroup
		processors := runtime.GOMAXPROCS(0)
		for part := range slices.Chunk(items, max((len(items)+processors-1)/processors, 1)) {
			reading.Go(func() {
				for _, i := range part {
					i.values = t.valuesOf(i.object)
				}
			})
		}
		reading.Wait()
		l.indexes = copied(t.indexes)
		for _, i := range items {
			for n, values := range i.values {
				for _, v := range values {
					l.indexes[n].tree.Set(entry{v, i})
				}
			}
		}
		l.table = nil
	})
	return l.indexes
}
