package resolvers

import (
	"context"
	"fmt"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/graphql/model"
	"github.com/shiplog/shiplog/graphql/view"
	"github.com/shiplog/shiplog/projections"
)

type query struct{ *Root }

// Head is where the log stands.
func (q *query) Head(ctx context.Context) (*model.Head, error) {
	v, err := q.at(ctx, nil)
	if err != nil {
		return nil, err
	}
	head := &model.Head{Position: model.Position(v.Position())}
	if v.Position() > 0 {
		opts := eventstore.ReadAll{Direction: eventstore.Backwards, From: eventstore.Position(v.Position()), Limit: 1}
		for e, err := range q.Source.Log.ReadAll(ctx, opts) {
			if err != nil {
				return nil, fmt.Errorf("reading the last event: %w", err)
			}
			t := model.Time(e.Created)
			head.Time = &t
		}
	}
	if q.Source.History != nil {
		// That the history is away is not worth refusing the whole answer.
		if p, err := q.Source.History.Position(ctx); err == nil {
			position := model.Position(p)
			head.HistoryPosition = &position
		}
	}
	return head, nil
}

// Kinds are those that can be asked for by name.
func (q *query) Kinds(context.Context) ([]*model.Kind, error) {
	out := []*model.Kind{}
	for _, k := range q.Source.Kinds.All() {
		kind := &model.Kind{Group: k.Group, Version: k.Version, Kind: k.Kind, Resource: k.Resource, ShortNames: append([]string{}, k.ShortNames...), Namespaced: k.Namespaced, EventTypes: []*model.EventType{}}
		for _, w := range domain.EventTypes(k) {
			kind.EventTypes = append(kind.EventTypes, &model.EventType{Type: w.Type, Doc: w.Doc})
		}
		out = append(out, kind)
	}
	return out, nil
}

// Object is one object of any kind.
func (q *query) Object(ctx context.Context, kind string, namespace *string, name string, asOf *model.AsOf) (model.Resource, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.ObjectOf(ctx, v, kind, deref(namespace), name)
}

// Objects are those of any kind.
func (q *query) Objects(ctx context.Context, kind string, namespace, labelSelector, fieldSelector *string, first *int, after *string, asOf *model.AsOf) (*model.ResourceConnection, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	return model.ObjectsOf(ctx, v, kind, deref(namespace), model.ListArgs{LabelSelector: labelSelector, FieldSelector: fieldSelector, First: first, After: after})
}

// Event is one event of the log.
func (q *query) Event(ctx context.Context, position *model.Position, id *string, asOf *model.AsOf) (*model.LogEvent, error) {
	if (position == nil) == (id == nil) {
		return nil, fmt.Errorf("%w: give either the position or the id of an event", view.ErrBadRequest)
	}
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	if position != nil && *position == 0 {
		return nil, nil // the first event is at 1
	}
	e, err := v.Set().Event(ctx, uint64(deref(position)), deref(id))
	if err != nil || e == nil || asOf != nil && e.Position > v.Position() {
		return nil, err
	}
	return model.NewLogEvent(v.Set(), *e), nil
}

// Events are what happened.
func (q *query) Events(ctx context.Context, filter *model.EventFilter, first *int, after *string, oldestFirst bool, asOf *model.AsOf) (*model.LogEventConnection, error) {
	v, err := q.at(ctx, asOf)
	if err != nil {
		return nil, err
	}
	f, err := eventFilter(v.Set(), filter)
	if err != nil {
		return nil, err
	}
	return model.EventPage(ctx, v.Set(), f, first, after, oldestFirst, v.Position())
}

// eventFilter reads a filter as it is written.
func eventFilter(s *view.Set, in *model.EventFilter) (view.EventFilter, error) {
	if in == nil {
		return view.EventFilter{}, nil
	}
	f := view.EventFilter{
		Namespace: deref(in.Namespace), Name: deref(in.Name), UID: deref(in.UID), Types: in.Types, Actor: deref(in.Actor), Correlation: deref(in.Correlation),
		Since: time.Time(deref(in.Since)), Until: time.Time(deref(in.Until)),
	}
	for _, name := range in.Kinds {
		k, err := s.Kind(name)
		if err != nil {
			return view.EventFilter{}, err
		}
		f.Kinds = append(f.Kinds, k)
	}
	return f, nil
}

// Diff compares one object at two moments.
func (q *query) Diff(ctx context.Context, kind string, namespace *string, name string, from model.AsOf, to *model.AsOf) (*model.ObjectDiff, error) {
	var views [2]*view.View
	var objects [2]model.Resource
	for i, moment := range []*model.AsOf{&from, to} {
		var err error
		if views[i], err = q.at(ctx, moment); err != nil {
			return nil, err
		}
		if objects[i], err = model.ObjectOf(ctx, views[i], kind, deref(namespace), name); err != nil {
			return nil, err
		}
	}
	changes, err := model.Changes(inner(objects[0]), inner(objects[1]))
	if err != nil {
		return nil, err
	}
	return &model.ObjectDiff{
		From: model.Position(views[0].Position()), To: model.Position(views[1].Position()), Before: objects[0], After: objects[1], Changes: changes,
	}, nil
}

func inner(r model.Resource) *projections.Object {
	if r == nil {
		return nil
	}
	return r.Object()
}
