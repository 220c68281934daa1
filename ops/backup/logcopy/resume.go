package logcopy

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/shiplog/shiplog/eventstore"
)

// resumeAfter returns the position of the source up to which the target has everything, or an earlier one: what is there already is
// left alone. It looks for the last event of the target that the source still shows, and takes it that everything ahead of it in the
// source is there, because that is the order of copying.
func (c *intoServer) resumeAfter(ctx context.Context) (eventstore.Position, error) {
	c.fresh = true
	for e, err := range c.to.ReadAll(ctx, backwards) {
		if err != nil {
			return 0, err
		}
		if foreignStream(e.Stream) {
			continue
		}
		c.fresh = false
		if e.Type == FillerType || isTombstone(&e) {
			continue
		}
		original, err := oneOf(ctx, c.from, e.Stream, eventstore.ReadStream{From: e.Revision, Limit: 1})
		if err != nil && !errors.Is(err, eventstore.ErrStreamDeleted) {
			return 0, err
		}
		if original != nil && original.Revision == e.Revision {
			if original.ID == e.ID {
				return original.Position - 1, nil
			}
			return 0, fmt.Errorf("%w: revision %d of %s is another event there: copy into an empty target", ErrForeign, e.Revision, e.Stream)
		}
		if err := c.forgotten(ctx, &e); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// forgotten makes sure that an event of the target was one of the source, which has forgotten it.
func (c *intoServer) forgotten(ctx context.Context, e *eventstore.Recorded) error {
	last, err := lastOf(ctx, c.from, e.Stream)
	if errors.Is(err, eventstore.ErrStreamDeleted) {
		return nil
	}
	if err != nil {
		return err
	}
	if last == nil { // a stream without metadata forgets nothing
		if last, err = lastOf(ctx, c.from, eventstore.MetadataStream(e.Stream)); err != nil || last != nil {
			return err
		}
	} else if last.Revision >= e.Revision {
		return nil
	}
	return fmt.Errorf("%w: revision %d of %s (%s) is not from the source: somebody else has written there; copy into an empty target",
		ErrForeign, e.Revision, e.Stream, e.Type)
}

// puller takes events one by one from a read.
type puller struct {
	next func() (eventstore.Recorded, error, bool)
	stop func()
}

func pull(ctx context.Context, log eventstore.Log, from eventstore.Position) puller {
	next, stop := iter.Pull2(log.ReadAll(ctx, eventstore.ReadAll{From: from, Filter: everything}))
	return puller{next: next, stop: stop}
}

// event returns the next event, nil when there is none.
func (p puller) event() (*eventstore.Recorded, error) {
	e, err, ok := p.next()
	if !ok || err != nil {
		return nil, err
	}
	return &e, nil
}
