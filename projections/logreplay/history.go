package logreplay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// History answers from a log. What it has folded last it keeps, so that questions about positions that rise are answered by
// folding what lies between. It is safe for many goroutines, one of which folds at a time.
type History struct {
	log   eventstore.Log
	kinds *domain.Set

	mu       sync.Mutex
	folding  *folding
	view     *memory.Snapshot // of folding
	times    []instant        // of events, by position
	timesEnd uint64           // position up to which times are known
}

type instant struct {
	position uint64
	time     int64 // ns
}

var _ projections.History = (*History)(nil)

// New returns the history of a log.
func New(log eventstore.Log, kinds *domain.Set) *History {
	return &History{log: log, kinds: kinds, folding: newFolding(kinds, nil)}
}

// Position implements projections.History.
func (h *History) Position(ctx context.Context) (uint64, error) {
	head, err := h.log.Head(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading the log's head: %w", err)
	}
	return uint64(head), nil
}

// PositionAt implements projections.History.
func (h *History) PositionAt(ctx context.Context, t time.Time) (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for r, err := range h.log.ReadAll(ctx, eventstore.ReadAll{From: eventstore.Position(h.timesEnd) + 1}) {
		if err != nil {
			return 0, fmt.Errorf("looking for the position at %s: %w", t.Format(time.RFC3339), err)
		}
		e, ok, err := projections.EventOf(r)
		if err != nil {
			return 0, fmt.Errorf("looking for the position at %s: %w", t.Format(time.RFC3339), err)
		}
		// Facts that change no object are written later than they happened, and would let in changes that came after t.
		if ok && e.Op != "" && !h.forgotten(e) {
			h.times = append(h.times, instant{e.Position, e.Time.UnixNano()})
		}
		h.timesEnd = uint64(r.Position)
	}
	for _, i := range slices.Backward(h.times) {
		if i.time <= t.UnixNano() {
			return i.position, nil
		}
	}
	return 0, nil
}

// forgotten says whether an event is of a kind whose past is bounded.
func (h *History) forgotten(e domain.Event) bool {
	return e.Op != "" && h.bounded(e.Ref.GroupResource())
}

func (h *History) bounded(gr domain.Resource) bool {
	k, ok := h.kinds.ByResource(gr)
	return ok && k.Retained()
}

// at returns the view at a position; h.mu is held.
func (h *History) at(ctx context.Context, position uint64) (*memory.Snapshot, error) {
	if h.view != nil && h.view.Position() == position {
		return h.view, nil
	}
	if position < h.folding.position {
		h.folding = newFolding(h.kinds, nil)
	}
	h.view = nil
	if err := h.folding.advance(ctx, h.log, position); err != nil {
		if !errors.Is(err, projections.ErrFuture) {
			h.folding = newFolding(h.kinds, nil)
		}
		return nil, err
	}
	h.view = h.folding.view(position)
	return h.view, nil
}

// GetAt implements projections.History.
func (h *History) GetAt(ctx context.Context, ref domain.Ref, position uint64) (*projections.Object, error) {
	o, err := h.getAt(ctx, ref, position)
	if err != nil {
		return nil, fmt.Errorf("reading %s as of position %d: %w", ref, position, err)
	}
	return o, nil
}

func (h *History) getAt(ctx context.Context, ref domain.Ref, position uint64) (*projections.Object, error) {
	head, err := h.log.Head(ctx)
	if err != nil {
		return nil, err
	}
	if position > uint64(head) {
		return nil, fmt.Errorf("%w: the log ends at position %d", projections.ErrFuture, head)
	}
	bounded := h.bounded(ref.GroupResource())
	f := newFold(nil)
	for r, err := range h.log.ReadStream(ctx, ref.Stream(), eventstore.ReadStream{}) {
		if errors.Is(err, eventstore.ErrStreamNotFound) || errors.Is(err, eventstore.ErrStreamDeleted) {
			break
		}
		if err != nil {
			return nil, err
		}
		if uint64(r.Position) > position && !bounded {
			break
		}
		e, ok, err := projections.EventOf(r)
		if err != nil {
			return nil, err
		}
		if ok {
			o, _ := f.of(r.Stream)
			f.apply(r.Stream, o, e)
		}
	}
	o := f.objects[ref.Stream()]
	there := o != nil && (ref.UID == "" || o.ref().UID == ref.UID)
	switch {
	case bounded && !there && position != uint64(head), bounded && there && o.replay.State().Position > position:
		return nil, projections.ErrTooOld
	case !there:
		return nil, projections.ErrNotFound
	}
	return o.object(h.kinds), nil
}

// ListAt implements projections.History.
func (h *History) ListAt(ctx context.Context, gr domain.Resource, namespace string, position uint64) ([]*projections.Object, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	view, err := h.at(ctx, position)
	if err == nil && h.bounded(gr) {
		var head eventstore.Position
		if head, err = h.log.Head(ctx); err == nil && position != uint64(head) {
			err = projections.ErrTooOld
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listing %s as of position %d: %w", gr, position, err)
	}
	return slices.Collect(view.List(gr, namespace)), nil
}

// Events implements projections.History.
func (h *History) Events(ctx context.Context, q projections.EventQuery) ([]domain.Event, error) {
	read := eventstore.ReadAll{From: eventstore.Position(q.After) + 1}
	if q.Newest {
		read = eventstore.ReadAll{Direction: eventstore.Backwards, From: eventstore.Position(q.Through), FromEnd: q.Through == 0}
	}
	limit := q.Limit
	if limit <= 0 {
		limit = 1000
	}
	var out []domain.Event
	for r, err := range h.log.ReadAll(ctx, read) {
		if err != nil {
			return nil, fmt.Errorf("reading events: %w", err)
		}
		p := uint64(r.Position)
		if q.Newest && p <= q.After || !q.Newest && q.Through > 0 && p > q.Through {
			break
		}
		e, ok, err := projections.EventOf(r)
		if err != nil {
			return nil, fmt.Errorf("reading events: %w", err)
		}
		if ok && !h.forgotten(e) && matches(q, e) {
			if out = append(out, e); len(out) == limit {
				break
			}
		}
	}
	return out, nil
}

func matches(q projections.EventQuery, e domain.Event) bool {
	is := func(want, got string) bool { return want == "" || want == got }
	group := q.Group == e.Ref.Group || q.Group == "" && (q.AnyGroup || q.Resource == "")
	return group && is(q.Resource, e.Ref.Resource) && is(q.Namespace, e.Ref.Namespace) && is(q.Name, e.Ref.Name) && is(q.UID, string(e.Ref.UID)) &&
		(len(q.Types) == 0 || slices.Contains(q.Types, e.Type)) && (is(q.Actor, e.Actor.User) || is(q.Actor, e.Actor.Impersonator)) && is(q.Correlation, e.Correlation) &&
		(q.CauseID == "" || e.Cause != nil && e.Cause.ID == q.CauseID) &&
		(q.Since.IsZero() || !e.Time.Before(q.Since)) && (q.Until.IsZero() || e.Time.Before(q.Until))
}

// Event implements projections.History.
func (h *History) Event(ctx context.Context, position uint64, id string) (domain.Event, error) {
	read, what := eventstore.ReadAll{}, "reading event "+id
	if position > 0 {
		read, what = eventstore.ReadAll{From: eventstore.Position(position), Limit: 1}, fmt.Sprintf("reading the event at position %d", position)
	}
	for r, err := range h.log.ReadAll(ctx, read) {
		if err != nil {
			return domain.Event{}, fmt.Errorf("%s: %w", what, err)
		}
		if position > 0 && uint64(r.Position) != position || position == 0 && r.ID.String() != id {
			continue
		}
		e, ok, err := projections.EventOf(r)
		if err != nil {
			return domain.Event{}, fmt.Errorf("%s: %w", what, err)
		}
		if ok && !h.forgotten(e) {
			return e, nil
		}
	}
	return domain.Event{}, fmt.Errorf("%s: %w", what, projections.ErrNotFound)
}
