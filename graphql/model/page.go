package model

import (
	"context"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/graphql/view"
	"github.com/shiplog/shiplog/projections"
)

// connect makes what the connections of all types have in common.
func connect[T, E any](v *view.View, list []*projections.Object, first *int, after *string, wrap func(*view.View, *projections.Object) T, edge func(cursor string, node T) E) (edges []E, nodes []T, info *PageInfo, total int, err error) {
	page, err := view.Paginate(list, first, after)
	if err != nil {
		return nil, nil, nil, 0, err
	}
	edges, nodes = make([]E, len(page.Objects)), make([]T, len(page.Objects))
	info = &PageInfo{HasNextPage: page.After, HasPreviousPage: page.Before, Position: Position(v.Position())}
	for i, o := range page.Objects {
		cursor := view.Cursor(o)
		nodes[i] = wrap(v, o)
		edges[i] = edge(cursor, nodes[i])
		if i == 0 {
			info.StartCursor = &cursor
		}
		info.EndCursor = &cursor
	}
	return edges, nodes, info, page.Total, nil
}

func resourcePage(v *view.View, list []*projections.Object, first *int, after *string) (*ResourceConnection, error) {
	edges, nodes, info, total, err := connect(v, list, first, after, Wrap, func(c string, n Resource) *ResourceEdge { return &ResourceEdge{Cursor: c, Node: n} })
	if err != nil {
		return nil, err
	}
	return &ResourceConnection{Edges: edges, Nodes: nodes, PageInfo: info, TotalCount: total}, nil
}

// ListArgs are the arguments that lists have in common.
type ListArgs struct {
	LabelSelector, FieldSelector *string
	First                        *int
	After                        *string
}

func (a ListArgs) selector() (view.Selector, error) {
	return view.NewSelector(deref(a.LabelSelector), deref(a.FieldSelector))
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// filtered applies the selectors of a list.
func (a ListArgs) filtered(list []*projections.Object, err error) ([]*projections.Object, error) {
	if err != nil {
		return nil, err
	}
	s, err := a.selector()
	if err != nil {
		return nil, err
	}
	return s.Filter(list), nil
}

// list lists the objects of a built-in kind.
func (a ListArgs) list(ctx context.Context, v *view.View, gr domain.Resource, namespace string) ([]*projections.Object, error) {
	k, err := v.Set().Kind(gr.String())
	if err != nil {
		return nil, err
	}
	if _, err := a.selector(); err != nil { // before anything is read
		return nil, err
	}
	return a.filtered(v.List(ctx, k, namespace))
}

// EventPage is a page of the events that a filter admits, up to a position.
func EventPage(ctx context.Context, s *view.Set, f view.EventFilter, first *int, after *string, oldestFirst bool, through uint64) (*LogEventConnection, error) {
	size, err := view.Size(first)
	if err != nil {
		return nil, err
	}
	start, err := view.ReadEventCursor(after)
	if err != nil {
		return nil, err
	}
	events, more, err := s.Events(ctx, f, view.EventPage{Size: size, After: start, OldestFirst: oldestFirst, Through: through})
	if err != nil {
		return nil, err
	}
	out := &LogEventConnection{Edges: []*LogEventEdge{}, Nodes: []*LogEvent{}, PageInfo: &PageInfo{HasNextPage: more, HasPreviousPage: start > 0, Position: Position(through)}}
	for i, e := range events {
		node, cursor := NewLogEvent(s, e), view.EventCursor(e)
		out.Nodes = append(out.Nodes, node)
		out.Edges = append(out.Edges, &LogEventEdge{Cursor: cursor, Node: node})
		if i == 0 {
			out.PageInfo.StartCursor = &cursor
		}
		out.PageInfo.EndCursor = &cursor
	}
	return out, nil
}
