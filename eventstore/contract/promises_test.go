package contract

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

func record(positions ...eventstore.Position) []eventstore.Recorded {
	var out []eventstore.Recorded
	for _, p := range positions {
		out = append(out, eventstore.Recorded{
			Proposed: eventstore.Proposed{ID: uuid.NewSHA1(uuid.Nil, []byte{byte(p)}), Type: "A"},
			Stream:   "s", Revision: uint64(p - 1), Position: p,
		})
	}
	return out
}

func batch(checkpoint eventstore.Position, events ...eventstore.Recorded) eventstore.Batch {
	return eventstore.Batch{Events: events, Checkpoint: checkpoint}
}

// Each promise is seen to be broken by the delivery that breaks it, and by nothing else.
func TestDeliveryCheck(t *testing.T) {
	log := record(1, 2, 3, 4)
	log[3].Stream, log[3].Revision = "$system", 0
	changed := log[1]
	changed.Data = []byte("other")
	for _, c := range []struct {
		name    string
		after   eventstore.Position
		batches []eventstore.Batch
		want    error
	}{
		{"all", 0, []eventstore.Batch{batch(2, log[:2]...), batch(4, log[2])}, nil},
		{"from the middle", 1, []eventstore.Batch{batch(3, log[1:3]...)}, nil},
		{"not all yet", 0, []eventstore.Batch{batch(1, log[0])}, nil},
		{"order", 0, []eventstore.Batch{batch(3, log[1], log[0], log[2])}, ErrUnordered},
		{"twice", 0, []eventstore.Batch{batch(2, log[:2]...), batch(3, log[1], log[2])}, ErrNotUnique},
		{"missing", 0, []eventstore.Batch{batch(3, log[0], log[2])}, ErrIncomplete},
		{"missing at the checkpoint", 0, []eventstore.Batch{batch(2, log[0])}, ErrIncomplete},
		{"refused by the filter", 0, []eventstore.Batch{batch(4, log...)}, ErrNotAdmitted},
		{"not in the log", 0, []eventstore.Batch{batch(3, log[:3]...), batch(9, record(9)...)}, ErrInvented},
		{"changed", 0, []eventstore.Batch{batch(3, log[0], changed, log[2])}, ErrChanged},
		{"checkpoint back", 0, []eventstore.Batch{batch(2, log[:2]...), batch(1)}, ErrNotResumable},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Delivery{Subscribed: eventstore.Subscribe{After: c.after}, Batches: c.batches}
			checkBroken(t, d.Check(log), c.want)
		})
	}
}

func TestCheckDurable(t *testing.T) {
	log := record(1, 2, 3)
	acknowledged := []Acknowledged{
		{Stream: "s", Events: []uuid.UUID{log[0].ID}, Result: eventstore.Appended{Position: 1, Revision: 0}},
		{Stream: "s", Events: []uuid.UUID{log[1].ID, log[2].ID}, Result: eventstore.Appended{Position: 3, Revision: 2}},
	}
	changed := log[1]
	changed.Type = "B"
	moved := slices.Clone(acknowledged)
	moved[1].Result = eventstore.Appended{Position: 4, Revision: 2}
	for _, c := range []struct {
		name         string
		log          []eventstore.Recorded
		acknowledged []Acknowledged
		seen         []eventstore.Recorded
		want         error
	}{
		{"sound", log, acknowledged, log[:2], nil},
		{"more than was acknowledged", log, acknowledged[:1], nil, nil},
		{"acknowledged and gone", log[:2], acknowledged, nil, ErrLost},
		{"seen and gone", log[:2], nil, log, ErrLost},
		{"seen and changed", log, nil, []eventstore.Recorded{changed}, ErrChanged},
		{"moved", log, moved, nil, ErrChanged},
		{"gap", []eventstore.Recorded{log[0], log[2]}, nil, nil, ErrGap},
		{"order", []eventstore.Recorded{log[0], {Stream: "t", Position: 1}}, nil, nil, ErrUnordered},
	} {
		t.Run(c.name, func(t *testing.T) { checkBroken(t, CheckDurable(c.log, c.acknowledged, c.seen), c.want) })
	}
}

func checkBroken(t *testing.T, got, want error) {
	t.Helper()
	for _, p := range Promises() {
		if errors.Is(got, p) != (p == want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}
