package eventstore

import (
	"context"
	"errors"
	"iter"
	"testing"
	"testing/synctest"
)

// counted is a log of which only ReadAll is used: it has n events and ends with an error, if one is given.
type counted struct {
	Log
	n   int
	err error
}

func (c counted) ReadAll(ctx context.Context, opts ReadAll) iter.Seq2[Recorded, error] {
	return func(yield func(Recorded, error) bool) {
		for i := int(opts.From); i <= c.n; i++ {
			if ctx.Err() != nil {
				yield(Recorded{}, ctx.Err())
				return
			}
			if !yield(Recorded{Position: Position(i)}, nil) {
				return
			}
		}
		if c.err != nil {
			yield(Recorded{}, c.err)
		}
	}
}

// In a bubble a goroutine that is left behind is an error.
func TestReadAllAhead(t *testing.T) {
	broken := errors.New("broken")
	for _, n := range []int{0, 1, aheadEvents - 1, aheadEvents, aheadEvents + 1, 10*aheadEvents + 7} {
		for _, fault := range []error{nil, broken} {
			synctest.Test(t, func(t *testing.T) {
				seen := 0
				var got error
				for e, err := range ReadAllAhead(t.Context(), counted{n: n, err: fault}, ReadAll{From: 1}) {
					if err != nil {
						got = err
						continue
					}
					if seen++; e.Position != Position(seen) || got != nil {
						t.Fatalf("event %d of %d has position %d, after error %v", seen, n, e.Position, got)
					}
				}
				if seen != n || !errors.Is(got, fault) {
					t.Errorf("%d of %d events, error %v instead of %v", seen, n, got, fault)
				}
			})
		}
	}
}

func TestReadAllAheadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for e := range ReadAllAhead(t.Context(), counted{n: 1 << 20}, ReadAll{From: 1}) {
			if e.Position == 3 {
				break
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var last error
		for e, err := range ReadAllAhead(ctx, counted{n: 1 << 20}, ReadAll{From: 1}) {
			if e.Position == 3 {
				cancel()
			}
			last = err
		}
		if !errors.Is(last, context.Canceled) {
			t.Errorf("a cancelled read ended with %v", last)
		}
	})
}
