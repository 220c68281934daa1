package logcopy

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/shiplog/shiplog/eventstore"
)

// What is imported in one go, and made durable by one sync.
const (
	importEntries = 4096
	importBytes   = 8 << 20
)

// intoChain copies into a log that takes entries as they stand elsewhere.
type intoChain struct {
	from     eventstore.Chained // nil when the source keeps no chain
	to       eventstore.Chained
	head     eventstore.Position
	progress func(Progress)
	result   Result
	pending  []eventstore.Entry
	bytes    int
}

// copyChain makes the target the same log, link by link.
func (c *intoChain) copyChain(ctx context.Context) (Result, error) {
	c.progress(Progress{Step: Looking, Head: c.head})
	after, err := c.to.Head(ctx)
	if err != nil {
		return c.result, err
	}
	if after > c.head {
		return c.result, fmt.Errorf("%w: it ends at position %d, and the source at %d", ErrForeign, after, c.head)
	}
	if err := c.sameDigest(ctx, after); err != nil {
		return c.result, err
	}
	for e, err := range c.from.Entries(ctx, after+1, c.head) {
		if err != nil {
			return c.result, err
		}
		if err := c.add(ctx, e); err != nil {
			return c.result, err
		}
	}
	if err := c.flush(ctx); err != nil {
		return c.result, err
	}
	if err := c.sameDigest(ctx, c.head); err != nil {
		return c.result, err
	}
	c.result.Head, c.result.After, c.result.SamePositions = c.head, after, true
	return c.result, c.verifyChain(ctx)
}

func (c *intoChain) sameDigest(ctx context.Context, position eventstore.Position) error {
	want, err := c.from.DigestAt(ctx, position)
	if err != nil {
		return err
	}
	got, err := c.to.DigestAt(ctx, position)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%w: at position %d its digest is %s, and the source's is %s: copy into an empty target", ErrForeign, position, got, want)
	}
	return nil
}

func (c *intoChain) add(ctx context.Context, e eventstore.Entry) error {
	c.pending = append(c.pending, e)
	c.bytes += len(e.Data) + len(e.Metadata)
	c.result.Copied++
	if len(c.pending) < importEntries && c.bytes < importBytes {
		return nil
	}
	return c.flush(ctx)
}

func (c *intoChain) flush(ctx context.Context) error {
	if len(c.pending) == 0 {
		return nil
	}
	if err := c.to.Import(ctx, c.pending...); err != nil {
		return err
	}
	c.progress(Progress{Step: Copying, At: c.pending[len(c.pending)-1].Position, Head: c.head})
	c.pending, c.bytes = c.pending[:0], 0
	return nil
}

// verifyChain reads the target and makes its chain again from what stands there.
func (c *intoChain) verifyChain(ctx context.Context) error {
	var at eventstore.Digest
	for e, err := range c.to.Entries(ctx, 1, c.head) {
		if err != nil {
			return err
		}
		if (!e.Scavenged || e.Type != "") && e.ContentDigest() != e.Content || eventstore.Link(at, &e) != e.Digest {
			return fmt.Errorf("%w: at position %d of the target", ErrDiffers, e.Position)
		}
		at = e.Digest
		if c.result.Compared++; c.result.Compared%4096 == 0 {
			c.progress(Progress{Step: Verifying, At: e.Position, Head: c.head})
		}
	}
	c.result.Digest = at
	return nil
}

// copyEvents copies what can be read of a log that keeps no chain. The target begins one.
func (c *intoChain) copyEvents(ctx context.Context, from eventstore.Log) (Result, error) {
	c.progress(Progress{Step: Looking, Head: c.head})
	after, err := c.to.Head(ctx)
	if err != nil {
		return c.result, err
	}
	if after > c.head {
		return c.result, fmt.Errorf("%w: it ends at position %d, and the source at %d", ErrForeign, after, c.head)
	}
	both := after
	if after > 0 {
		if both, err = c.lastOfBoth(ctx, from); err != nil {
			return c.result, err
		}
	}
	err = eventsUpTo(ctx, from, both, c.head, func(e *eventstore.Recorded) error {
		if e.Position <= after || e.Type == FillerType {
			return nil
		}
		return c.add(ctx, eventstore.Entry{Recorded: *e})
	})
	if err == nil {
		err = c.flush(ctx)
	}
	if err != nil {
		return c.result, err
	}
	c.result.Head, c.result.After, c.result.SamePositions = c.head, after, true
	v := verification{from: from, to: c.to, head: c.head, positions: true, progress: c.progress}
	c.result.Compared, c.result.Digest, err = v.run(ctx)
	return c.result, err
}

// lastOfBoth looks for the last event that the target and the source both still have. It must stand at the same position, and the
// source can be read from there: a server need not take a position at which it has nothing.
func (c *intoChain) lastOfBoth(ctx context.Context, from eventstore.Log) (eventstore.Position, error) {
	for mine, err := range c.to.ReadAll(ctx, backwards) {
		if err != nil {
			return 0, err
		}
		for theirs, err := range from.ReadAll(ctx, eventstore.ReadAll{From: mine.Position, Limit: 1, Filter: everything}) {
			if err != nil {
				return 0, err
			}
			switch {
			case theirs.Position != mine.Position: // it has expired in the source
			case theirs.ID == mine.ID && theirs.Stream == mine.Stream && theirs.Revision == mine.Revision:
				return mine.Position, nil
			default:
				return 0, fmt.Errorf("%w: at position %d it has %s of %s, and the source has %s of %s: copy into an empty target",
					ErrForeign, mine.Position, mine.Type, mine.Stream, theirs.Type, theirs.Stream)
			}
		}
	}
	return 0, fmt.Errorf("%w: none of its events is in the source: copy into an empty target", ErrForeign)
}

var (
	everything = eventstore.Filter{System: true}
	backwards  = eventstore.ReadAll{Direction: eventstore.Backwards, FromEnd: true, Filter: everything}
)

// eventsUpTo calls do with every event that can be read and that does not belong to an event store server itself. io.EOF from do
// ends it.
func eventsUpTo(ctx context.Context, log eventstore.Log, from, to eventstore.Position, do func(*eventstore.Recorded) error) error {
	for e, err := range log.ReadAll(ctx, eventstore.ReadAll{From: from, Filter: everything}) {
		if err != nil {
			return err
		}
		if e.Position > to {
			return nil
		}
		if foreignStream(e.Stream) {
			continue
		}
		if err := do(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}
