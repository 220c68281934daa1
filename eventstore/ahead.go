package eventstore

import (
	"context"
	"iter"
)

// What is read ahead at most: this many batches of this many events.
const (
	aheadBatches = 4
	aheadEvents  = 256
)

// ReadAllAhead is log.ReadAll, but that it reads on while the reader works on what it has: for those who have much to do with each
// of many events, on a machine with more than one core. At most about a thousand events are held.
func ReadAllAhead(ctx context.Context, log Log, opts ReadAll) iter.Seq2[Recorded, error] {
	return func(yield func(Recorded, error) bool) {
		ctx, stop := context.WithCancel(ctx)
		batches := make(chan batch, aheadBatches)
		go func() {
			defer close(batches)
			events := make([]Recorded, 0, aheadEvents)
			send := func(b batch) bool {
				select {
				case batches <- b:
					return true
				case <-ctx.Done():
					return false
				}
			}
			for e, err := range log.ReadAll(ctx, opts) {
				if err != nil {
					send(batch{events, err})
					return
				}
				if events = append(events, e); len(events) < aheadEvents {
					continue
				}
				if !send(batch{events: events}) {
					return
				}
				events = make([]Recorded, 0, aheadEvents)
			}
			send(batch{events: events})
		}()
		defer func() { // nobody reads on once this has returned
			stop()
			for range batches {
			}
		}()
		for b := range batches {
			for _, e := range b.events {
				if !yield(e, nil) {
					return
				}
			}
			if b.err != nil {
				yield(Recorded{}, b.err)
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(Recorded{}, err)
		}
	}
}

type batch struct {
	events []Recorded
	err    error
}
