package engine

import (
	"context"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/shiplog/shiplog/eventstore"
)

// Batch is what of the log follows a position.
type Batch struct {
	After   eventstore.Position // everything up to here was in earlier batches
	Through eventstore.Position // everything up to here is in this one or earlier ones
	Records []eventstore.Recorded
	// CaughtUp says that nothing more was there when the batch was read.
	CaughtUp bool
}

type batchKey struct{}

func withBatch(ctx context.Context, b Batch) context.Context {
	return context.WithValue(ctx, batchKey{}, b)
}

// BatchOf returns the batch of a message of a Subscriber.
func BatchOf(msg *message.Message) (Batch, bool) {
	b, ok := msg.Context().Value(batchKey{}).(Batch)
	return b, ok
}

// pending collects what has been read and not been taken, so that reading goes on while a batch is applied and whatever has
// come meanwhile is the next batch.
type pending struct {
	maxEvents, maxBytes int

	mu     sync.Mutex
	cond   sync.Cond
	batch  Batch
	bytes  int
	some   bool // there is something to take
	ended  bool
	now    chan struct{}       // closed when the batch is not to wait: it is full, or somebody waits for it
	taken  eventstore.Position // through
	urgent eventstore.Position // somebody waits for what is up to here
}

func newPending(maxEvents, maxBytes int) *pending {
	p := &pending{maxEvents: maxEvents, maxBytes: maxBytes, now: make(chan struct{})}
	p.cond.L = &p.mu
	return p
}

// add appends events, blocking while the batch is full. checkpoint is the position reached after them. It returns false when
// nobody takes any more.
func (p *pending) add(events []eventstore.Recorded, checkpoint eventstore.Position, caughtUp bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for len(events) > 0 && p.fits(events[0]) {
			p.batch.Records = append(p.batch.Records, events[0])
			p.batch.Through = events[0].Position
			p.bytes += sizeOf(events[0])
			events, p.some = events[1:], true
		}
		if len(events) == 0 {
			break
		}
		p.dontWait()
		if p.ended {
			return false
		}
		p.cond.Broadcast()
		p.cond.Wait()
	}
	if checkpoint > p.batch.Through {
		p.batch.Through, p.some = checkpoint, true
	}
	p.batch.CaughtUp = caughtUp
	p.some = p.some || caughtUp
	p.cond.Broadcast()
	return !p.ended
}

func sizeOf(r eventstore.Recorded) int { return len(r.Data) + len(r.Metadata) }

func (p *pending) fits(r eventstore.Recorded) bool {
	n := len(p.batch.Records)
	return n == 0 || n < p.maxEvents && p.bytes+sizeOf(r) <= p.maxBytes
}

func (p *pending) dontWait() {
	select {
	case <-p.now:
	default:
		close(p.now)
	}
}

// hurry says that somebody waits for a position: nothing up to it lingers.
func (p *pending) hurry(position eventstore.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.urgent = max(p.urgent, position); p.urgent > p.taken {
		p.dontWait()
	}
}

// take waits for something and returns it all; false when the end has come.
func (p *pending) take(linger time.Duration) (Batch, bool) {
	p.mu.Lock()
	for !p.some && !p.ended {
		p.cond.Wait()
	}
	if linger > 0 && !p.ended && p.urgent <= p.taken {
		now := p.now
		p.mu.Unlock()
		timer := time.NewTimer(linger)
		select {
		case <-timer.C:
		case <-now:
		}
		timer.Stop()
		p.mu.Lock()
	}
	defer p.mu.Unlock()
	if p.ended {
		return Batch{}, false
	}
	b := p.batch
	p.batch, p.bytes, p.some = Batch{Through: b.Through}, 0, false
	p.taken, p.now = b.Through, make(chan struct{})
	p.cond.Broadcast()
	return b, true
}

func (p *pending) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.dontWait()
	p.cond.Broadcast()
}
