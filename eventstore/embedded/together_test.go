package embedded_test

import (
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// Writers, readers, subscribers and the scavenger at the same time: what is read of a stream is always a run of revisions
// without a gap that ends at least where the last answered append did, and nothing fails.
func TestScavengingBesideEverything(t *testing.T) {
	log := open(t, "log", embedded.Options{
		FS: vfs.NewMem(), Logger: quiet(), ScavengeEvery: -1, TailEvents: 8, CachedStreams: 4, MemTableBytes: 64 << 10,
	})
	const streams, appends, kept = 6, 150, 5
	var writing, working errgroup.Group
	done := make(chan struct{})
	running := func() bool {
		select {
		case <-done:
			return false
		default:
			return true
		}
	}
	for s := range streams {
		stream := fmt.Sprintf("s-%d", s)
		writing.Go(func() error {
			if err := log.SetMetadata(t.Context(), stream, eventstore.Any, eventstore.Metadata{MaxCount: kept}); err != nil {
				return err
			}
			for i := range appends {
				a, err := log.Append(t.Context(), stream, eventstore.Expected(i-1), eventstore.Proposed{Type: "T", Data: make([]byte, 500)})
				if err != nil {
					return err
				}
				if err := isRun(t, log, stream, a.Revision, kept); err != nil {
					return err
				}
			}
			return nil
		})
	}
	working.Go(func() error {
		for running() {
			if _, err := log.Scavenge(t.Context()); err != nil {
				return err
			}
		}
		return nil
	})
	working.Go(func() error {
		for running() {
			if _, err := log.Verify(t.Context(), nil); err != nil {
				return err
			}
			var last eventstore.Position
			for e, err := range log.ReadAll(t.Context(), eventstore.ReadAll{Filter: eventstore.Filter{System: true}}) {
				if err != nil {
					return err
				}
				if e.Position <= last {
					return fmt.Errorf("position %d after %d", e.Position, last)
				}
				last = e.Position
			}
		}
		return nil
	})
	err := writing.Wait()
	close(done)
	if werr := working.Wait(); err != nil || werr != nil {
		t.Fatal(err, werr)
	}
	if _, err := log.Scavenge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := log.Verify(t.Context(), nil); err != nil || got.Events != streams*kept+streams {
		t.Errorf("got %+v, %v, want %d events", got, err, streams*kept+streams)
	}
}

func isRun(t *testing.T, log eventstore.Log, stream string, atLeast, most uint64) error {
	var first, next uint64
	n := uint64(0)
	for e, err := range log.ReadStream(t.Context(), stream, eventstore.ReadStream{}) {
		if err != nil {
			return err
		}
		if n > 0 && e.Revision != next {
			return fmt.Errorf("%s: revision %d after %d", stream, e.Revision, next-1)
		}
		if n == 0 {
			first = e.Revision
		}
		n, next = n+1, e.Revision+1
	}
	if next <= atLeast || n > most {
		return fmt.Errorf("%s: revisions %d to %d, after revision %d was appended and %d are kept", stream, first, next, atLeast, most)
	}
	return nil
}
