package logcopy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/shiplog/shiplog/eventstore"
)

// What goes into one append. EventStoreDB takes 1 MiB an append unless it is told otherwise.
const (
	appendEvents = 500
	appendBytes  = 512 << 10
)

// rememberedStreams is of how many streams of the target the last revision is remembered.
const rememberedStreams = 256 << 10

// intoServer copies into a log that takes appends only: one after the other, in the order of the source's positions, each at the
// revision that it has in the source. Revisions that the source has forgotten are filled up with events that retention hides.
type intoServer struct {
	from, to eventstore.Log
	head     eventstore.Position
	progress func(Progress)
	result   Result

	ends    *simplelru.LRU[string, int64] // last revisions of the target's streams; -1 of one that is not there
	fresh   bool                          // the target was empty, so what ends does not know is not there
	evicted bool
	hidden  map[string]uint64 // last revision of streams whose last event the source does not show any more

	stream string // of what waits to be appended
	batch  []eventstore.Proposed
	first  int64 // revision of the first in the batch
	bytes  int
	at     eventstore.Position
}

func newIntoServer(from, to eventstore.Log, head eventstore.Position, progress func(Progress)) (*intoServer, error) {
	c := &intoServer{from: from, to: to, head: head, progress: progress, hidden: make(map[string]uint64)}
	var err error
	c.ends, err = simplelru.NewLRU(rememberedStreams, func(string, int64) { c.evicted = true })
	return c, err
}

func (c *intoServer) run(ctx context.Context) (Result, error) {
	c.progress(Progress{Step: Looking, Head: c.head})
	after, err := c.resumeAfter(ctx)
	if err != nil {
		return c.result, err
	}
	c.result.Head, c.result.After = c.head, after
	if err := c.copy(ctx, after); err != nil {
		return c.result, err
	}
	v := verification{from: c.from, to: c.to, head: c.head, progress: c.progress}
	c.result.Compared, c.result.Digest, err = v.run(ctx)
	return c.result, err
}

// copy takes what the source shows and, where the source tells, notes what it does not show any more.
func (c *intoServer) copy(ctx context.Context, after eventstore.Position) error {
	chained, ok := c.from.(eventstore.Chained)
	if !ok {
		if err := eventsUpTo(ctx, c.from, after+1, c.head, func(e *eventstore.Recorded) error { return c.take(ctx, e) }); err != nil {
			return err
		}
		return c.flush(ctx)
	}
	// Entries are all that stands there; what a reader sees is a part of them, in the same order. They are read from the beginning
	// also when the target has some, because it cannot be asked what is hidden in it.
	next := pull(ctx, c.from, 1)
	defer next.stop()
	seen, err := next.event()
	if err != nil {
		return err
	}
	for e, err := range chained.Entries(ctx, 1, c.head) {
		if err != nil {
			return err
		}
		isSeen := seen != nil && seen.Position == e.Position
		if !isSeen {
			c.hidden[e.Stream] = e.Revision
			continue
		}
		if !foreignStream(e.Stream) {
			delete(c.hidden, e.Stream)
			if e.Position > after {
				if err := c.take(ctx, seen); err != nil {
					return err
				}
			}
		}
		if seen, err = next.event(); err != nil {
			return err
		}
	}
	return c.flush(ctx)
}

// take puts an event into the batch that goes to its stream, or begins the next batch.
func (c *intoServer) take(ctx context.Context, e *eventstore.Recorded) error {
	if isTombstone(e) {
		return c.tombstone(ctx, e)
	}
	p := e.Proposed
	if base, ok := eventstore.MetadataOf(e.Stream); ok {
		if err := c.flush(ctx); err != nil {
			return err
		}
		var err error
		if p, err = c.metadata(ctx, e, base); err != nil {
			return err
		}
	}
	size := len(p.Data) + len(p.Metadata) + len(p.Type)
	if e.Stream != c.stream || len(c.batch) == appendEvents || c.bytes+size > appendBytes || int64(e.Revision) != c.first+int64(len(c.batch)) {
		if err := c.flush(ctx); err != nil {
			return err
		}
		c.stream, c.first = e.Stream, int64(e.Revision)
	}
	c.batch, c.bytes, c.at = append(c.batch, p), c.bytes+size, e.Position
	return nil
}

// flush appends the batch.
func (c *intoServer) flush(ctx context.Context) error {
	if len(c.batch) == 0 {
		return nil
	}
	err := c.append(ctx, c.stream, c.first, c.batch)
	if err != nil {
		return err
	}
	c.batch, c.bytes, c.stream = c.batch[:0], 0, ""
	c.progress(Progress{Step: Copying, At: c.at, Head: c.head})
	return nil
}

// append puts events at a revision of a stream, those of them that are not there yet, and fillers below them.
func (c *intoServer) append(ctx context.Context, stream string, first int64, events []eventstore.Proposed) error {
	end, err := c.end(ctx, stream)
	if err != nil {
		return err
	}
	if end == eventstore.TombstoneRevision {
		return nil // a copy before this one has brought the stream to its end
	}
	if skip := end + 1 - first; skip >= int64(len(events)) {
		return nil // a copy before this one has brought them, and the verification compares
	} else if skip > 0 {
		first, events = first+skip, events[skip:]
	}
	if end, err = c.fill(ctx, stream, end, first); err != nil {
		return err
	}
	if err := c.put(ctx, stream, end, events); err != nil {
		return err
	}
	c.result.Copied += uint64(len(events))
	return nil
}

// put appends events after a revision.
func (c *intoServer) put(ctx context.Context, stream string, end int64, events []eventstore.Proposed) error {
	at, err := c.to.Append(ctx, stream, expect(end), events...)
	want := end + int64(len(events))
	if errors.Is(err, eventstore.ErrWrongExpectedRevision) || err == nil && at.Revision != uint64(want) {
		return fmt.Errorf("%w: its stream %s does not end at revision %d: is somebody else writing there? %w", ErrForeign, stream, end, err)
	}
	if err != nil {
		return err
	}
	c.ends.Add(stream, want)
	return nil
}

func expect(end int64) eventstore.Expected {
	if end < 0 {
		return eventstore.NoStream
	}
	return eventstore.Exact(uint64(end))
}

// end is the last revision of a stream in the target, as far as it shows; -1 when it shows none.
func (c *intoServer) end(ctx context.Context, stream string) (int64, error) {
	if end, ok := c.ends.Get(stream); ok {
		return end, nil
	}
	end := int64(-1)
	if !c.fresh || c.evicted {
		e, err := lastOf(ctx, c.to, stream)
		if errors.Is(err, eventstore.ErrStreamDeleted) {
			return eventstore.TombstoneRevision, nil
		}
		if err != nil {
			return 0, err
		}
		if e != nil {
			end = int64(e.Revision)
		} else if end, err = c.hiddenEnd(ctx, stream); err != nil {
			return 0, err
		}
	}
	c.ends.Add(stream, end)
	return end, nil
}

// hiddenEnd is the last revision of a stream that shows none: what a conflict tells about it.
func (c *intoServer) hiddenEnd(ctx context.Context, stream string) (int64, error) {
	const never = eventstore.TombstoneRevision - 1
	_, err := c.to.Append(ctx, stream, eventstore.Exact(never), filler(stream, never))
	var conflict *eventstore.WrongExpectedRevisionError
	switch {
	case errors.As(err, &conflict):
		return int64(conflict.Actual), nil
	case errors.Is(err, eventstore.ErrStreamDeleted):
		return eventstore.TombstoneRevision, nil
	case err == nil:
		return 0, fmt.Errorf("asking where %s ends: the target took an event at revision %d", stream, uint64(never)+1)
	}
	return 0, err
}

// lastOf is the last event that a stream shows, nil when it shows none.
func lastOf(ctx context.Context, log eventstore.Log, stream string) (*eventstore.Recorded, error) {
	return oneOf(ctx, log, stream, eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true, Limit: 1})
}

// firstOf is the first event that a stream shows, nil when it shows none.
func firstOf(ctx context.Context, log eventstore.Log, stream string) (*eventstore.Recorded, error) {
	return oneOf(ctx, log, stream, eventstore.ReadStream{Limit: 1})
}

func oneOf(ctx context.Context, log eventstore.Log, stream string, opts eventstore.ReadStream) (*eventstore.Recorded, error) {
	for e, err := range log.ReadStream(ctx, stream, opts) {
		if errors.Is(err, eventstore.ErrStreamNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return &e, nil
	}
	return nil, nil
}

// fill appends fillers up to a revision, exclusive, and returns where the stream ends then.
func (c *intoServer) fill(ctx context.Context, stream string, end, upTo int64) (int64, error) {
	for end < upTo-1 {
		fillers := make([]eventstore.Proposed, min(upTo-end-1, appendEvents))
		for i := range fillers {
			fillers[i] = filler(stream, end+1+int64(i))
		}
		if err := c.put(ctx, stream, end, fillers); err != nil {
			return end, err
		}
		end += int64(len(fillers))
		c.result.Fillers += uint64(len(fillers))
	}
	return end, nil
}

// fillers gives fillers their ids, which follow from their place, so that filling again is the same append.
var fillers = uuid.MustParse("5b1f3c52-6a0f-4d0e-9d7b-0c9b0a8c2a11")

func filler(stream string, revision int64) eventstore.Proposed {
	p := eventstore.Proposed{ID: uuid.NewSHA1(fillers, fmt.Appendf(nil, "%s@%d", stream, revision)), Type: FillerType, ContentType: "application/json", Data: []byte("{}")}
	if _, ok := eventstore.MetadataOf(stream); ok {
		p.Type = eventstore.MetadataType // a stream of metadata holds nothing else; this says that there is no retention
	}
	return p
}

// metadata makes a stream's metadata ready for the target. Of a stream that is deleted with it, the last revision is reached first.
// Where the source has forgotten the stream's beginning for another reason than the metadata itself gives (its age, a retention of
// earlier days), $tb is raised, so that fillers are hidden.
func (c *intoServer) metadata(ctx context.Context, e *eventstore.Recorded, base string) (eventstore.Proposed, error) {
	p := e.Proposed
	m, err := metadataIn(e)
	if err != nil {
		return p, nil // it counts as none, here as there
	}
	if last, ok := c.hidden[base]; ok && m.TruncateBefore > 0 && last != eventstore.TombstoneRevision {
		end, err := c.end(ctx, base)
		if err != nil {
			return p, err
		}
		if _, err = c.fill(ctx, base, end, int64(min(last+1, m.TruncateBefore))); err != nil {
			return p, err
		}
	}
	first, err := firstOf(ctx, c.from, base)
	if errors.Is(err, eventstore.ErrStreamDeleted) || err == nil && first == nil {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	last, err := lastOf(ctx, c.from, base)
	if err != nil || last == nil {
		return p, err
	}
	hiddenBefore := m.TruncateBefore
	if n := m.MaxCount; n > 0 && last.Revision >= n {
		hiddenBefore = max(hiddenBefore, last.Revision-n+1)
	}
	if first.Revision <= hiddenBefore {
		return p, nil
	}
	m.TruncateBefore = first.Revision
	if p.Data, err = json.Marshal(m); err != nil {
		return p, fmt.Errorf("changing the metadata of %s: %w", base, err)
	}
	return p, nil
}

func (c *intoServer) tombstone(ctx context.Context, e *eventstore.Recorded) error {
	if err := c.flush(ctx); err != nil {
		return err
	}
	err := c.to.Tombstone(ctx, e.Stream, eventstore.Any)
	if errors.Is(err, eventstore.ErrStreamDeleted) {
		return nil
	}
	if err == nil {
		c.result.Copied++
		c.ends.Add(e.Stream, eventstore.TombstoneRevision)
	}
	return err
}
