package storage

import "sync"

// recentSize is how many of the last events' correlations are remembered; a power of two.
const recentSize = 8192

// recent remembers the correlations of the events last appended here: what a component does about an event, it does soon.
type recent struct {
	mu   sync.Mutex
	ring [recentSize]struct {
		position    uint64
		correlation string
	}
}

func (r *recent) put(position uint64, correlation string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slot := &r.ring[position%recentSize]
	slot.position, slot.correlation = position, correlation
}

func (r *recent) get(position uint64) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slot := &r.ring[position%recentSize]
	return slot.correlation, slot.position == position && position > 0
}
