package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Link is one event in a chain of causes, and how it hangs on the one before.
type Link struct {
	Change
	// Because: the event before made the actor act. Otherwise it is merely what happened to the same object before: the actor
	// did not say why it acted.
	Because bool `json:"because"`
}

// maxChain bounds a chain, should a log hold a circle.
const maxChain = 100

// Why returns the chain of causes from the first, usually a person's command, to an event. position 0 means the object's last event;
// otherwise it is the object's last event not after the position.
func Why(ctx context.Context, h projections.History, ref domain.Ref, position uint64) ([]Link, error) {
	e, err := lastEvent(ctx, h, ref, position)
	if err != nil {
		return nil, err
	}
	return Chain(ctx, h, e)
}

// lastEvent is an object's last event that changed it, not after a position (0: of all).
func lastEvent(ctx context.Context, h projections.History, ref domain.Ref, through uint64) (domain.Event, error) {
	q := projections.EventQuery{
		Group: ref.Group, Resource: ref.Resource, Namespace: ref.Namespace, Name: ref.Name, UID: string(ref.UID),
		Through: through, Newest: true, Limit: 20,
	}
	for {
		events, err := h.Events(ctx, q)
		if err != nil {
			return domain.Event{}, fmt.Errorf("reading what happened to %s: %w", ref, err)
		}
		for _, e := range events {
			if e.Op != "" && e.Ref.Namespace == ref.Namespace {
				return e, nil
			}
		}
		if len(events) < q.Limit || events[len(events)-1].Position <= 1 {
			return domain.Event{}, fmt.Errorf("nothing is known of %s: %w", ref, projections.ErrNotFound)
		}
		q.Through = events[len(events)-1].Position - 1
	}
}

// Chain returns the chain of causes that ends with an event.
func Chain(ctx context.Context, h projections.History, e domain.Event) ([]Link, error) {
	var chain []Link
	seen := map[string]bool{}
	for len(chain) < maxChain && !seen[e.ID] {
		seen[e.ID] = true
		link := Link{Change: changeOf(&e, changedFields(ctx, h, e))}
		before, because, err := cause(ctx, h, e)
		if errors.Is(err, projections.ErrNotFound) {
			chain = append(chain, link)
			break
		}
		if err != nil {
			return nil, fmt.Errorf("looking for the cause of position %d: %w", e.Position, err)
		}
		link.Because = because
		chain = append(chain, link)
		e = before
	}
	slices.Reverse(chain)
	return chain, nil
}

// cause returns the event that led to another: its recorded cause or, for a component that recorded none, what happened to the same
// object before. A person's command has none: projections.ErrNotFound.
func cause(ctx context.Context, h projections.History, e domain.Event) (domain.Event, bool, error) {
	if e.Cause != nil {
		c, err := h.Event(ctx, e.Cause.Position, e.Cause.ID)
		if e.Cause.ID != "" && (err == nil && c.ID != e.Cause.ID || errors.Is(err, projections.ErrNotFound)) {
			// The log was copied to where positions are others: the id is still the same.
			c, err = h.Event(ctx, 0, e.Cause.ID)
		}
		if !errors.Is(err, projections.ErrNotFound) {
			return c, true, err
		}
		// Retention has not kept it.
	}
	if !component(e.Actor) || e.Position <= 1 {
		return domain.Event{}, false, projections.ErrNotFound
	}
	c, err := lastEvent(ctx, h, e.Ref, e.Position-1)
	return c, false, err
}

// component tells whether an actor is a part of the machinery and not a person.
func component(a domain.Actor) bool {
	return strings.HasPrefix(a.User, "system:") && a.User != "system:admin" && !slices.Contains(a.Groups, "system:masters")
}

func changedFields(ctx context.Context, h projections.History, e domain.Event) []Field {
	if e.Op != domain.Changed || e.Position == 0 {
		return nil
	}
	after, err := h.GetAt(ctx, e.Ref, e.Position)
	if err != nil {
		return nil
	}
	before, err := h.GetAt(ctx, e.Ref, e.Position-1)
	if err != nil {
		return nil
	}
	fields, err := compare(before, after)
	if err != nil {
		return nil
	}
	return fields
}

// Effect is an event with those that it caused.
type Effect struct {
	Change
	Effects []*Effect `json:"effects,omitempty"`
}

// Effects returns everything that followed from the same request as an event, as a tree by cause. Events whose cause is of another
// request, or was not recorded, are roots.
func Effects(ctx context.Context, h projections.History, e domain.Event) ([]*Effect, error) {
	var all []*Effect
	q := projections.EventQuery{AnyGroup: true, Correlation: e.Correlation, Limit: page}
	for e.Correlation != "" {
		events, err := h.Events(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("reading what followed from request %s: %w", e.Correlation, err)
		}
		for _, e := range events {
			all = append(all, &Effect{Change: changeOf(&e, nil)})
		}
		if len(events) < page {
			break
		}
		q.After = events[len(events)-1].Position
	}
	byID, byPosition := map[string]*Effect{}, map[uint64]*Effect{}
	var roots []*Effect
	for _, x := range all { // causes come before their effects
		byID[x.ID], byPosition[x.Position] = x, x
		var parent *Effect
		if c := x.Cause; c != nil {
			if parent = byID[c.ID]; parent == nil && c.ID == "" {
				parent = byPosition[c.Position]
			}
		}
		if parent == nil || parent == x {
			roots = append(roots, x)
		} else {
			parent.Effects = append(parent.Effects, x)
		}
	}
	return roots, nil
}
