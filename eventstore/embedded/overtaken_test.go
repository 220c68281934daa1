package embedded

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/shiplog/shiplog/eventstore"
)

// A stream that the scavenger shortens between its lookup and its reading is looked up anew, never read in part.
func TestOvertakenByTheScavenger(t *testing.T) {
	log, err := Open(t.TempDir(), Options{ScavengeEvery: -1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for range 5 {
		if _, err := log.Append(t.Context(), "s", eventstore.Any, eventstore.Proposed{Type: "T"}); err != nil {
			t.Fatal(err)
		}
	}
	before, err := log.lookup("s")
	if err != nil {
		t.Fatal(err)
	}
	if err := log.SetMetadata(t.Context(), "s", eventstore.Any, eventstore.Metadata{TruncateBefore: 3}); err != nil {
		t.Fatal(err)
	}
	if removed, err := log.Scavenge(t.Context()); err != nil || removed != 3 {
		t.Fatalf("scavenged %d events: %v", removed, err)
	}
	for direction, from := range map[eventstore.Direction]uint64{eventstore.Forwards: 0, eventstore.Backwards: 4} {
		c, err := log.newScan(eventstore.Filter{System: true}).stream(&before, "s", from, direction, before.head, chunkEvents)
		if !errors.Is(err, errOvertaken) {
			t.Errorf("direction %d: read %d events of five, error %v", direction, len(c.events), err)
		}
	}
	after, err := log.lookup("s")
	if err != nil {
		t.Fatal(err)
	}
	c, err := log.newScan(eventstore.Filter{System: true}).stream(&after, "s", 0, eventstore.Forwards, after.head, chunkEvents)
	if err != nil || len(c.events) != 2 || !c.done {
		t.Errorf("looked up anew: %d events, done %v, error %v", len(c.events), c.done, err)
	}
}
