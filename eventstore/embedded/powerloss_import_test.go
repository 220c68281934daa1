package embedded_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// Power fails, several times, while a log takes another's entries, at any call that changes the disk. Each import that was acknowledged is
// there, one without an answer as a whole or not at all, and what goes on where the log ends leads to the same log.
func TestPowerLossWhileImporting(t *testing.T) {
	newCampaign(t, 400).run(t, nil, func(ctx context.Context, seed uint64) error {
		source := newVoyage(seed)
		if err := source.sail(ctx, 1<<62); err != nil {
			return err
		}
		c := &copying{random: rand.New(rand.NewPCG(seed, 0x1413)), opts: source.opts, disk: vfs.NewCrashableMem()}
		var err error
		if c.entries, err = entriesOn(ctx, source.disk, source.opts); err != nil {
			return fmt.Errorf("reading the source: %w", err)
		}
		return c.run(ctx)
	})
}

func entriesOn(ctx context.Context, disk *vfs.MemFS, opts embedded.Options) (entries []eventstore.Entry, err error) {
	opts.FS = disk
	log, err := embedded.Open("log", opts)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	for e, err := range log.Entries(ctx, 1, math.MaxUint64) {
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	_, err = log.Verify(ctx, nil)
	return entries, err
}

// copying is the import of a log into another, over several failures of the power.
type copying struct {
	random  *rand.Rand
	opts    embedded.Options
	entries []eventstore.Entry
	disk    *vfs.MemFS

	mu sync.Mutex
	// how many entries are acknowledged, and how many there are with those of an import that has no answer yet
	acknowledged, asked int
}

func (c *copying) run(ctx context.Context) error {
	for failures := 1 + c.random.IntN(5); failures > 0; failures-- {
		if err := c.once(ctx, 1+c.random.Int64N(60)); err != nil {
			return err
		}
	}
	if err := c.once(ctx, 1<<62); err != nil {
		return err
	}
	got, err := entriesOn(ctx, c.disk, c.opts)
	if err != nil {
		return fmt.Errorf("reading the copy: %w", err)
	}
	if len(got) != len(c.entries) {
		return fmt.Errorf("the copy has %d entries, the source %d", len(got), len(c.entries))
	}
	for i := range got {
		if got[i].Position != c.entries[i].Position || got[i].Digest != c.entries[i].Digest || got[i].Scavenged != c.entries[i].Scavenged {
			return fmt.Errorf("entry %d stands at position %d with the digest %s, in the source at %d with %s", i, got[i].Position, got[i].Digest, c.entries[i].Position, c.entries[i].Digest)
		}
	}
	return nil
}

// once imports what is missing until power fails.
func (c *copying) once(ctx context.Context, failAfter int64) error {
	var acknowledged, asked int // when power failed
	disk := &mortalDisk{disk: c.disk, random: rand.New(rand.NewPCG(c.random.Uint64(), 3)), before: func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		acknowledged, asked = c.acknowledged, c.asked
	}}
	disk.left.Store(failAfter)
	opts := c.opts
	opts.FS = errorfs.Wrap(c.disk, disk)
	log, err := embedded.Open("log", opts)
	if err != nil {
		return fmt.Errorf("opening: %w", err)
	}
	at, err := c.found(ctx, log)
	for err == nil && at < len(c.entries) && !disk.failed() {
		next := min(at+1+c.random.IntN(12), len(c.entries))
		c.tell(at, next)
		if err = log.Import(ctx, c.entries[at:next]...); err == nil {
			at = next
			c.tell(at, at)
		}
	}
	if cerr := log.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	disk.fail()
	c.disk = disk.clone
	c.tell(acknowledged, asked)
	return nil
}

func (c *copying) tell(acknowledged, asked int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acknowledged, c.asked = acknowledged, asked
}

// found says how many entries the log has after a failure.
func (c *copying) found(ctx context.Context, log *embedded.Log) (n int, err error) {
	head, err := log.Head(ctx)
	if err != nil {
		return 0, err
	}
	for n < len(c.entries) && c.entries[n].Position <= head {
		n++
	}
	if n != c.acknowledged && n != c.asked {
		return n, fmt.Errorf("the log has %d entries: %d were acknowledged, and %d asked for", n, c.acknowledged, c.asked)
	}
	if n == 0 {
		return 0, nil
	}
	digest, err := log.DigestAt(ctx, head)
	if err == nil && digest != c.entries[n-1].Digest {
		err = fmt.Errorf("the digest at position %d is %s, in the source %s", head, digest, c.entries[n-1].Digest)
	}
	return n, err
}
