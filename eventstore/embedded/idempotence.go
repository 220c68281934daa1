package embedded

import (
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// appendedBefore says whether a request whose expectation is not met asks for exactly what already stands where it wants
// to write: then it is a repetition, and gets the result of the first time.
func (g *group) appendedBefore(st *stream, r *request) (result eventstore.Appended, durable, ok bool, err error) {
	if len(r.events) == 0 || st.last < 0 {
		return result, false, false, nil
	}
	var starts []uint64
	switch {
	case r.expected >= 0:
		starts = []uint64{uint64(r.expected) + 1}
	case r.expected == eventstore.NoStream:
		starts = []uint64{0}
		if tb := st.keep.truncateBefore; tb > 0 { // it may have expected a stream that had been deleted
			starts = append(starts, tb)
		}
	default:
		return result, false, false, nil
	}
	for _, start := range starts {
		if result, durable, ok, err = g.matches(st, r, start); ok || err != nil {
			return result, durable, ok, err
		}
	}
	return result, false, false, nil
}

// appendedRecently does the same for a request that expects nothing in particular. It knows the events of the recent
// window, and beyond it looks at the stream's last events only.
func (g *group) appendedRecently(st *stream, r *request) (result eventstore.Appended, durable, ok bool, err error) {
	n := uint64(len(r.events))
	if n == 0 || st.last < 0 {
		return result, false, false, nil
	}
	if revision, found := g.recentRevision(st.id, r.events[0].ID); found {
		if result, durable, ok, err = g.matches(st, r, revision); ok || err != nil {
			return result, durable, ok, err
		}
		// Some of these ids are taken: this is neither a repetition nor something new.
		return result, false, false, conflict(r, st)
	}
	// The events of an append stand together, unless they were imported.
	together := n == 1 || g.l.recent.from > g.importedTo
	if together && st.lastPos >= g.l.recent.from+eventstore.Position(n-1) || uint64(st.last)+1 < n {
		return result, false, false, nil // the window would have known, or the stream is too short
	}
	return g.matches(st, r, uint64(st.last)+1-n)
}

// recentRevision finds an event of a stream by its id, in this batch or in the recent window.
func (g *group) recentRevision(stream uint64, id uuid.UUID) (uint64, bool) {
	for i := range g.events {
		if g.ids[i] == stream && g.events[i].ID == id {
			return g.events[i].Revision, true
		}
	}
	e, ok := g.l.recent.byID[id]
	return e.revision, ok && e.stream == stream
}

// matches compares the ids of a stream's events from a revision on with a request's.
func (g *group) matches(st *stream, r *request, start uint64) (result eventstore.Appended, durable, ok bool, err error) {
	for i := range r.events {
		e, err := g.eventAt(st.id, start+uint64(i))
		if err != nil || e == nil || e.ID != r.events[i].ID {
			return result, false, false, err
		}
		result = eventstore.Appended{Position: e.Position, Revision: e.Revision}
	}
	return result, result.Position <= g.l.tail.current(), true, nil
}

// eventAt returns the event at a revision of a stream, of this batch or on disk, nil if there is none.
func (g *group) eventAt(stream, revision uint64) (*eventstore.Recorded, error) {
	for i := range g.events {
		if g.ids[i] == stream && g.events[i].Revision == revision {
			return &g.events[i], nil
		}
	}
	if stream == 0 {
		return nil, nil
	}
	return g.l.eventAt(stream, revision)
}

// recentIDs remembers the ids of the last events. Only the committer uses it.
type recentIDs struct {
	max  int
	from eventstore.Position // every event from here on is known
	byID map[uuid.UUID]recentEvent
	ids  []recentID // in the order of their positions
}

type recentEvent struct {
	stream, revision uint64
	position         eventstore.Position
}

type recentID struct {
	id       uuid.UUID
	position eventstore.Position
}

func newRecentIDs(most int) *recentIDs {
	return &recentIDs{max: most, byID: make(map[uuid.UUID]recentEvent)}
}

func (r *recentIDs) add(events []eventstore.Recorded, streams []uint64) {
	for i := range events {
		e := &events[i]
		r.byID[e.ID] = recentEvent{stream: streams[i], revision: e.Revision, position: e.Position}
		r.ids = append(r.ids, recentID{e.ID, e.Position})
	}
	for len(r.ids) > r.max {
		// An id may have been used again since; then the newer event is still in the window.
		first := r.ids[0]
		if e, ok := r.byID[first.id]; ok && e.position == first.position {
			delete(r.byID, first.id)
		}
		r.ids = r.ids[1:]
		r.from = first.position + 1
	}
}
