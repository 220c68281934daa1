package nodefeed

import (
	"iter"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/domain"
)

// Copy is the receiving side of a feed: what a node knows of the cluster. It is safe for many goroutines.
type Copy struct {
	mu       sync.RWMutex
	objects  map[domain.Ref]held // by reference without uid
	position uint64
	synced   bool
	renewed  map[domain.Ref]bool // since a Reset that no Synced has followed yet; nil when there is none
	version  uint64
}

type held struct {
	ref    domain.Ref
	object runtime.Object
}

// NewCopy returns an empty copy.
func NewCopy() *Copy { return &Copy{objects: map[domain.Ref]held{}} }

// Apply takes in items and returns the references, without uid, of the objects that they changed.
func (c *Copy) Apply(items ...Item) []domain.Ref {
	c.mu.Lock()
	defer c.mu.Unlock()
	var changed []domain.Ref
	for i := range items {
		it := &items[i]
		ref := bare(it.Ref)
		switch it.Op {
		case Reset:
			c.renewed = map[domain.Ref]bool{}
		case Put:
			c.objects[ref] = held{it.Ref, it.Object}
			if c.renewed != nil {
				c.renewed[ref] = true
			}
			changed = append(changed, ref)
		case Delete:
			delete(c.objects, ref)
			changed = append(changed, ref)
		case Synced:
			if c.renewed != nil {
				for ref := range c.objects {
					if !c.renewed[ref] {
						delete(c.objects, ref)
						changed = append(changed, ref)
					}
				}
				c.renewed = nil
			}
			c.synced = true
		}
		c.position = it.Position
		c.version++
	}
	return changed
}

// Position is the checkpoint to resume the feed from; 0: from the beginning.
func (c *Copy) Position() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.position
}

// Synced tells whether the copy has been complete once. It stays usable while it is being replaced by a new one.
func (c *Copy) Synced() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.synced
}

// Version grows with each item applied: who has seen a version need not look again while it is the same.
func (c *Copy) Version() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.version
}

// Get returns an object. Never change it.
func (c *Copy) Get(gr domain.Resource, namespace, name string) (runtime.Object, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	h, ok := c.objects[domain.Ref{Group: gr.Group, Resource: gr.Resource, Namespace: namespace, Name: name}]
	return h.object, ok
}

// List returns the objects of a resource ordered by namespace and name; namespace "" means all.
func (c *Copy) List(gr domain.Resource, namespace string) iter.Seq[runtime.Object] {
	c.mu.RLock()
	var list []held
	for ref, h := range c.objects {
		if ref.GroupResource() == gr && (namespace == "" || ref.Namespace == namespace) {
			list = append(list, h)
		}
	}
	c.mu.RUnlock()
	slices.SortFunc(list, func(a, b held) int { return compareRefs(a.ref, b.ref) })
	return func(yield func(runtime.Object) bool) {
		for _, h := range list {
			if !yield(h.object) {
				return
			}
		}
	}
}

// Refs returns the references, uids included, of all objects.
func (c *Copy) Refs() []domain.Ref {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]domain.Ref, 0, len(c.objects))
	for _, h := range c.objects {
		list = append(list, h.ref)
	}
	slices.SortFunc(list, compareRefs)
	return list
}

// Items returns the items that lead an empty copy to this one: a Reset, a Put for each object, a Synced with the position. It
// returns false while the copy is not complete.
func (c *Copy) Items() ([]Item, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.synced || c.renewed != nil {
		return nil, false
	}
	items := make([]Item, 0, len(c.objects)+2)
	for _, h := range c.objects {
		items = append(items, Item{Op: Put, Ref: h.ref, Object: h.object})
	}
	slices.SortFunc(items, func(a, b Item) int { return compareRefs(a.Ref, b.Ref) })
	items = slices.Insert(items, 0, Item{Op: Reset})
	return append(items, Item{Op: Synced, Position: c.position}), true
}

// Get returns an object of a copy as its Go type, or false when it is not there or not a T.
func Get[T runtime.Object](c *Copy, gr domain.Resource, namespace, name string) (T, bool) {
	o, ok := c.Get(gr, namespace, name)
	if !ok {
		var zero T
		return zero, false
	}
	t, ok := o.(T)
	return t, ok
}

// List yields the objects of a resource of a copy as their Go type, ordered by namespace and name, those that are not a T left out.
func List[T runtime.Object](c *Copy, gr domain.Resource, namespace string) iter.Seq[T] {
	return func(yield func(T) bool) {
		for o := range c.List(gr, namespace) {
			if t, ok := o.(T); ok && !yield(t) {
				return
			}
		}
	}
}
