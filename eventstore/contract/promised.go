package contract

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/eventstore"
)

// Together has writers and readers work on a log at the same time, each with random choices that its seed makes, and records
// what they were told. done is called after each append that was answered; writers stop when it says so. Errors that the caller's
// faults explain (ErrUnavailable) leave outcomes open; others end it.
func (h *History) Together(ctx context.Context, log eventstore.Log, seed uint64, writers, readers int, done func(appends int) bool) error {
	group, ctx := errgroup.WithContext(ctx)
	writing, stop := context.WithCancel(ctx)
	left := make(chan struct{}, writers)
	count := make(chan struct{}, 1)
	answered := 0
	for w := range writers {
		random := rand.New(rand.NewPCG(seed, uint64(w)))
		group.Go(func() error {
			defer func() { left <- struct{}{} }()
			known := make(map[string]eventstore.Expected)
			for {
				err := h.write(ctx, log, random, known)
				if err != nil {
					return err
				}
				count <- struct{}{}
				answered++
				over := done(answered)
				<-count
				if over || writing.Err() != nil {
					stop()
					return nil
				}
			}
		})
	}
	group.Go(func() error {
		for range writers {
			<-left
		}
		stop()
		return nil
	})
	for r := range readers {
		random := rand.New(rand.NewPCG(seed, uint64(1000+r)))
		group.Go(func() error {
			for writing.Err() == nil {
				if err := h.read(ctx, log, random); err != nil && !errors.Is(err, eventstore.ErrUnavailable) {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	stop()
	return err
}

// streamsTogether is how many streams writers share.
const streamsTogether = 5

// write makes one append, whose expectation is what the writer last knew of the stream, or something else. An append whose
// outcome is open is made again, until it is known.
func (h *History) write(ctx context.Context, log eventstore.Log, random *rand.Rand, known map[string]eventstore.Expected) error {
	stream := fmt.Sprintf("together-%d", random.IntN(streamsTogether))
	last, met := known[stream]
	if !met {
		last = eventstore.NoStream
	}
	expected := last
	switch random.IntN(10) {
	case 0:
		expected = eventstore.Any
	case 1:
		expected = eventstore.StreamExists
	case 2:
		expected = last + 3
	}
	batch := make([]eventstore.Proposed, 1+random.IntN(3))
	for i := range batch {
		batch[i] = event([]string{"Even", "Odd"}[i%2], fmt.Sprint(random.IntN(1000)))
	}
	for {
		result, err := h.Append(ctx, log, stream, expected, batch...)
		var wrong *eventstore.WrongExpectedRevisionError
		switch {
		case err == nil:
			known[stream] = eventstore.Exact(result.Revision)
			return nil
		case errors.As(err, &wrong):
			known[stream] = wrong.Actual
			return nil
		case !errors.Is(err, eventstore.ErrUnavailable) || ctx.Err() != nil:
			return err
		}
	}
}

func (h *History) read(ctx context.Context, log eventstore.Log, random *rand.Rand) error {
	var err error
	switch random.IntN(4) {
	case 0:
		_, err = h.ReadStream(ctx, log, fmt.Sprintf("together-%d", random.IntN(streamsTogether)))
	case 1:
		_, err = h.ReadAll(ctx, log, eventstore.ReadAll{Filter: eventstore.Filter{TypePrefixes: []string{"Even"}}})
	case 2:
		_, err = h.ReadAll(ctx, log, eventstore.ReadAll{Direction: eventstore.Backwards, FromEnd: true, Limit: 1 + random.IntN(30)})
	default:
		_, err = h.ReadAll(ctx, log, eventstore.ReadAll{})
	}
	return err
}

var promiseTests = []test{
	{"writers and readers at the same time are told nothing but what is so", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		const seed = 1
		var h History
		d := subscribe(ctx, t, log, eventstore.Subscribe{})
		if err := h.Together(ctx, log, seed, 4, 2, func(n int) bool { return n >= 200 }); err != nil {
			t.Fatal(err)
		}
		all := everything(ctx, t, log)
		if err := h.Check(all); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if err := CheckDurable(all, h.Acknowledged(), h.Seen()); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		d.until(all[len(all)-1].Position)
		d.check(log)
	}},
}
