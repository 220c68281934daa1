package storage

import (
	"context"
	"errors"
	"sync"
)

// errEnded says that a position will never be reached.
var errEnded = errors.New("the control plane is stopping")

// progress is a position that others wait for.
type progress struct {
	mu       sync.Mutex
	position uint64
	err      error         // why it does not move on
	moved    chan struct{} // closed, and replaced, when something changes
}

func newProgress() *progress { return &progress{moved: make(chan struct{})} }

func (p *progress) reach(position uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = nil
	if position > p.position {
		p.position = position
		p.wake()
	}
}

// stall tells those who wait that the position does not move on for now, or ever.
func (p *progress) stall(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	p.wake()
}

func (p *progress) wake() {
	close(p.moved)
	p.moved = make(chan struct{})
}

func (p *progress) wait(ctx context.Context, position uint64) error {
	for {
		p.mu.Lock()
		reached, err, moved := p.position >= position, p.err, p.moved
		p.mu.Unlock()
		switch {
		case reached:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
