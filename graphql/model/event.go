package model

import (
	"context"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/graphql/view"
)

// LogEvent is an event of the log.
type LogEvent struct {
	set   *view.Set
	event domain.Event
}

// NewLogEvent wraps an event.
func NewLogEvent(s *view.Set, e domain.Event) *LogEvent { return &LogEvent{set: s, event: e} }

// Position in the log.
func (e *LogEvent) Position() Position { return Position(e.event.Position) }

// Revision in its object's stream.
func (e *LogEvent) Revision() int { return int(e.event.Revision) }

// ID is a UUID.
func (e *LogEvent) ID() string { return e.event.ID }

// Type is a word for what happened.
func (e *LogEvent) Type() string { return e.event.Type }

// Op is nil for a fact that changes no object.
func (e *LogEvent) Op() *EventOp {
	for op, name := range map[domain.Op]EventOp{domain.Created: EventOpCreated, domain.Changed: EventOpChanged, domain.Deleted: EventOpDeleted} {
		if op == e.event.Op {
			return &name
		}
	}
	return nil
}

// Time is when it happened.
func (e *LogEvent) Time() Time { return Time(e.event.Time) }

// Ref names the object.
func (e *LogEvent) Ref() *Ref {
	r := e.event.Ref
	out := &Ref{ID: r.String(), Group: r.Group, Resource: r.Resource, Namespace: optional(r.Namespace), Name: r.Name, UID: string(r.UID)}
	if k, ok := e.set.Kinds.ByResource(r.GroupResource()); ok {
		out.Kind = &k.Kind
	}
	return out
}

// Actor is who asked.
func (e *LogEvent) Actor() *Actor {
	a := e.event.Actor
	return &Actor{User: a.User, UID: optional(a.UID), Groups: append([]string{}, a.Groups...), UserAgent: optional(a.UserAgent), SourceIP: optional(a.SourceIP), Impersonator: optional(a.Impersonator)}
}

// Command is what was asked for.
func (e *LogEvent) Command() *Command {
	c := e.event.Command
	return &Command{Verb: c.Verb, Subresource: optional(c.Subresource), RequestID: optional(c.RequestID), DryRun: c.DryRun}
}

// Correlation is the same for all that follows from one request.
func (e *LogEvent) Correlation() string { return e.event.Correlation }

// Cause is the event that made a component act.
func (e *LogEvent) Cause(ctx context.Context) (*LogEvent, error) {
	c := e.event.Cause
	if c == nil {
		return nil, nil
	}
	cause, err := e.set.Event(ctx, c.Position, c.ID)
	if err != nil || cause == nil {
		return nil, err
	}
	return NewLogEvent(e.set, *cause), nil
}

// Effects are the events that this one caused directly.
func (e *LogEvent) Effects(ctx context.Context, first *int) ([]*LogEvent, error) {
	return e.others(ctx, view.EventFilter{CauseID: e.event.ID}, first)
}

// Related are the events of the same request.
func (e *LogEvent) Related(ctx context.Context, first *int) ([]*LogEvent, error) {
	if e.event.Correlation == "" {
		return []*LogEvent{}, nil
	}
	return e.others(ctx, view.EventFilter{Correlation: e.event.Correlation}, first)
}

func (e *LogEvent) others(ctx context.Context, f view.EventFilter, first *int) ([]*LogEvent, error) {
	page, err := EventPage(ctx, e.set, f, first, nil, true, 0)
	if err != nil {
		return nil, err
	}
	return page.Nodes, nil
}

// Evidence is what the decision rested on.
func (e *LogEvent) Evidence() *JSON { return value(e.event.Evidence) }

// Delta is the change as the log holds it.
func (e *LogEvent) Delta() *JSON {
	if e.event.Op != domain.Changed || e.Redacted() {
		return nil
	}
	return value(e.event.Change)
}

// FieldChanges tell the change field by field.
func (e *LogEvent) FieldChanges(ctx context.Context) ([]*FieldChange, error) {
	changes, err := e.set.EventChanges(ctx, e.event)
	if err != nil {
		return nil, err
	}
	return fieldChanges(changes), nil
}

// Redacted says whether values are withheld.
func (e *LogEvent) Redacted() bool { return view.Withholds(e.event.Ref.GroupResource()) }

// ObjectBefore is the object before the event.
func (e *LogEvent) ObjectBefore(ctx context.Context) (Resource, error) {
	o, v, err := e.set.Before(ctx, e.event)
	return Wrap(v, o), err
}

// ObjectAfter is the object after the event.
func (e *LogEvent) ObjectAfter(ctx context.Context) (Resource, error) {
	o, v, err := e.set.After(ctx, e.event)
	return Wrap(v, o), err
}
