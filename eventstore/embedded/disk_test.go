package embedded_test

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// A disk that is nearly full takes no writes, is read from, and takes writes again when there is room.
func TestDiskFull(t *testing.T) {
	c, fs := newClock(), vfs.NewMem()
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 30, TotalBytes: 2 << 30})
	log := open(t, "log", embedded.Options{FS: fs, Now: c.Now, Logger: quiet()})
	mustAppend(t, log, "s", 3)
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 20, TotalBytes: 2 << 30})
	c.now = c.now.Add(time.Minute)
	_, err := log.Append(t.Context(), "s", eventstore.Any, eventstore.Proposed{Type: "T"})
	wantMessage(t, err, eventstore.ErrUnavailable, "1 MiB left", "free some space")
	if got := revisions(t, log, "s", eventstore.ReadStream{}); got != "[0 1 2]" {
		t.Errorf("the stream holds %s", got)
	}
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 30, TotalBytes: 2 << 30})
	c.now = c.now.Add(time.Minute)
	if a := mustAppend(t, log, "s", 1); a.Revision != 3 {
		t.Errorf("got %+v", a)
	}
}
