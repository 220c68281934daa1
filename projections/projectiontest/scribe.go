package projectiontest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
)

// Scribe writes events into a log as commands do, and knows what they lead to. One goroutine uses it.
type Scribe struct {
	Log    eventstore.Log
	Kinds  *domain.Set
	Now    time.Time // of the next event; each event moves it on by 1.5 ms
	Actor  domain.Actor
	states map[string]domain.State
}

// NewScribe returns a scribe for an empty log.
func NewScribe(log eventstore.Log, kinds *domain.Set) *Scribe {
	return &Scribe{
		Log: log, Kinds: kinds, Now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC),
		Actor: domain.Actor{User: "ada", Groups: []string{"system:masters"}, UserAgent: "kubectl", SourceIP: "192.0.2.7"}, states: map[string]domain.State{},
	}
}

// Clone returns a scribe that goes on in another log that holds the same events.
func (s *Scribe) Clone(log eventstore.Log) *Scribe {
	c := *s
	c.Log, c.states = log, maps.Clone(s.states)
	return &c
}

// State is what the events of an object have led to.
func (s *Scribe) State(ref domain.Ref) domain.State { return s.states[ref.Stream()] }

// Put creates an object or changes it to the given form. A uid is made up for a new one. A put that changes nothing writes nothing.
func (s *Scribe) Put(ctx context.Context, typed runtime.Object, cause *domain.Event) (domain.Event, error) {
	k, ok := s.Kinds.ByKind(typed.GetObjectKind().GroupVersionKind().GroupKind())
	if !ok {
		return domain.Event{}, fmt.Errorf("%T says not what it is", typed)
	}
	typed = typed.DeepCopyObject()
	m, err := meta.Accessor(typed)
	if err != nil {
		return domain.Event{}, err
	}
	before := s.states[k.Ref(m.GetNamespace(), m.GetName()).Stream()]
	if before.Exists {
		m.SetUID(before.UID)
	} else if m.GetUID() == "" {
		m.SetUID(types.UID(uuid.NewString()))
	}
	data, err := domain.Encode(k, typed)
	if err != nil {
		return domain.Event{}, err
	}
	ref, err := domain.ObjectRef(k, typed)
	if err != nil {
		return domain.Event{}, err
	}
	e := domain.Event{Ref: ref, Op: domain.Created, Change: data, Type: k.Kind + "Created", Command: domain.CommandInfo{Verb: "create"}}
	if before.Exists {
		e.Op, e.Type, e.Command.Verb = domain.Changed, k.Kind+"Changed", "update"
		if e.Change, err = domain.Delta(k, before.JSON, data); err != nil {
			return domain.Event{}, err
		}
		if e.Change == nil {
			return domain.Event{}, nil
		}
	}
	return s.Append(ctx, e, cause)
}

// Delete deletes an object.
func (s *Scribe) Delete(ctx context.Context, ref domain.Ref, cause *domain.Event) (domain.Event, error) {
	ref.UID = s.State(ref).UID
	k, ok := s.Kinds.ByResource(ref.GroupResource())
	if !ok {
		return domain.Event{}, fmt.Errorf("no kind of the set is %s", ref.GroupResource())
	}
	return s.Append(ctx, domain.Event{Ref: ref, Op: domain.Deleted, Type: k.Kind + "Deleted", Command: domain.CommandInfo{Verb: "delete"}}, cause)
}

// Refuse records a request that was refused, in the object's own stream.
func (s *Scribe) Refuse(ctx context.Context, ref domain.Ref, verb string, evidence any) (domain.Event, error) {
	data, err := json.Marshal(evidence)
	if err != nil {
		return domain.Event{}, err
	}
	return s.Append(ctx, domain.Event{Ref: ref, Type: "RequestRefused", Command: domain.CommandInfo{Verb: verb}, Evidence: data}, nil)
}

// Note records a fact about an object in a stream that is not the object's, as the API's audit trail does.
func (s *Scribe) Note(ctx context.Context, e domain.Event) (domain.Event, error) {
	e.Op = ""
	return s.write(ctx, "audit-requests", eventstore.Any, e, nil)
}

// Append appends an event to its object's stream; id, actor, time and correlation are filled in. An event that does not fold is
// an error, but it is in the log then.
func (s *Scribe) Append(ctx context.Context, e domain.Event, cause *domain.Event) (domain.Event, error) {
	e, err := s.append(ctx, e, cause)
	if err != nil {
		return e, err
	}
	state, err := s.states[e.Ref.Stream()].Apply(e)
	if err != nil {
		return e, err
	}
	s.states[e.Ref.Stream()] = state
	return e, nil
}

// Force appends an event that need not fold; the scribe forgets what the object was.
func (s *Scribe) Force(ctx context.Context, e domain.Event) (domain.Event, error) {
	e, err := s.append(ctx, e, nil)
	if err == nil {
		s.states[e.Ref.Stream()] = domain.State{Revision: e.Revision, Seen: true}
	}
	return e, err
}

func (s *Scribe) append(ctx context.Context, e domain.Event, cause *domain.Event) (domain.Event, error) {
	stream := e.Ref.Stream()
	expected := eventstore.NoStream
	if state := s.states[stream]; state.Seen {
		expected = eventstore.Exact(state.Revision)
	}
	return s.write(ctx, stream, expected, e, cause)
}

func (s *Scribe) write(ctx context.Context, stream string, expected eventstore.Expected, e domain.Event, cause *domain.Event) (domain.Event, error) {
	e.ID, e.Actor, e.Time, e.Version = uuid.NewString(), s.Actor, s.Now, domain.SchemaVersion
	s.Now = s.Now.Add(1500 * time.Microsecond)
	e.Correlation = uuid.NewString()
	if cause != nil {
		e.Cause, e.Correlation = &domain.Cause{ID: cause.ID, Position: cause.Position}, cause.Correlation
		e.Actor = domain.Actor{User: "system:shiplog:controller"}
	}
	data, metadata, err := domain.MarshalEvent(e)
	if err != nil {
		return domain.Event{}, err
	}
	at, err := s.Log.Append(ctx, stream, expected, eventstore.Proposed{ID: uuid.MustParse(e.ID), Type: e.Type, Data: data, Metadata: metadata})
	if err != nil {
		return domain.Event{}, fmt.Errorf("writing %s of %s: %w", e.Type, e.Ref, err)
	}
	e.Position, e.Revision = uint64(at.Position), at.Revision
	return e, nil
}
