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
	"github.com/shiplog/shiplog/projections/memory"
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

// Nothing is derived from a log that only a newer build understands.
func TestAMandatoryEventOfANewerBuild(t *testing.T) {
	ctx := context.Background()
	kinds := domain.NewSet(domain.Kinds())
	log := projectiontest.NewLog()
	scribe := projectiontest.NewScribe(log, kinds)
	bad, err := scribe.Force(ctx, domain.Event{
		Ref: domain.Ref{Resource: "pods", Namespace: "default", Name: "p"}, Op: domain.Created, Type: "PodTeleported", Mandatory: true, Change: []byte(`{}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	history := logreplay.New(log, kinds)
	for what, ask := range map[string]func() error{
		"ViewAt": func() error { _, err := logreplay.ViewAt(ctx, log, kinds, bad.Position); return err },
		"Continue": func() error {
			_, err := logreplay.Continue(ctx, log, kinds, memory.NewStore(), map[domain.Ref]struct{}{}, 0, bad.Position)
			return err
		},
		"GetAt":      func() error { _, err := history.GetAt(ctx, bad.Ref, bad.Position); return err },
		"ListAt":     func() error { _, err := history.ListAt(ctx, bad.Ref.GroupResource(), "", bad.Position); return err },
		"Events":     func() error { _, err := history.Events(ctx, projections.EventQuery{}); return err },
		"Event":      func() error { _, err := history.Event(ctx, bad.Position, ""); return err },
		"PositionAt": func() error { _, err := history.PositionAt(ctx, time.Now()); return err },
	} {
		if err := ask(); !errors.Is(err, domain.ErrNewer) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
