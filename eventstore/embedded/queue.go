package embedded

import (
	"runtime"
	"sync"

	"github.com/shiplog/shiplog/eventstore"
)

// queue holds the requests that wait for the next batch.
type queue struct {
	mu      sync.Mutex
	waiting []*request
	closed  bool
	signal  chan struct{}
}

func newQueue() *queue { return &queue{signal: make(chan struct{}, 1)} }

func (q *queue) put(r *request) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return eventstore.ErrClosed
	}
	q.waiting = append(q.waiting, r)
	select {
	case q.signal <- struct{}{}:
	default:
	}
	return nil
}

// take returns what fits into the next batch, and waits for there to be something. It returns nil once the queue is
// closed and empty.
func (q *queue) take() []*request {
	for {
		// Whoever is about to ask goes first. A sync costs the same for one request as for a hundred, so on busy cores larger groups are
		// served faster; on idle ones this costs nothing.
		runtime.Gosched()
		q.mu.Lock()
		n, bytes := 0, 0
		for n < len(q.waiting) && n < groupRequests && (n == 0 || bytes+q.waiting[n].bytes <= groupBytes) {
			bytes += q.waiting[n].bytes
			n++
		}
		if n > 0 {
			taken := q.waiting[:n:n]
			if q.waiting = q.waiting[n:]; len(q.waiting) == 0 {
				q.waiting = nil
			}
			q.mu.Unlock()
			return taken
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return nil
		}
		<-q.signal
	}
}

// close takes no more requests, and says whether it was open.
func (q *queue) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.closed = true
	select {
	case q.signal <- struct{}{}:
	default:
	}
	return true
}

// refuse answers all that still wait.
func (q *queue) refuse(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range q.waiting {
		if r.taken.CompareAndSwap(false, true) {
			r.finish(err)
		}
	}
	q.waiting = nil
}
