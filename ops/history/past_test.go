package history

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/logreplay"
	"github.com/shiplog/shiplog/projections/memory"
)

var update = flag.Bool("update", false, "rewrite the files under testdata")

// past is a cluster's past in memory: projections.History over a list of events.
type past struct {
	kinds  *domain.Set
	events []domain.Event
	states map[string]domain.State
	sealed func(k *domain.Kind, ref domain.Ref, document []byte) []byte // what the log would hold; nil: the document
	keep   bool                                                         // the payload is sealed as before
}

var _ projections.History = (*past)(nil)

var began = time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)

func newPast() *past {
	return &past{kinds: domain.NewSet(domain.Kinds()), states: map[string]domain.State{}}
}

func (p *past) kindOf(typed runtime.Object) *domain.Kind {
	for _, k := range p.kinds.All() {
		if fmt.Sprintf("%T", k.New()) == fmt.Sprintf("%T", typed) {
			return k
		}
	}
	panic(fmt.Sprintf("no kind is a %T", typed))
}

// by says who does the next thing, why, and how.
type by struct {
	user, verb, subresource string
	cause                   *domain.Event
	correlation             string
	evidence                any
	positionOnly            bool // the cause is known by its position alone
	impersonator            string
}

func (p *past) put(who by, typed runtime.Object) domain.Event {
	typed = typed.DeepCopyObject()
	k := p.kindOf(typed)
	m, err := meta.Accessor(typed)
	if err != nil {
		panic(err)
	}
	before := p.states[k.Ref(m.GetNamespace(), m.GetName()).Stream()]
	if before.Exists {
		m.SetUID(before.UID)
	} else {
		m.SetUID(types.UID(fmt.Sprintf("uid-%d", len(p.events)+1)))
	}
	data, err := domain.Encode(k, typed)
	if err != nil {
		panic(err)
	}
	ref, _ := domain.ObjectRef(k, typed)
	switch e, ok := domain.EnvelopeOf(before.JSON); {
	case p.keep && ok:
		rest, _ := k.Split(data)
		if data, err = domain.WithEnvelope(rest, e); err != nil {
			panic(err)
		}
	case p.sealed != nil:
		data = p.sealed(k, ref, data)
	}
	e := domain.Event{Ref: ref, Op: domain.Created, Change: data}
	var old runtime.Object
	if before.Exists {
		e.Op = domain.Changed
		if e.Change, err = domain.Delta(k, before.JSON, data); err != nil {
			panic(err)
		}
		old, _ = domain.Decode(k, before.JSON, 0)
	}
	e.Type = domain.EventType(k, old, typed)
	return p.append(who, e)
}

func (p *past) delete(who by, typed runtime.Object) domain.Event {
	k := p.kindOf(typed)
	ref, _ := domain.ObjectRef(k, typed)
	ref.UID = p.states[ref.Stream()].UID
	return p.append(who, domain.Event{Ref: ref, Op: domain.Deleted, Type: k.Kind + "Deleted"})
}

func (p *past) append(who by, e domain.Event) domain.Event {
	n := uint64(len(p.events) + 1)
	e.ID, e.Position = fmt.Sprintf("00000000-0000-4000-8000-%012d", n), n
	if s := p.states[e.Ref.Stream()]; s.Seen {
		e.Revision = s.Revision + 1
	}
	e.Time = began.Add(time.Duration(n) * time.Minute)
	e.Actor = domain.Actor{User: who.user, Impersonator: who.impersonator}
	e.Command = domain.CommandInfo{Verb: who.verb, Subresource: who.subresource}
	e.Correlation = who.correlation
	if who.cause != nil {
		e.Cause = &domain.Cause{ID: who.cause.ID, Position: who.cause.Position}
		if who.positionOnly {
			e.Cause.ID = ""
		}
		e.Correlation = who.cause.Correlation
	}
	if who.evidence != nil {
		e.Evidence, _ = json.Marshal(who.evidence)
	}
	if e.Op != "" {
		s, err := p.states[e.Ref.Stream()].Apply(e)
		if err != nil {
			panic(err)
		}
		p.states[e.Ref.Stream()] = s
	}
	p.events = append(p.events, e)
	return e
}

func (p *past) Position(context.Context) (uint64, error) { return uint64(len(p.events)), nil }

func (p *past) PositionAt(_ context.Context, t time.Time) (uint64, error) {
	var last uint64
	for _, e := range p.events {
		if !e.Time.After(t) {
			last = e.Position
		}
	}
	return last, nil
}

func (p *past) statesAt(position uint64) map[string]domain.State {
	states := map[string]domain.State{}
	for _, e := range p.events {
		if e.Position <= position && e.Op != "" {
			s, err := states[e.Ref.Stream()].Apply(e)
			if err != nil {
				panic(err)
			}
			states[e.Ref.Stream()] = s
		}
	}
	return states
}

func (p *past) object(ref domain.Ref, s domain.State) *projections.Object {
	ref.UID = s.UID
	return memory.Decoded(p.kinds, projections.Object{Ref: ref, Position: s.Position, Revision: s.Revision, JSON: s.JSON})
}

func (p *past) GetAt(_ context.Context, ref domain.Ref, position uint64) (*projections.Object, error) {
	s := p.statesAt(position)[ref.Stream()]
	if !s.Exists {
		return nil, fmt.Errorf("%s at %d: %w", ref, position, projections.ErrNotFound)
	}
	return p.object(ref, s), nil
}

func (p *past) ListAt(_ context.Context, gr domain.Resource, namespace string, position uint64) ([]*projections.Object, error) {
	var list []*projections.Object
	for stream, s := range p.statesAt(position) {
		ref := domain.MustParseStream(stream)
		if s.Exists && ref.GroupResource() == gr && (namespace == "" || ref.Namespace == namespace) {
			list = append(list, p.object(ref, s))
		}
	}
	slices.SortFunc(list, func(a, b *projections.Object) int { return strings.Compare(a.Ref.String(), b.Ref.String()) })
	return list, nil
}

func (p *past) Events(_ context.Context, q projections.EventQuery) ([]domain.Event, error) {
	var list []domain.Event
	for _, e := range p.events {
		r := e.Ref
		if q.Actor != "" && e.Actor.User != q.Actor && e.Actor.Impersonator != q.Actor || len(q.Types) > 0 && !slices.Contains(q.Types, e.Type) ||
			!q.Since.IsZero() && e.Time.Before(q.Since) || !q.Until.IsZero() && !e.Time.Before(q.Until) ||
			!q.AnyGroup && r.Group != q.Group || q.Resource != "" && r.Resource != q.Resource || q.Namespace != "" && r.Namespace != q.Namespace ||
			q.Name != "" && r.Name != q.Name || q.Correlation != "" && e.Correlation != q.Correlation ||
			e.Position <= q.After || q.Through > 0 && e.Position > q.Through {
			continue
		}
		list = append(list, e)
	}
	if q.Newest {
		slices.Reverse(list)
	}
	if len(list) > q.Limit {
		list = list[:q.Limit]
	}
	return list, nil
}

func (p *past) Event(_ context.Context, position uint64, id string) (domain.Event, error) {
	for _, e := range p.events {
		if position > 0 && e.Position == position || position == 0 && e.ID == id {
			return e, nil
		}
	}
	return domain.Event{}, projections.ErrNotFound
}

// inALog writes the past into a log of its own, as the cluster would have, and answers from there.
func (p *past) inALog(t *testing.T) projections.History {
	t.Helper()
	log, err := embedded.Open(t.TempDir(), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, e := range p.events {
		data, metadata, err := domain.MarshalEvent(e)
		if err != nil {
			t.Fatal(err)
		}
		at, err := log.Append(t.Context(), e.Ref.Stream(), eventstore.Any, eventstore.Proposed{
			ID: uuid.MustParse(e.ID), Type: e.Type, ContentType: "application/json", Data: data, Metadata: metadata,
		})
		if err != nil {
			t.Fatal(err)
		}
		if uint64(at.Position) != e.Position {
			t.Fatalf("position %d, want %d", at.Position, e.Position)
		}
	}
	return logreplay.New(log, p.kinds)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (rewrite with -update): -want +got\n%s", path, d)
	}
}
