package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/commands/origin"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
)

// change is one change of one object, decided but not yet appended.
type change struct {
	op       domain.Op
	ref      domain.Ref
	expected eventstore.Expected
	from     *projections.Object // what it was computed from; nil for a creation
	before   runtime.Object
	after    runtime.Object // nil for a deletion
	json     []byte         // after, as the log will hold it; nil for a deletion
	erased   bool           // json keeps a payload that cannot be read, and after lacks it
	ttl      uint64         // seconds; 0: for good
}

// append makes the event of a change and appends it. out, when it is not nil, gets the object as written; its version is set when
// the change has been seen. The error of a lost race is the log's.
func (s *Store) append(ctx context.Context, c change, out runtime.Object) (uint64, error) {
	ev, err := s.event(ctx, &c)
	if err != nil {
		return 0, err
	}
	if out != nil && c.after != nil {
		if err := s.convert(c.after, out); err != nil {
			return 0, err
		}
	}
	p, err := proposed(ev)
	if err != nil {
		return 0, err
	}
	stream := c.ref.Stream()
	if c.after != nil && !c.erased {
		s.live.Expect(ev.ID, c.after)
	}
	done, err := s.log.Append(ctx, stream, c.expected, p)
	if err != nil {
		return 0, appendError(c.ref, err)
	}
	s.recent.put(uint64(done.Position), ev.Correlation)
	if c.op == domain.Created && s.kind.Retained() {
		s.bound(stream, s.kind.Retention)
	}
	if c.ttl > 0 && c.after != nil {
		s.expiry.schedule(&expiry{kind: s.kind, ref: c.ref, position: uint64(done.Position)}, ev.Time.Add(time.Duration(c.ttl)*time.Second))
	}
	return uint64(done.Position), nil
}

// event makes the event that tells a change.
func (s *Store) event(ctx context.Context, c *change) (domain.Event, error) {
	delta, err := s.delta(c)
	if err != nil {
		return domain.Event{}, fmt.Errorf("encoding the change of %s: %w", c.ref, err)
	}
	o := origin.From(ctx)
	correlation := o.Correlation
	if correlation == "" {
		correlation = s.correlationOf(ctx, o.Cause)
	}
	return domain.Event{
		ID: uuid.NewString(), Type: domain.EventType(s.kind, c.before, c.after), Ref: c.ref, Op: c.op, Change: delta,
		Actor: o.Actor, Command: o.Command, Correlation: correlation, Cause: o.Cause, Evidence: o.Evidence,
		Time: s.now().UTC(), Version: domain.SchemaVersion,
	}, nil
}

func (s *Store) delta(c *change) (json.RawMessage, error) {
	switch c.op {
	case domain.Deleted:
		return nil, nil
	case domain.Created:
		return c.json, nil
	}
	return domain.Delta(s.kind, c.from.JSON, c.json)
}

func proposed(ev domain.Event) (eventstore.Proposed, error) {
	data, metadata, err := domain.MarshalEvent(ev)
	if err != nil {
		return eventstore.Proposed{}, fmt.Errorf("encoding the event %s of %s: %w", ev.Type, ev.Ref, err)
	}
	id, err := uuid.Parse(ev.ID)
	if err != nil {
		return eventstore.Proposed{}, fmt.Errorf("encoding the event %s of %s: %w", ev.Type, ev.Ref, err)
	}
	return eventstore.Proposed{ID: id, Type: ev.Type, ContentType: "application/json", Data: data, Metadata: metadata}, nil
}

// appendError turns the log's errors into the API's words, but for a lost race, which is the caller's to handle.
func appendError(ref domain.Ref, err error) error {
	switch {
	case errors.Is(err, eventstore.ErrWrongExpectedRevision):
		return err
	case errors.Is(err, eventstore.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("%s: %v", ref, err))
	case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrReadOnly), errors.Is(err, eventstore.ErrClosed),
		errors.Is(err, eventstore.ErrNotLeader):
		return apierrors.NewServiceUnavailable(fmt.Sprintf("the log takes no writes now: %v", err))
	}
	return fmt.Errorf("appending to the log: %w", err)
}

// AppendFact appends an event that changes no object, such as a reservation or a refused request, to a stream of its own.
func (e *Engine) AppendFact(ctx context.Context, stream string, expected eventstore.Expected, events ...domain.Event) (eventstore.Appended, error) {
	ps := make([]eventstore.Proposed, len(events))
	for i, ev := range events {
		p, err := proposed(ev)
		if err != nil {
			return eventstore.Appended{}, err
		}
		ps[i] = p
	}
	done, err := e.log.Append(ctx, stream, expected, ps...)
	if err != nil {
		return eventstore.Appended{}, fmt.Errorf("appending to %s: %w", stream, err)
	}
	return done, nil
}
