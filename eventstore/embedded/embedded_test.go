package embedded_test

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

func TestEventsSurviveReopening(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	log, err := embedded.Open(dir, embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		a, err := log.Append(ctx, "pods-default/web", eventstore.Expected(i-1), eventstore.Proposed{ID: uuid.New(), Type: "PodChanged", Data: []byte(`{}`)})
		if err != nil {
			t.Fatal(err)
		}
		if a.Revision != uint64(i) || a.Position != eventstore.Position(i+1) {
			t.Fatalf("append %d: got %+v", i, a)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if log, err = embedded.Open(dir, embedded.Options{}); err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	n := 0
	for e, err := range log.ReadStream(ctx, "pods-default/web", eventstore.ReadStream{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Revision != uint64(n) || string(e.Data) != "{}" || e.Type != "PodChanged" {
			t.Fatalf("event %d: got %+v", n, e)
		}
		n++
	}
	if n != 10 {
		t.Fatalf("read %d events, want 10", n)
	}
	sub, err := log.Subscribe(ctx, eventstore.Subscribe{After: 4})
	if err != nil {
		t.Fatal(err)
	}
	b, err := sub.Next(ctx)
	if err != nil || len(b.Events) != 6 || !b.CaughtUp || b.Checkpoint != 10 {
		t.Fatalf("got %+v, %v", b, err)
	}
	if _, err := log.Append(ctx, "x", eventstore.NoStream, eventstore.Proposed{Type: "T"}); err != nil {
		t.Fatal(err)
	}
	b, err = sub.Next(ctx)
	if err != nil || len(b.Events) != 1 || b.Checkpoint != 11 {
		t.Fatalf("got %+v, %v", b, err)
	}
}
