package nodefeed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// maxBatches bounds what waits for a stream whose node is slow: one that falls further behind ends, and resumes from its position.
const maxBatches = 1024

// progressEvery is after how many positions without anything for a node it is told the position nevertheless, so that it need
// not start over when it comes back after a long time.
const progressEvery = 256

// patience is how long Open waits for a position that the node has seen and the live view has not yet.
const patience = 5 * time.Second

// NewSource returns a source of feeds over the live view. Following the view costs nothing while no feed is open, and is done
// once for all feeds.
func NewSource(live projections.Live, kinds *domain.Set) Source {
	return &hub{live: live, rules: newRules(kinds), streams: map[*stream]struct{}{}}
}

// hub follows the live view for all streams and works out once what is the same for all.
type hub struct {
	live  projections.Live
	rules *rules

	mu       sync.Mutex
	streams  map[*stream]struct{}
	stop     context.CancelFunc // nil: not following
	run      int                // tells one time of following from the next
	store    *memory.Store
	position uint64        // that the store reflects
	moved    chan struct{} // closed when the position moves
}

// batch is what the hub tells its streams.
type batch struct {
	position uint64
	view     *memory.Snapshot       // as of position
	shared   []Item                 // the same for all
	pods     map[string][]podChange // by node
	nodes    map[string]Item        // by name
	referred map[domain.Ref]string  // objects that pods can refer to and that changed, with the event's id
}

// podChange is a pod that changed.
type podChange struct {
	ref     domain.Ref
	eventID string
}

// Open implements Source.
func (h *hub) Open(ctx context.Context, node string, after uint64) (Stream, error) {
	if node == "" {
		return nil, errors.New("opening a node's feed: no node is named")
	}
	s := &stream{hub: h, node: node, signal: make(chan struct{}, 1)}
	if err := h.join(s); err != nil {
		return nil, fmt.Errorf("opening the feed of node %s: %w", node, err)
	}
	view, err := h.start(ctx, s, after)
	if err != nil {
		h.leave(s)
		return nil, fmt.Errorf("opening the feed of node %s: %w", node, err)
	}
	if after > 0 && after <= view.Position() {
		ok, err := h.resume(ctx, s, view, after)
		if err != nil {
			h.leave(s)
			return nil, fmt.Errorf("resuming the feed of node %s after position %d: %w", node, after, err)
		}
		if ok {
			return s, nil
		}
	}
	s.reset(view)
	return s, nil
}

// join starts following, if nobody does yet, and adds a stream.
func (h *hub) join(s *stream) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stop == nil {
		view := h.live.Snapshot()
		follower, err := h.live.Follow(view.Position(), h.rules.all...)
		if err != nil {
			return err
		}
		h.store = memory.NewStore()
		for _, gr := range h.rules.all {
			for o := range view.List(gr, "") {
				h.store.Put(o)
			}
		}
		h.position, h.moved = view.Position(), make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		h.stop = cancel
		h.run++
		go h.follow(ctx, follower, h.run)
	}
	h.streams[s] = struct{}{}
	return nil
}

func (h *hub) leave(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, s)
	if len(h.streams) == 0 && h.stop != nil {
		h.stop()
		h.stop, h.store = nil, nil
	}
}

// start returns the view that a stream starts from: batches after it are queued for the stream, those before are not.
func (h *hub) start(ctx context.Context, s *stream, after uint64) (*memory.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		h.mu.Lock()
		if _, ok := h.streams[s]; !ok {
			h.mu.Unlock()
			return nil, s.failure()
		}
		if h.position >= after || ctx.Err() != nil {
			view := h.store.Snapshot(h.position)
			s.drop()
			h.mu.Unlock()
			return view, nil
		}
		moved := h.moved
		h.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
		}
	}
}

// follow runs until no stream is left, or the live view fails: then the streams fail, and the nodes open others.
func (h *hub) follow(ctx context.Context, f projections.Follower, run int) {
	defer f.Close()
	for {
		changes, position, err := f.Next(ctx)
		h.mu.Lock()
		if h.run != run || h.stop == nil {
			h.mu.Unlock()
			return
		}
		if err != nil {
			for s := range h.streams {
				s.fail(fmt.Errorf("following the live view: %w", err))
			}
			clear(h.streams)
			h.stop()
			h.stop, h.store = nil, nil
			h.mu.Unlock()
			return
		}
		h.publish(changes, position)
		h.mu.Unlock()
	}
}

// publish takes changes into the store and hands them to the streams. The caller holds the lock.
func (h *hub) publish(changes []projections.Change, position uint64) {
	b := &batch{position: position, pods: map[string][]podChange{}, nodes: map[string]Item{}, referred: map[domain.Ref]string{}}
	common := map[domain.Ref]string{}
	var order []domain.Ref
	for i := range changes {
		c := &changes[i]
		ref := bare(c.Event.Ref)
		gr := ref.GroupResource()
		if c.After != nil {
			h.store.Put(c.After)
		} else {
			h.store.Delete(gr, ref.Namespace, ref.Name)
		}
		switch {
		case gr == podsResource:
			before, now := nodeOf(c.Before), nodeOf(c.After)
			if before != "" {
				b.pods[before] = append(b.pods[before], podChange{ref, c.Event.ID})
			}
			if now != "" && now != before {
				b.pods[now] = append(b.pods[now], podChange{ref, c.Event.ID})
			}
		case gr == nodesResource:
			b.nodes[ref.Name] = item(ref, c.After, c.Event.ID)
		case h.rules.shared[gr]:
			if _, ok := common[ref]; !ok {
				order = append(order, ref)
			}
			common[ref] = c.Event.ID
		case h.rules.referred[gr]:
			b.referred[ref] = c.Event.ID
		}
	}
	h.position = position
	close(h.moved)
	h.moved = make(chan struct{})
	b.view = h.store.Snapshot(position)
	for _, ref := range order {
		o, _ := b.view.Get(ref.GroupResource(), ref.Namespace, ref.Name)
		b.shared = append(b.shared, item(ref, o, common[ref]))
	}
	for s := range h.streams {
		if !s.push(b) {
			s.fail(fmt.Errorf("the node is too slow: %w", projections.ErrTooOld))
			delete(h.streams, s)
		}
	}
}

// item says what an object is now: put, or deleted when there is none. An object that cannot be read is to a node as if it were
// not there: what the node has of it stays.
func item(ref domain.Ref, o *projections.Object, eventID string) Item {
	if o == nil {
		return Item{Op: Delete, Ref: ref, EventID: eventID}
	}
	obj, err := o.Typed()
	if err != nil {
		return Item{Ref: ref}
	}
	return Item{Op: Put, Ref: o.Ref, Object: obj, EventID: eventID}
}

// resume fills a stream with what changed between a position and the view. It returns false when the live view no longer has
// the changes.
func (h *hub) resume(ctx context.Context, s *stream, view *memory.Snapshot, after uint64) (bool, error) {
	then := &past{now: view, before: map[domain.Ref]*projections.Object{}}
	events := map[domain.Ref]string{}
	var between []projections.Change // what may have changed the node's own objects
	if after < view.Position() {
		f, err := h.live.Follow(after, h.rules.all...)
		if errors.Is(err, projections.ErrTooOld) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		defer f.Close()
		for at := after; at < view.Position(); {
			changes, position, err := f.Next(ctx)
			if errors.Is(err, projections.ErrTooOld) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			for i := range changes {
				c := &changes[i]
				if c.Event.Position > view.Position() {
					break
				}
				ref := bare(c.Event.Ref)
				if _, ok := then.before[ref]; !ok {
					then.before[ref] = c.Before
				}
				events[ref] = c.Event.ID
				if indirect(ref.GroupResource()) || ref.GroupResource() == podsResource && (nodeOf(c.Before) == s.node || nodeOf(c.After) == s.node) {
					between = append(between, *c)
				}
			}
			at = position
		}
	}
	s.resume(view, then, between, events, after)
	return true, nil
}

// indirect tells whether what a pod needs depends on objects of a collection.
func indirect(gr domain.Resource) bool {
	return gr == serviceAccountsResource || gr == claimsResource || gr == volumesResource
}

// past is the cluster as it was: as it is, but for the objects that changed since.
type past struct {
	now    *memory.Snapshot
	before map[domain.Ref]*projections.Object // nil: it was not there
}

// Get implements getter.
func (p *past) Get(gr domain.Resource, namespace, name string) (*projections.Object, bool) {
	if o, ok := p.before[domain.Ref{Group: gr.Group, Resource: gr.Resource, Namespace: namespace, Name: name}]; ok {
		return o, o != nil
	}
	return p.now.Get(gr, namespace, name)
}

// ever returns the node's own objects at any moment from the past through the changes.
func (p *past) ever(r *rules, node string, changes []projections.Change) map[domain.Ref]bool {
	moment := &past{now: p.now, before: maps.Clone(p.before)}
	ever := map[domain.Ref]bool{}
	add := func(o *projections.Object) {
		ever[bare(o.Ref)] = true
		if pod, ok := typed[*corev1.Pod](o, true); ok {
			for ref := range r.references(moment, pod) {
				ever[ref] = true
			}
		}
	}
	addAll := func() {
		for _, o := range moment.podsOf(node) {
			add(o)
		}
	}
	addAll()
	if ref := (domain.Ref{Resource: nodesResource.Resource, Name: node}); p.touched(ref) {
		ever[ref] = true
	}
	for i := range changes {
		c := &changes[i]
		moment.before[bare(c.Event.Ref)] = c.After
		switch {
		case c.Event.Ref.GroupResource() != podsResource:
			addAll()
		case nodeOf(c.After) == node:
			add(c.After)
		}
	}
	return ever
}

func (p *past) touched(ref domain.Ref) bool {
	_, ok := p.before[ref]
	return ok
}

func (p *past) podsOf(node string) []*projections.Object {
	var list []*projections.Object
	for o := range p.now.Index(podsResource, domain.NodeIndex, node) {
		if _, changed := p.before[bare(o.Ref)]; !changed {
			list = append(list, o)
		}
	}
	for ref, o := range p.before {
		if ref.GroupResource() == podsResource && nodeOf(o) == node {
			list = append(list, o)
		}
	}
	return list
}
