package embedded

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// checkedStream is what the entries so far say of a stream.
type checkedStream struct {
	last    int64 // revision; -1: none
	lastPos eventstore.Position
	live    eventstore.Position // of the last of its events that is there; 0: none
	keep    retention           // what its metadata says

	// The highest of its traces. The scavenger begins with the oldest event, so what allowed it to remove one allowed those before.
	traced       int64
	tracedAt     eventstore.Position
	tracedTicks  uint64
	allowed      uint64 // revisions below this were allowed to be removed
	unverifiable bool   // some of its metadata left no content
}

func (c *check) checked(id uint64) *checkedStream {
	st := c.streams[id]
	if st == nil {
		st = &checkedStream{last: -1, traced: -1}
		c.streams[id] = st
	}
	return st
}

// stream takes an entry into account for its stream. Where one that does not continue the chain belongs is not known.
func (c *check) stream(at database, e *checkedEntry, h head, body []byte, continues bool) error {
	st := c.checked(h.stream)
	base, isMeta := eventstore.MetadataOf(e.Stream)
	tombstone := h.revision == eventstore.TombstoneRevision
	switch {
	case !continues && int64(h.revision) != st.last+1:
		return nil
	case int64(h.revision) <= st.last:
		c.fault(eventstore.Reordered, e.Position, e.Stream, e.Revision, "revision %d of the stream stands ahead of it", st.last)
	case int64(h.revision) > st.last+1 && !tombstone:
		if e.Position > c.untraced && !c.damagedBetween(st.lastPos, e.Position) {
			if err := c.gone(at, h.stream, st, e); err != nil {
				return err
			}
		}
		if isMeta {
			if err := c.forget(at, base); err != nil {
				return err
			}
		}
	}
	st.last, st.lastPos = max(st.last, int64(h.revision)), e.Position
	if isMeta {
		st.allowed = uint64(st.last) // only the last metadata is kept
		if err := c.metadata(at, base, e, h, body); err != nil {
			return err
		}
	}
	if tombstone {
		st.allowed, st.keep.truncateBefore = eventstore.TombstoneRevision, eventstore.DeletedTruncateBefore
	}
	if !e.Scavenged {
		st.live = e.Position
		return nil
	}
	if st.live > 0 {
		// The scavenger may have been at work since.
		if _, still, err := at.get(keyOf(eventKey, uint64(st.live))); err != nil {
			return err
		} else if !still {
			st.live = 0
		}
	}
	if st.live > 0 {
		c.fault(eventstore.WronglyScavenged, e.Position, e.Stream, e.Revision, "an older event of the stream is still there, and the oldest are removed first")
	}
	st.traced, st.tracedAt, st.tracedTicks = int64(h.revision), e.Position, max(st.tracedTicks, h.ticks)
	return nil
}

// damagedBetween says whether an entry between two positions is damaged: nobody knows of which stream it was.
func (c *check) damagedBetween(from, to eventstore.Position) bool {
	return slices.ContainsFunc(c.damaged, func(p eventstore.Position) bool { return p > from && p < to })
}

// gone reports that revisions of a stream are nowhere.
func (c *check) gone(at database, id uint64, st *checkedStream, e *checkedEntry) error {
	first := uint64(st.last + 1)
	if _, indexed, err := at.get(keyOf(indexKey, id, first)); err != nil || indexed {
		return err // it is missed when the index is looked at
	}
	for start := range c.chain.gaps {
		if start > st.lastPos && start < e.Position {
			c.fault(eventstore.Missing, start, e.Stream, first, "revisions %d to %d of the stream are nowhere", first, e.Revision-1)
			return nil
		}
	}
	c.fault(eventstore.Missing, e.Position, e.Stream, first, "revisions %d to %d of the stream, which belong ahead of this position, are nowhere", first, e.Revision-1)
	return nil
}

// forget says that some metadata of a stream is not known.
func (c *check) forget(at database, base string) error {
	id, err := c.idOf(at, base)
	if err == nil && id != 0 {
		c.checked(id).unverifiable = true
	}
	return err
}

func (c *check) idOf(at database, name string) (id uint64, err error) {
	value, found, err := at.get(keyOfName(name))
	if err == nil && found && !readVarints(value, &id) {
		c.fault(eventstore.Misnamed, 0, name, 0, "the id of the stream does not parse")
	}
	return id, err
}

// metadata takes a stream's new metadata into account.
func (c *check) metadata(at database, base string, e *checkedEntry, h head, body []byte) error {
	if e.Scavenged && len(body) == 0 {
		return c.forget(at, base)
	}
	var content envelope
	if !content.openBody(body) {
		c.fault(eventstore.Changed, e.Position, e.Stream, e.Revision, "what is left of its content does not parse")
		return nil
	}
	if content.version = envelopeVersion; content.content() != e.Content {
		c.fault(eventstore.Changed, e.Position, e.Stream, e.Revision, "what is left of its content has another digest")
		return nil
	}
	if string(content.typ) != eventstore.MetadataType {
		return nil
	}
	id, err := c.idOf(at, base)
	if err != nil || id == 0 {
		return err
	}
	st := c.checked(id)
	st.settle(timeOf(h.ticks))
	if st.last != eventstore.TombstoneRevision {
		if st.keep, err = retentionOf(content.payload); err != nil {
			st.keep = retention{} // as when it was written
		}
	}
	return nil
}

// settle notes what the retention that held up to a moment allowed to remove.
func (st *checkedStream) settle(until time.Time) {
	as := stream{last: st.last, keep: st.keep}
	st.allowed = max(st.allowed, min(as.firstVisible(), uint64(st.last+1)))
	if st.traced >= 0 && as.expired(st.tracedTicks, until) {
		st.allowed = max(st.allowed, uint64(st.traced)+1)
	}
}

// checkRetention looks at what the entries say of all streams together.
func (c *check) checkRetention(ctx context.Context) (err error) {
	release, err := c.l.acquire()
	if err != nil {
		return err
	}
	defer release()
	snapshot := c.l.snapshot()
	defer func() { err = errors.Join(err, readError(snapshot.Close())) }()
	at, now := database{snapshot}, c.l.opts.Now()
	latest, err := lastScavenged(at)
	if err != nil {
		return err
	}
	if latest.After(now) { // the clock has gone back since
		now = latest
	}
	ids := make([]uint64, 0, len(c.streams))
	for id := range c.streams {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		st, name := c.streams[id], c.names[id]
		st.settle(now)
		if st.traced >= 0 && uint64(st.traced) >= st.allowed && !st.unverifiable {
			c.fault(eventstore.WronglyScavenged, st.tracedAt, name, uint64(st.traced), "no retention that the stream ever had allowed to remove it")
		}
		if err := c.unreadable(0, c.kept(at, id, name, st)); err != nil {
			return err
		}
	}
	return nil
}

// kept compares what is kept of a stream with what its metadata says.
func (c *check) kept(at database, id uint64, name string, st *checkedStream) error {
	stored, err := loadRetention(at, id)
	if err != nil {
		return err
	}
	if stored == st.keep {
		return nil
	}
	// Metadata that came since is not known here.
	metaID, err := c.idOf(at, eventstore.MetadataStream(name))
	if err != nil {
		return err
	}
	for _, other := range []uint64{id, metaID} {
		last, err := loadStream(at, other, false, math.MaxUint64)
		if err != nil {
			return err
		}
		if last.lastPos > c.result.Head {
			return nil
		}
	}
	c.fault(eventstore.WrongRetention, 0, name, uint64(max(st.last, 0)), "kept are %s, and its metadata says %s", stored, st.keep)
	return nil
}
