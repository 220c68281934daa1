package embedded

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

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

// What has expired may be gone, and is there again when the retention is lengthened before it is removed. From then on it has to stay: a
// removal that had been decided on before is given up.
func TestARetentionThatIsLengthenedMeanwhile(t *testing.T) {
	meanwhile := func() {} // what happens when the scavenger has decided what has expired, which is when it first asks for the time
	var deciding atomic.Bool
	now := func() time.Time {
		if deciding.CompareAndSwap(true, false) {
			meanwhile()
		}
		return time.Now()
	}
	log, err := Open(t.TempDir(), Options{ScavengeEvery: -1, Logger: slog.New(slog.DiscardHandler), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for range 10 {
		if _, err := log.Append(t.Context(), "s", eventstore.Any, eventstore.Proposed{Type: "T"}); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (revisions []uint64) {
		for e, err := range log.ReadStream(t.Context(), "s", eventstore.ReadStream{}) {
			if err != nil {
				t.Fatal(err)
			}
			revisions = append(revisions, e.Revision)
		}
		return revisions
	}
	keep := func(m eventstore.Metadata) {
		if err := log.SetMetadata(t.Context(), "s", eventstore.Any, m); err != nil {
			t.Fatal(err)
		}
	}
	keep(eventstore.Metadata{MaxCount: 1})
	var seen []uint64
	meanwhile = func() {
		keep(eventstore.Metadata{MaxCount: 7})
		seen = read()
	}
	deciding.Store(true)
	removed, err := log.Scavenge(t.Context())
	if err != nil || len(seen) != 7 {
		t.Fatalf("removed %d events (%v), %d were seen meanwhile", removed, err, len(seen))
	}
	if left := read(); len(left) != len(seen) || left[0] != seen[0] {
		t.Errorf("the events %v were seen, and %v are left", seen, left)
	}
	if removed != 3+1 { // of the stream, and the metadata before the last
		t.Errorf("removed %d events, want those that have expired by the longer retention", removed)
	}
}
