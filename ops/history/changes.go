package history

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Change is one thing that happened to an object.
type Change struct {
	Position    uint64        `json:"position"`
	Time        time.Time     `json:"time"`
	Type        string        `json:"type"`
	Op          domain.Op     `json:"op,omitempty"` // "": it changed nothing, such as a refused request
	Object      domain.Ref    `json:"object"`
	Actor       domain.Actor  `json:"actor"`
	Verb        string        `json:"verb"`
	Subresource string        `json:"subresource,omitempty"`
	Correlation string        `json:"correlation,omitempty"`
	Cause       *domain.Cause `json:"cause,omitempty"`
	ID          string        `json:"id"`
	Fields      []Field       `json:"fields,omitempty"` // of a change; a creation's are all of the object and not repeated here
	// Evidence is what the decision rested on, such as the scheduler's reasons.
	Evidence json.RawMessage `json:"evidence,omitempty"`
}

// Range bounds what is asked for. The zero value asks for everything.
type Range struct {
	After, Through uint64 // positions; After exclusive, Through inclusive (0: no bound)
	Last           int    // only so many of the last; 0: all
}

// page is how many events are asked for at a time.
const page = 1000

// eventsOf reads the events of an object, oldest first.
func eventsOf(ctx context.Context, h projections.History, ref domain.Ref, through uint64) ([]domain.Event, error) {
	var list []domain.Event
	q := projections.EventQuery{Group: ref.Group, Resource: ref.Resource, Namespace: ref.Namespace, Name: ref.Name, UID: string(ref.UID), Through: through, Limit: page}
	for {
		events, err := h.Events(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("reading what happened to %s: %w", ref, err)
		}
		for _, e := range events {
			// A query leaves out what it does not ask for; a cluster-wide object's has no namespace to ask for.
			if e.Ref.Namespace == ref.Namespace {
				list = append(list, e)
			}
		}
		if len(events) < page {
			return list, nil
		}
		q.After = events[len(events)-1].Position
	}
}

// Changes returns every change of an object, oldest first, deleted incarnations included; projections.ErrNotFound when nothing is
// known of it.
func Changes(ctx context.Context, h projections.History, ref domain.Ref, r Range) ([]Change, error) {
	events, err := eventsOf(ctx, h, ref, r.Through)
	if err != nil {
		return nil, err
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("nothing is known of %s: %w", ref, projections.ErrNotFound)
	}
	var list []Change
	var doc document
	for i := range events {
		e := &events[i]
		fields := doc.apply(ctx, h, e)
		if e.Position > r.After {
			list = append(list, changeOf(e, fields))
		}
	}
	if r.Last > 0 && len(list) > r.Last {
		list = list[len(list)-r.Last:]
	}
	return list, nil
}

func changeOf(e *domain.Event, fields []Field) Change {
	return Change{
		Position: e.Position, Time: e.Time, Type: e.Type, Op: e.Op, Object: e.Ref, Actor: e.Actor, Verb: e.Command.Verb,
		Subresource: e.Command.Subresource, Correlation: e.Correlation, Cause: e.Cause, ID: e.ID, Fields: fields, Evidence: e.Evidence,
	}
}

// document is an object while its events are read one by one.
type document struct {
	state domain.State
}

// apply takes in one more event and says what it changed. Where the events do not lead to the object by themselves (the stream's
// beginning has expired) the read models are asked.
func (d *document) apply(ctx context.Context, h projections.History, e *domain.Event) []Field {
	before := d.state
	if e.Op == "" {
		return nil
	}
	next, err := d.state.Apply(*e)
	if err != nil {
		next = domain.State{UID: e.Ref.UID, Revision: e.Revision, Position: e.Position, Seen: true}
		if o, err := h.GetAt(ctx, e.Ref, e.Position); err == nil {
			next.JSON, next.Exists = o.JSON, true
		}
	}
	d.state = next
	if e.Op != domain.Changed || !next.Exists {
		return nil
	}
	old := before.JSON
	if !before.Exists {
		o, err := h.GetAt(ctx, e.Ref, e.Position-1)
		if err != nil {
			return nil
		}
		old = o.JSON
	}
	if domain.IsSealed(old) || domain.IsSealed(next.JSON) {
		return changedFields(ctx, h, *e) // of the objects, which are opened as far as they can be
	}
	changes, err := domain.Describe(old, next.JSON)
	if err != nil {
		return nil
	}
	return fieldsOf(e.Ref, changes)
}
