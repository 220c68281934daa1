package embedded

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// diskGuard refuses writes before the disk is full, or the log larger than it may be: a write-ahead log that cannot be written takes
// a restart to recover from, a refusal passes by itself. What makes room, deletions and shorter retention, is let through for
// longer. Only the committer uses it.
type diskGuard struct {
	l       *Log
	checked time.Time
	written int   // bytes since then
	refusal error // of what does not make room
	strict  error // of everything
}

const (
	// diskCheckEvery and diskCheckBytes are how long, and for how many written bytes, a look at the disk is good.
	diskCheckEvery = time.Second
	diskCheckBytes = 8 << 20

	// By default a twentieth of the disk is kept free, within these bounds.
	leastFree, mostFree = 64 << 20, 1 << 30
	freeShare           = 20

	// roomToMakeRoom is how much what makes room may take beyond Options.MaxBytes.
	roomToMakeRoom = 16 << 20
)

// wrote counts what was written.
func (g *diskGuard) wrote(bytes int) { g.written += bytes }

// refuses returns ErrFull while a request may not be written.
func (g *diskGuard) refuses(r *request, now time.Time) error {
	if age := now.Sub(g.checked); age < 0 || age >= diskCheckEvery || g.written >= diskCheckBytes {
		g.look(now)
	}
	if makesRoom(r) {
		return g.strict
	}
	return g.refusal
}

// makesRoom says whether a request lets something be removed.
func makesRoom(r *request) bool {
	return r.op == opDelete || r.op == opTombstone || r.op == opAppend && strings.HasPrefix(r.stream, eventstore.MetadataStreamPrefix)
}

// look finds out how things stand.
func (g *diskGuard) look(now time.Time) {
	g.checked, g.written = now, 0
	was := g.refusal
	g.refusal, g.strict = nil, nil
	g.lookAtDisk()
	g.lookAtSize()
	g.l.full.Store(g.refusal != nil)
	if (was == nil) == (g.refusal == nil) {
		return
	}
	if g.refusal == nil {
		g.l.log.Warn("the log takes writes again")
		return
	}
	g.l.log.Error("the log takes no writes but those that make room; what retention made expire is removed now", "why", g.refusal)
	g.removeSoon()
}

// removeSoon has the scavenger look at once for what it can remove, while the disk is full.
func (g *diskGuard) removeSoon() {
	if g.refusal == nil {
		return
	}
	select {
	case g.l.crowded <- struct{}{}:
	default:
	}
}

func (g *diskGuard) lookAtDisk() {
	need := uint64(max(g.l.opts.MinFreeBytes, 0))
	if g.l.opts.MinFreeBytes < 0 {
		return
	}
	usage, err := g.l.opts.FS.GetDiskUsage(g.l.dir)
	if err != nil { // not every file system can tell
		return
	}
	if need == 0 {
		need = max(leastFree, min(usage.TotalBytes/freeShare, mostFree))
	}
	if usage.AvailBytes >= need {
		return
	}
	full := fmt.Errorf("%w: %w: the disk under %s has %d MiB left, and writes need %d MiB: free some space on it",
		eventstore.ErrUnavailable, eventstore.ErrFull, g.l.dir, usage.AvailBytes>>20, need>>20)
	if g.refusal = full; usage.AvailBytes < need/4 {
		g.strict = full
	}
}

func (g *diskGuard) lookAtSize() {
	most := g.l.opts.MaxBytes
	if most <= 0 || g.refusal != nil {
		return
	}
	var size int64
	if err := g.l.fuse.await(func() error {
		size = int64(g.l.db.Metrics().DiskSpaceUsage())
		return nil
	}); err != nil || size < most {
		return
	}
	full := fmt.Errorf("%w: %w: the log in %s takes %d MiB of the %d MiB that it may take: delete streams, shorten their retention, or allow it more",
		eventstore.ErrUnavailable, eventstore.ErrFull, g.l.dir, size>>20, most>>20)
	if g.refusal = full; size >= most+roomToMakeRoom {
		g.strict = full
	}
}

// makeRoom removes what retention made expire and gives the space back at once, which otherwise comes as it comes.
func (l *Log) makeRoom(ctx context.Context) (removed int, err error) {
	if removed, err = l.Scavenge(ctx); err != nil || removed == 0 {
		return removed, err
	}
	release, err := l.acquire()
	if err != nil {
		return removed, err
	}
	defer release()
	err = l.fuse.await(func() error { return l.db.Compact(ctx, []byte{eventKey}, []byte{untracedKey + 1}, false) })
	if err != nil {
		err = fmt.Errorf("giving back the space of what was removed: %w", err)
	}
	return removed, err
}
