package live

import (
	"context"
	"sync"
)

// waiters are those who wait for positions.
type waiters struct {
	mu      sync.Mutex
	reached uint64
	over    error // set when nothing more comes
	waiting map[chan struct{}]uint64
}

// reach wakes those who wait for a position or an earlier one.
func (w *waiters) reach(position uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reached = position
	for c, p := range w.waiting {
		if p <= position {
			close(c)
			delete(w.waiting, c)
		}
	}
}

// end wakes everybody with an error.
func (w *waiters) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = err
	for c := range w.waiting {
		close(c)
	}
	clear(w.waiting)
}

func (w *waiters) wait(ctx context.Context, position uint64) error {
	w.mu.Lock()
	if w.reached >= position || w.over != nil {
		defer w.mu.Unlock()
		if w.reached >= position {
			return nil
		}
		return w.over
	}
	c := make(chan struct{})
	if w.waiting == nil {
		w.waiting = map[chan struct{}]uint64{}
	}
	w.waiting[c] = position
	w.mu.Unlock()
	select {
	case <-c:
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.reached >= position {
			return nil
		}
		return w.over
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting, c)
		return ctx.Err()
	}
}
