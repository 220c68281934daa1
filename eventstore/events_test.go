package eventstore_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
)

func TestProposedEventsComeBack(t *testing.T) {
	ref := domain.Ref{Resource: "pods", Namespace: "default", Name: "web-1", UID: "u-1"}
	want := domain.Event{
		ID: uuid.NewString(), Type: "PodChanged", Ref: ref, Op: domain.Changed, Change: json.RawMessage(`{"spec":{"n":1}}`),
		Actor: domain.Actor{User: "me"}, Command: domain.CommandInfo{Verb: "patch"}, Correlation: uuid.NewString(),
		Cause: &domain.Cause{ID: uuid.NewString(), Position: 7}, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Version: domain.SchemaVersion,
	}
	proposed, err := eventstore.Propose(want)
	if err != nil {
		t.Fatal(err)
	}
	if proposed.Type != "PodChanged" || proposed.ID.String() != want.ID {
		t.Errorf("proposed %s %s", proposed.Type, proposed.ID)
	}
	got, err := eventstore.Event(eventstore.Recorded{
		Proposed: proposed, Stream: ref.Stream(), Position: 12, Revision: 3, Created: want.Time,
	})
	if err != nil {
		t.Fatal(err)
	}
	want.Position, want.Revision = 12, 3
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("event differs (-proposed +read):\n%s", diff)
	}
}

func TestWhatIsNoEventIsRefused(t *testing.T) {
	if _, err := eventstore.Propose(domain.Event{ID: "7", Type: "PodChanged"}); err == nil {
		t.Error("an id that is no UUID was accepted")
	}
	_, err := eventstore.Event(eventstore.Recorded{Proposed: eventstore.Proposed{Type: "PodChanged", Data: []byte("[")}, Position: 4})
	if !errors.Is(err, domain.ErrBadEvent) {
		t.Errorf("got %v, want ErrBadEvent", err)
	}
}
