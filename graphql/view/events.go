package view

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// EventFilter says which events are wanted; all that is set must hold.
type EventFilter struct {
	Kinds                []*domain.Kind
	Namespace, Name, UID string
	Types                []string
	Actor, Correlation   string
	CauseID              string
	Since, Until         time.Time
}

// Matches says whether an event is wanted.
func (f EventFilter) Matches(e domain.Event) bool {
	wanted := func(want, got string) bool { return want == "" || want == got }
	return (len(f.Kinds) == 0 || slices.ContainsFunc(f.Kinds, func(k *domain.Kind) bool { return k.GroupResource() == e.Ref.GroupResource() })) &&
		wanted(f.Namespace, e.Ref.Namespace) && wanted(f.Name, e.Ref.Name) && wanted(f.UID, string(e.Ref.UID)) &&
		(len(f.Types) == 0 || slices.Contains(f.Types, e.Type)) &&
		wanted(f.Actor, e.Actor.User) && wanted(f.Correlation, e.Correlation) &&
		(f.CauseID == "" || e.Cause != nil && e.Cause.ID == f.CauseID) &&
		(f.Since.IsZero() || !e.Time.Before(f.Since)) && (f.Until.IsZero() || e.Time.Before(f.Until))
}

// query is the part of the filter that the history answers itself; Matches decides.
func (f EventFilter) query() projections.EventQuery {
	q := projections.EventQuery{
		AnyGroup: true, Namespace: f.Namespace, Name: f.Name, UID: f.UID, Types: f.Types, Actor: f.Actor, Correlation: f.Correlation,
		CauseID: f.CauseID, Since: f.Since, Until: f.Until,
	}
	if len(f.Kinds) == 1 {
		q.AnyGroup, q.Group, q.Resource = false, f.Kinds[0].Group, f.Kinds[0].Resource
	}
	return q
}

// LogFilter is the part of the filter that the log answers itself; Matches decides.
func (f EventFilter) LogFilter() eventstore.Filter {
	out := eventstore.Filter{TypePrefixes: f.Types}
	for _, k := range f.Kinds {
		out.StreamPrefixes = append(out.StreamPrefixes, domain.StreamPrefix(k.GroupResource()))
	}
	return out
}

// EventPage asks for a part of a list of events.
type EventPage struct {
	Size        int
	After       uint64 // the position of the event before the page; 0: from the beginning of the list
	OldestFirst bool
	Through     uint64 // nothing later than this; 0: everything
}

// scanned bounds how many events one page looks at for those that match and that the caller may see.
const scanned = 20_000

// Events returns a page of what happened and whether there is more.
func (s *Set) Events(ctx context.Context, f EventFilter, p EventPage) (events []domain.Event, more bool, err error) {
	if s.History == nil {
		return nil, false, fmt.Errorf("%w: no history is kept here, events cannot be asked for", projections.ErrUnavailable)
	}
	q := f.query()
	q.Newest, q.Through = !p.OldestFirst, p.Through
	if p.After > 0 && p.OldestFirst {
		q.After = p.After
	} else if p.After > 0 && (q.Through == 0 || p.After-1 < q.Through) {
		if q.Through = p.After - 1; q.Through == 0 {
			return nil, false, nil
		}
	}
	for seen := 0; seen < scanned; {
		q.Limit = max(p.Size+1-len(events), 100)
		batch, err := s.History.Events(ctx, q)
		if err != nil {
			return nil, false, fmt.Errorf("reading events: %w", err)
		}
		for _, e := range batch {
			if !f.Matches(e) {
				continue
			}
			if err := s.AllowEvent(ctx, e); errors.Is(err, ErrForbidden) {
				continue // who may not see an object does not learn that something happened to it
			}
			if len(events) == p.Size {
				return events, true, nil
			}
			events = append(events, e)
		}
		if len(batch) < q.Limit {
			return events, false, nil
		}
		seen += len(batch)
		last := batch[len(batch)-1].Position
		if p.OldestFirst {
			q.After = last
		} else if q.Through = last - 1; q.Through == 0 {
			return events, false, nil
		}
	}
	return events, true, nil
}

// Event returns one event by its position or, when that is 0, by its id; nil when there is none.
func (s *Set) Event(ctx context.Context, position uint64, id string) (*domain.Event, error) {
	if s.History == nil {
		return nil, fmt.Errorf("%w: no history is kept here, events cannot be asked for", projections.ErrUnavailable)
	}
	e, err := s.History.Event(ctx, position, id)
	switch {
	case errors.Is(err, projections.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading an event: %w", err)
	}
	if err := s.AllowEvent(ctx, e); err != nil {
		return nil, err
	}
	return &e, nil
}

// Before returns the object that an event is about as it was before, or nil.
func (s *Set) Before(ctx context.Context, e domain.Event) (*projections.Object, *View, error) {
	if e.Op == domain.Created || e.Position == 0 {
		return nil, nil, nil
	}
	return s.objectAt(ctx, e.Ref, e.Position-1)
}

// After returns the object that an event is about as it was after it, or nil.
func (s *Set) After(ctx context.Context, e domain.Event) (*projections.Object, *View, error) {
	if e.Op == domain.Deleted {
		return nil, nil, nil
	}
	return s.objectAt(ctx, e.Ref, e.Position)
}

func (s *Set) objectAt(ctx context.Context, ref domain.Ref, position uint64) (*projections.Object, *View, error) {
	k := memory.KindOf(s.Kinds, ref, nil) // a custom kind may be in no list
	v, err := s.At(ctx, position)
	if err != nil {
		return nil, nil, err
	}
	o, err := v.Get(ctx, k, ref.Namespace, ref.Name)
	return o, v, err
}

// EventChanges tells field by field what an event did, without what is withheld.
func (s *Set) EventChanges(ctx context.Context, e domain.Event) ([]domain.FieldChange, error) {
	if e.Op == "" || e.Op == domain.Changed && len(e.Change) == 0 {
		return nil, nil
	}
	before, _, err := s.Before(ctx, e)
	if err != nil {
		return nil, err
	}
	after, sealed, err := s.afterEvent(before, e)
	if err != nil {
		return nil, fmt.Errorf("telling what event %d changed: %w", e.Position, err)
	}
	if !sealed {
		return documentChanges(e.Ref.GroupResource(), jsonOf(before), after)
	}
	o, _, err := s.After(ctx, e) // opened, as far as it can be
	if err != nil {
		return nil, err
	}
	return Changes(before, o)
}

// afterEvent is the document that an event leads to, and whether a sealed payload is in it or in the object before.
func (s *Set) afterEvent(before *projections.Object, e domain.Event) (after []byte, sealed bool, err error) {
	sealed = before != nil && domain.IsSealed(before.JSON)
	switch {
	case e.Op == domain.Created:
		after = e.Change
	case e.Op == domain.Deleted:
		after = jsonOf(nil)
	case before == nil: // only a change that is the whole object can be told then
		after, err = domain.Patch(nil, e.Change)
	default:
		after, err = domain.Patch(before.JSON, e.Change)
	}
	return after, sealed || domain.IsSealed(after), err
}

func jsonOf(o *projections.Object) []byte {
	if o == nil {
		return []byte("{}")
	}
	return o.JSON
}
