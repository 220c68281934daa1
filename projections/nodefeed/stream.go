package nodefeed

import (
	"context"
	"errors"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// stream is the feed of one node.
type stream struct {
	hub  *hub
	node string

	mu     sync.Mutex
	queue  []*batch
	err    error
	signal chan struct{} // of 1: there is something new

	// The rest belongs to the goroutine that calls Next.
	first    []Item // what the stream starts with
	position uint64 // the last checkpoint given out
	needs    map[domain.Ref]map[domain.Ref]bool
	users    map[domain.Ref]map[domain.Ref]bool // the inverse of needs: pods by what they need
	has      map[domain.Ref]bool                // what the node was given of its own: pods and what they need
}

func (s *stream) push(b *batch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) >= maxBatches {
		return false
	}
	s.queue = append(s.queue, b)
	s.wake()
	return true
}

func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.wake()
}

func (s *stream) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// drop forgets what is queued.
func (s *stream) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = nil
}

func (s *stream) wake() {
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

var errClosed = errors.New("the feed is closed")

// Close implements Stream.
func (s *stream) Close() error {
	s.hub.leave(s)
	s.fail(errClosed)
	return nil
}

// Next implements Stream.
func (s *stream) Next(ctx context.Context) ([]Item, error) {
	if first := s.first; first != nil {
		s.first = nil
		return first, nil
	}
	for {
		s.mu.Lock()
		queue, err := s.queue, s.err
		s.queue = nil
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		var items []Item
		for _, b := range queue {
			items = append(items, s.take(b)...)
		}
		if len(items) > 0 {
			return items, nil
		}
		select {
		case <-s.signal:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// checkpoint numbers the items of one step: only with the last of them the node's copy is as of the position, so only the last
// carries it.
func (s *stream) checkpoint(items []Item, position uint64) []Item {
	for i := range items {
		items[i].Position = s.position
	}
	if len(items) > 0 {
		items[len(items)-1].Position = position
		s.position = position
	}
	return items
}

// know sets what the stream knows of its node from a view.
func (s *stream) know(view *memory.Snapshot, has map[domain.Ref]*projections.Object) {
	s.needs, s.users, s.has = map[domain.Ref]map[domain.Ref]bool{}, map[domain.Ref]map[domain.Ref]bool{}, map[domain.Ref]bool{}
	for _, o := range podsOf(view, s.node) {
		s.need(view, bare(o.Ref), map[domain.Ref]bool{})
	}
	for ref := range has {
		if ref.GroupResource() != nodesResource {
			s.has[ref] = true
		}
	}
}

// need works out anew what a pod needs, and adds what the node begins or ceases to need for it to touched.
func (s *stream) need(view *memory.Snapshot, pod domain.Ref, touched map[domain.Ref]bool) {
	var now map[domain.Ref]bool
	o, ok := view.Get(podsResource, pod.Namespace, pod.Name)
	ok = ok && nodeOf(o) == s.node
	if ok {
		if p, readable := typed[*corev1.Pod](o, true); readable {
			now = s.hub.rules.references(view, p)
		}
	}
	for ref := range s.needs[pod] {
		if now[ref] {
			continue
		}
		delete(s.users[ref], pod)
		if len(s.users[ref]) == 0 {
			delete(s.users, ref)
			touched[ref] = true
		}
	}
	for ref := range now {
		if s.users[ref] == nil {
			s.users[ref] = map[domain.Ref]bool{}
			touched[ref] = true
		}
		s.users[ref][pod] = true
	}
	if ok {
		s.needs[pod] = now
	} else {
		delete(s.needs, pod)
	}
}

// reset starts the feed with a full copy.
func (s *stream) reset(view *memory.Snapshot) {
	s.position = 0
	has := s.hub.rules.local(view, podsOf(view, s.node), s.node)
	items := []Item{{Op: Reset}}
	for gr := range s.hub.rules.shared {
		for o := range view.List(gr, "") {
			items = append(items, item(bare(o.Ref), o, ""))
		}
	}
	refs := map[domain.Ref]bool{}
	for ref := range has {
		refs[ref] = true
	}
	for _, ref := range sortedRefs(refs) {
		items = append(items, item(ref, has[ref], ""))
	}
	items = append(readable(items), Item{Op: Synced})
	s.know(view, has)
	s.first = s.checkpoint(items, view.Position())
}

// readable leaves out the items of objects that cannot be read.
func readable(items []Item) []Item {
	return slices.DeleteFunc(items, func(i Item) bool { return i.Op == "" })
}

// resume starts the feed with the difference between the past and the view. The node may have been cut off in the middle of a
// step: what it was given beyond its checkpoint and must not keep is taken from it as well.
func (s *stream) resume(view *memory.Snapshot, then *past, between []projections.Change, events map[domain.Ref]string, after uint64) {
	s.position = after
	r := s.hub.rules
	had := r.local(then, then.podsOf(s.node), s.node)
	has := r.local(view, podsOf(view, s.node), s.node)
	var items []Item
	changed := map[domain.Ref]bool{}
	for ref := range then.before {
		if r.shared[ref.GroupResource()] {
			changed[ref] = true
		}
	}
	for _, ref := range sortedRefs(changed) {
		o, _ := view.Get(ref.GroupResource(), ref.Namespace, ref.Name)
		items = append(items, item(ref, o, events[ref]))
	}
	own := map[domain.Ref]bool{}
	for ref, o := range has {
		// What pods need may have been taken from the node and be needed again, unchanged.
		if old := had[ref]; old == nil || old.Position != o.Position || len(between) > 0 && r.referred[ref.GroupResource()] {
			own[ref] = true
		}
	}
	for ref := range had {
		if has[ref] == nil {
			own[ref] = true
		}
	}
	for ref := range then.ever(r, s.node, between) {
		if has[ref] == nil {
			own[ref] = true
		}
	}
	for _, ref := range sortedRefs(own) {
		items = append(items, item(ref, has[ref], events[ref]))
	}
	items = append(readable(items), Item{Op: Synced})
	s.know(view, has)
	s.first = s.checkpoint(items, view.Position())
}

// take returns what a batch of the hub means to the node.
func (s *stream) take(b *batch) []Item {
	touched := map[domain.Ref]bool{} // what pods need and that may have to be put or deleted
	events := map[domain.Ref]string{}
	affected := map[domain.Ref]bool{}
	var pods []domain.Ref
	for _, c := range b.pods[s.node] {
		if !affected[c.ref] {
			affected[c.ref] = true
			pods = append(pods, c.ref)
		}
		events[c.ref] = c.eventID
	}
	for ref, id := range b.referred {
		users := s.users[ref]
		if len(users) > 0 {
			touched[ref] = true
			events[ref] = id
		}
		// What stands behind a service account or a claim may be another now.
		if indirect(ref.GroupResource()) {
			for pod := range users {
				affected[pod] = true
			}
		}
	}
	for pod := range affected {
		s.need(b.view, pod, touched)
	}
	var items, gone []Item
	for _, ref := range sortedRefs(touched) {
		var o *projections.Object
		if len(s.users[ref]) > 0 {
			o, _ = b.view.Get(ref.GroupResource(), ref.Namespace, ref.Name)
		}
		if o == nil {
			gone = s.drops(gone, ref, events[ref])
			continue
		}
		items = s.gives(items, ref, o, events[ref])
	}
	items = append(items, b.shared...)
	if node, ok := b.nodes[s.node]; ok {
		items = append(items, node)
	}
	for _, ref := range pods {
		o, ok := b.view.Get(podsResource, ref.Namespace, ref.Name)
		if ok && nodeOf(o) == s.node {
			items = s.gives(items, ref, o, events[ref])
		} else {
			items = s.drops(items, ref, events[ref])
		}
	}
	// Last, so that nothing is taken from a pod that is still there.
	items = readable(append(items, gone...))
	if len(items) == 0 && b.position-s.position >= progressEvery {
		items = []Item{{Op: Synced}}
	}
	return s.checkpoint(items, b.position)
}

func (s *stream) gives(items []Item, ref domain.Ref, o *projections.Object, eventID string) []Item {
	s.has[ref] = true
	return append(items, item(ref, o, eventID))
}

func (s *stream) drops(items []Item, ref domain.Ref, eventID string) []Item {
	if !s.has[ref] {
		return items
	}
	delete(s.has, ref)
	return append(items, Item{Op: Delete, Ref: ref, EventID: eventID})
}
