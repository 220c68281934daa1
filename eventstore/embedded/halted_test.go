package embedded_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// Pebble is halted where it writes its manifest, and holds what it wants for its own book-keeping. Whoever reads, verifies, asks for
// the chain, is refused a write or closes the log comes back all the same. (One who does not keeps the test from ending.)
func TestNobodyWaitsForAWriteThatIsHalted(t *testing.T) {
	ctx := t.Context()
	fault := &failing{kinds: func(op errorfs.Op) bool { return isWrite(op) && strings.Contains(op.Path, "MANIFEST") }, lasting: true, err: errInjected}
	fault.left.Store(1 << 62)
	log, err := embedded.Open("log", embedded.Options{
		FS: errorfs.Wrap(vfs.NewMem(), fault), Logger: quiet(), ScavengeEvery: -1, MemTableBytes: 16 << 10, MaxBytes: 1 << 30,
	})
	if err != nil {
		t.Fatal(err)
	}
	fault.left.Store(1)
	acknowledged := 0
	for err = nil; err == nil; acknowledged++ { // until a table is written, and the manifest should say so
		_, err = log.Append(ctx, "s", eventstore.Any, eventstore.Proposed{Type: "T", Data: make([]byte, 4<<10)})
	}
	if acknowledged--; !errors.Is(err, eventstore.ErrUnavailable) || !fault.failed.Load() || acknowledged == 0 {
		t.Fatalf("%d appends, then: %v", acknowledged, err)
	}
	head, err := log.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := log.DigestAt(ctx, head); err != nil {
			t.Errorf("asking for the chain: %v", err)
		}
	}
	n := 0
	for _, err := range log.Entries(ctx, 1, head) {
		if err != nil {
			t.Errorf("reading the entries: %v", err)
		}
		n++
	}
	if n != acknowledged {
		t.Errorf("%d entries, %d appends were acknowledged", n, acknowledged)
	}
	if _, err := log.Verify(ctx, nil); err != nil {
		t.Errorf("verifying: %v", err)
	}
	if _, err := log.Scavenge(ctx); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("scavenging: %v", err)
	}
	if _, err := log.Append(ctx, "s", eventstore.Any, eventstore.Proposed{Type: "T"}); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("appending: %v", err)
	}
	if err := log.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
}
