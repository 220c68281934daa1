package logreplay_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/logreplay"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

func TestHistory(t *testing.T) {
	projectiontest.History(t, func(_ *testing.T, log eventstore.Log, kinds *domain.Set) projections.History {
		return logreplay.New(log, kinds)
	})
}

// At every position of a random history the view is what the events so far have led to.
func TestViewAt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		kinds := domain.NewSet(domain.Kinds())
		log := projectiontest.NewLog()
		scribe := projectiontest.NewScribe(log, kinds)
		projectiontest.RandomHistory(t, ctx, scribe, func() {
			head, err := log.Head(ctx)
			if err != nil {
				t.Fatal(err)
			}
			view, err := logreplay.ViewAt(ctx, log, kinds, uint64(head))
			if err != nil {
				t.Fatal(err)
			}
			if d := projectiontest.DiffView(scribe, view); d != "" {
				t.Fatal(d)
			}
		})
		if _, err := logreplay.ViewAt(ctx, log, kinds, 1<<40); !errors.Is(err, projections.ErrFuture) {
			t.Fatalf("in the future: %v", err)
		}
	})
}
