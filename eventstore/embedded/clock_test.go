package embedded_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// The clock jumps back and forth, by seconds and by years, also over restarts: dates never run backwards, every moment is found, nothing is
// lost but what has outlived its age, and nothing is removed that was read just before with the same clock.
func TestClockJumps(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0xc10c))
			c, fs := newClock(), vfs.NewMem()
			opts := embedded.Options{FS: fs, Now: c.Now, Logger: quiet(), ScavengeEvery: -1, TailEvents: 8, CachedStreams: 1 + random.IntN(3)}
			log, err := embedded.Open("log", opts)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := log.Close(); err != nil {
					t.Error(err)
				}
			}()
			if err := log.SetMetadata(t.Context(), "aging", eventstore.Any, eventstore.Metadata{MaxAge: time.Hour}); err != nil {
				t.Fatal(err)
			}
			kept := 0
			for range 120 {
				switch random.IntN(6) {
				case 0:
					c.now = c.now.Add(-time.Duration(random.Int64N(int64(5 * time.Second))))
				case 1:
					c.now = c.now.Add(time.Duration(random.Int64N(int64(time.Minute))))
				case 2:
					if random.IntN(5) == 0 { // by years
						c.now = c.now.AddDate(random.IntN(5)-2, 0, 0)
					}
				case 3:
					if err := log.Close(); err != nil {
						t.Fatal(err)
					}
					if log, err = embedded.Open("log", opts); err != nil {
						t.Fatal(err)
					}
				case 4:
					before := revisions(t, log, "aging", eventstore.ReadStream{})
					if _, err := log.Scavenge(t.Context()); err != nil {
						t.Fatal(err)
					}
					if after := revisions(t, log, "aging", eventstore.ReadStream{}); after != before {
						t.Fatalf("with the same clock %s were read, and %s after scavenging", before, after)
					}
				}
				mustAppend(t, log, "kept", 1)
				mustAppend(t, log, "aging", 1)
				kept++
			}
			var last eventstore.Recorded
			n := 0
			for _, e := range readAll(t, log) {
				if e.Created.Before(last.Created) {
					t.Fatalf("position %d is dated %s, position %d before it %s", e.Position, e.Created, last.Position, last.Created)
				}
				at, err := log.PositionAt(t.Context(), e.Created)
				if err != nil || at < e.Position {
					t.Fatalf("at %s: got position %d, %v, want %d or later", e.Created, at, err, e.Position)
				}
				if e.Created.After(last.Created) && last.Position > 0 {
					if at, err = log.PositionAt(t.Context(), e.Created.Add(-1)); err != nil || at >= e.Position {
						t.Fatalf("just before %s: got position %d, %v, want one before %d", e.Created, at, err, e.Position)
					}
				}
				if e.Stream == "kept" {
					n++
				}
				last = e
			}
			if n != kept {
				t.Errorf("%d events are left of %d that have no age", n, kept)
			}
			if _, err := log.Verify(t.Context(), nil); err != nil {
				t.Error(err)
			}
		})
	}
}
