package embedded_test

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// A disk that is nearly full takes no writes but those that make room, is read from, and takes writes again when there is room.
func TestDiskFull(t *testing.T) {
	c, fs := newClock(), vfs.NewMem()
	free := func(bytes uint64) {
		fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: bytes, TotalBytes: 2 << 30})
		c.now = c.now.Add(time.Minute)
	}
	free(1 << 30)
	log := open(t, "log", embedded.Options{FS: fs, Now: c.Now, Logger: quiet(), ScavengeEvery: -1})
	mustAppend(t, log, "s", 3)
	mustAppend(t, log, "gone", 3)
	sub, err := log.Subscribe(t.Context(), eventstore.Subscribe{})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()

	free(100 << 20) // a twentieth of the disk is 102 MiB
	_, err = log.Append(t.Context(), "s", eventstore.Any, eventstore.Proposed{Type: "T"})
	wantMessage(t, err, eventstore.ErrUnavailable, "100 MiB left", "free some space")
	wantMessage(t, err, eventstore.ErrFull, "writes need 102 MiB")
	if got := revisions(t, log, "s", eventstore.ReadStream{}); got != "[0 1 2]" {
		t.Errorf("the stream holds %s", got)
	}
	if b, err := sub.Next(t.Context()); err != nil || len(b.Events) != 6 {
		t.Errorf("a subscriber got %+v, %v", b, err)
	}
	if err := log.Delete(t.Context(), "gone", eventstore.Any); err != nil {
		t.Errorf("deleting: %v", err)
	}
	if err := log.SetMetadata(t.Context(), "s", eventstore.Any, eventstore.Metadata{MaxCount: 1}); err != nil {
		t.Errorf("a shorter retention: %v", err)
	}
	if removed, err := log.Scavenge(t.Context()); err != nil || removed != 5 {
		t.Errorf("scavenging removed %d, %v", removed, err)
	}

	free(1 << 20)
	if err := log.Tombstone(t.Context(), "gone", eventstore.Any); !errors.Is(err, eventstore.ErrFull) {
		t.Errorf("with next to nothing left: %v", err)
	}

	free(1 << 30)
	if a := mustAppend(t, log, "s", 1); a.Revision != 3 {
		t.Errorf("got %+v", a)
	}
}

// A log does not grow beyond its bound; when something is deleted, the space is given back and writes are taken again.
func TestMaxBytes(t *testing.T) {
	const most = 4 << 20
	c, fs := newClock(), vfs.NewMem()
	log := open(t, "log", embedded.Options{FS: fs, Now: c.Now, Logger: quiet(), MaxBytes: most, MemTableBytes: 256 << 10})
	random := rand.New(rand.NewPCG(1, 2))
	fill := func(stream string) error {
		for range 10_000 {
			data := make([]byte, 8<<10) // as good as incompressible
			for i := range data {
				data[i] = byte(random.Uint32())
			}
			c.now = c.now.Add(time.Second)
			if _, err := log.Append(t.Context(), stream, eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "T", Data: data}); err != nil {
				return err
			}
		}
		return nil
	}
	err := fill("bulk")
	wantMessage(t, err, eventstore.ErrFull, "of the 4 MiB that it may take", "delete streams")
	if head, err := log.Head(t.Context()); err != nil || head < 200 {
		t.Errorf("it took %d events, %v", head, err)
	}
	if size := diskSize(t, fs, "log/db"); size > most+most/2 {
		t.Errorf("it takes %d bytes of %d", size, most)
	}
	if err := log.Delete(t.Context(), "bulk", eventstore.Any); err != nil {
		t.Fatalf("deleting: %v", err)
	}
	// The scavenger goes to work by itself.
	for taken := false; !taken; {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
		c.now = c.now.Add(time.Second)
		_, err := log.Append(t.Context(), "after", eventstore.Any, eventstore.Proposed{Type: "T"})
		if taken = err == nil; !taken {
			if !errors.Is(err, eventstore.ErrFull) {
				t.Fatal(err)
			}
		}
	}
	if _, err := log.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func diskSize(t *testing.T, fs vfs.FS, dir string) (size int64) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if info, err := fs.Stat(fs.PathJoin(dir, name)); err == nil { // it may be gone
			size += info.Size()
		}
	}
	return size
}
