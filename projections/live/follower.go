package live

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
)

// The bounds of one answer of Next, so that a follower that has much to catch up on does not hold the ring for long. They begin low
// and rise while answers are full: many follow for a single change.
const (
	minChanges = 8
	maxChanges = 512
)

// follower reads the ring from its own position. Nothing is queued for it: it costs the writer one signal, and nothing while it
// has not read the last one.
type follower struct {
	ring     *ring
	tracks   []*track // nil: of all resources
	position uint64
	limit    int
	wake     chan struct{}
	gone     chan struct{} // closed by Close
	tell     atomic.Bool   // answer with the position even when there are no changes
	told     atomic.Uint64 // the position last answered
	closed   atomic.Bool
}

func (r *ring) follow(after uint64, resources []domain.Resource) (*follower, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, fmt.Errorf("following changes: %w", eventstore.ErrClosed)
	}
	f := &follower{ring: r, position: after, limit: minChanges, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	f.tell.Store(true)
	f.told.Store(after)
	for _, gr := range resources {
		if t := r.track(gr); !slices.Contains(f.tracks, t) {
			f.tracks = append(f.tracks, t)
		}
	}
	if r.missed(after, f.tracks) {
		return nil, fmt.Errorf("following changes after position %d: %w", after, projections.ErrTooOld)
	}
	r.followers[f] = struct{}{}
	if f.tracks == nil {
		r.everything[f] = struct{}{}
	}
	for _, t := range f.tracks {
		t.waiting[f] = struct{}{}
	}
	return f, nil
}

// Next implements projections.Follower.
func (f *follower) Next(ctx context.Context) ([]projections.Change, uint64, error) {
	for {
		f.ring.mu.RLock()
		changes, position, err := f.ring.collect(nil, f.position, f.tracks, f.limit)
		closed := f.ring.closed
		f.ring.mu.RUnlock()
		switch {
		case err != nil:
			return nil, f.position, fmt.Errorf("following changes after position %d: %w", f.position, err)
		case f.closed.Load() || closed:
			return nil, f.position, fmt.Errorf("following changes after position %d: %w", f.position, eventstore.ErrClosed)
		case ctx.Err() != nil:
			return nil, f.position, ctx.Err()
		}
		if tell := f.tell.Swap(false); len(changes) > 0 || (tell && position > f.told.Load()) {
			if len(changes) == f.limit {
				f.limit = min(4*f.limit, maxChanges)
			}
			f.position = position
			f.told.Store(position)
			return changes, position, nil
		}
		// Nothing of what was passed over concerns this follower, and it need not be searched again.
		f.position = position
		select {
		case <-f.wake:
		case <-f.gone:
		case <-ctx.Done():
			return nil, f.position, ctx.Err()
		}
	}
}

// Close implements projections.Follower. It may be called while Next blocks, and more than once.
func (f *follower) Close() {
	if f.closed.Swap(true) {
		return
	}
	close(f.gone)
	f.ring.mu.Lock()
	defer f.ring.mu.Unlock()
	delete(f.ring.followers, f)
	delete(f.ring.everything, f)
	for _, t := range f.tracks {
		delete(t.waiting, f)
	}
}

func (f *follower) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// close ends all followers.
func (r *ring) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for f := range r.followers {
		f.signal()
	}
}
