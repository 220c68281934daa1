package embedded

import (
	"fmt"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// diskGuard refuses writes before the disk is full: a write-ahead log that cannot be written takes a restart to recover
// from, a refusal passes by itself. Only the committer uses it.
type diskGuard struct {
	l       *Log
	checked time.Time
	refusal error
}

// diskCheckEvery is how long a look at the free space is good for.
const diskCheckEvery = time.Second

// refuses returns ErrUnavailable while there is too little space.
func (g *diskGuard) refuses(now time.Time) error {
	if g.l.opts.MinFreeBytes < 0 {
		return nil
	}
	if age := now.Sub(g.checked); age >= 0 && age < diskCheckEvery {
		return g.refusal
	}
	g.checked = now
	usage, err := g.l.opts.FS.GetDiskUsage(g.l.dir)
	if err != nil { // not every file system can tell
		g.refusal = nil
		return nil
	}
	was := g.refusal
	if g.refusal = nil; usage.AvailBytes < uint64(g.l.opts.MinFreeBytes) {
		g.refusal = fmt.Errorf("%w: the disk under %s has %d MiB left, and writes need %d MiB: free some space",
			eventstore.ErrUnavailable, g.l.dir, usage.AvailBytes>>20, g.l.opts.MinFreeBytes>>20)
	}
	if (was == nil) != (g.refusal == nil) {
		g.l.log.Warn("the log's disk changed between full and not full", "refusesWrites", g.refusal != nil, "freeBytes", usage.AvailBytes)
	}
	return g.refusal
}
