package graphql_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/graphql"
	"github.com/shiplog/shiplog/projections/live"
	"github.com/shiplog/shiplog/projections/logreplay"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

// world is a cluster of events alone: a log in memory, the live view over it, a history that replays it, and a server.
type world struct {
	t       *testing.T
	kinds   *domain.Set
	log     *projectiontest.Log
	live    *live.View
	now     time.Time
	states  map[string]domain.State
	objects map[string]runtime.Object
	events  []domain.Event
	keys    ring                                                    // of what is sealed
	seal    func(k *domain.Kind, ref domain.Ref, doc []byte) []byte // what the log holds; nil: the document
	config  graphql.Config
	server  *httptest.Server
}

// begin is when the story of the tests begins; each event is a minute after the one before.
var begin = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func newWorld(t *testing.T, change ...func(*graphql.Config)) *world {
	t.Helper()
	keys := ring{}
	w := &world{t: t, keys: keys, kinds: domain.NewSet(domain.Kinds()).WithKeys(keys), log: projectiontest.NewLog(), now: begin, states: map[string]domain.State{}, objects: map[string]runtime.Object{}}
	w.log.Clock = func() time.Time { return w.now }
	w.live = live.New(w.log, w.kinds, live.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.live.Run(ctx) }()
	w.config = graphql.Config{
		Live: w.live, Log: w.log, History: logreplay.New(w.log, w.kinds), Kinds: w.kinds,
		Now:    func() time.Time { return begin.Add(time.Hour) },
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&w.config)
	}
	w.server = httptest.NewServer(graphql.NewHandler(w.config))
	t.Cleanup(func() {
		w.server.Close()
		cancel()
		<-done
	})
	if err := w.live.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// actor of an event and what made it act.
type because struct {
	user        string
	cause       *domain.Event
	subresource string
	evidence    string
}

// put appends the event that creates an object or changes it.
func (w *world) put(obj runtime.Object, b because) domain.Event {
	w.t.Helper()
	e, err := w.try(obj, b)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// try is put for goroutines, in which a test cannot be ended.
func (w *world) try(obj runtime.Object, b because) (domain.Event, error) {
	k, ok := w.kinds.ByKind(w.kindOf(obj))
	if !ok {
		return domain.Event{}, fmt.Errorf("%T is of no known kind", obj)
	}
	obj = obj.DeepCopyObject()
	obj.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind())
	m, err := meta.Accessor(obj)
	if err != nil {
		return domain.Event{}, err
	}
	m.SetUID(uidOf(k.Kind, m.GetName()))
	if at := m.GetCreationTimestamp(); at.IsZero() {
		m.SetCreationTimestamp(metaTime(begin))
	}
	data, err := domain.Encode(k, obj)
	if err != nil {
		return domain.Event{}, err
	}
	ref, err := domain.ObjectRef(k, obj)
	if err != nil {
		return domain.Event{}, err
	}
	if w.seal != nil {
		data = w.seal(k, ref, data)
	}
	state := w.states[ref.Stream()]
	before := w.objects[ref.Stream()]
	e := domain.Event{Ref: ref, Op: domain.Created, Change: data, Command: domain.CommandInfo{Verb: "create", Subresource: b.subresource}}
	if state.Exists {
		e.Op, e.Command.Verb = domain.Changed, "update"
		if e.Change, err = domain.Delta(k, state.JSON, data); err != nil || e.Change == nil {
			return domain.Event{}, fmt.Errorf("%s does not change: %w", ref, err)
		}
	}
	e.Type = domain.EventType(k, before, obj)
	w.objects[ref.Stream()] = obj
	return w.record(e, b)
}

// remove appends the event that deletes an object.
func (w *world) remove(ref domain.Ref, b because) domain.Event {
	w.t.Helper()
	k, _ := w.kinds.ByResource(ref.GroupResource())
	ref.UID = w.states[ref.Stream()].UID
	before := w.objects[ref.Stream()]
	delete(w.objects, ref.Stream())
	return w.append(domain.Event{Ref: ref, Op: domain.Deleted, Type: domain.EventType(k, before, nil), Command: domain.CommandInfo{Verb: "delete"}}, b)
}

func (w *world) append(e domain.Event, b because) domain.Event {
	w.t.Helper()
	e, err := w.record(e, b)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *world) record(e domain.Event, b because) (domain.Event, error) {
	id := uuid.NewSHA1(uuid.NameSpaceOID, []byte(fmt.Sprint("event ", len(w.events))))
	e.ID, e.Time, e.Version, e.Correlation = id.String(), w.now, domain.SchemaVersion, "request-"+fmt.Sprint(len(w.events))
	e.Actor = domain.Actor{User: b.user, Groups: []string{"system:authenticated"}}
	if b.evidence != "" {
		e.Evidence = json.RawMessage(b.evidence)
	}
	if b.cause != nil {
		e.Cause, e.Correlation = &domain.Cause{ID: b.cause.ID, Position: b.cause.Position}, b.cause.Correlation
	}
	data, metadata, err := domain.MarshalEvent(e)
	if err != nil {
		return e, err
	}
	at, err := w.log.Append(context.Background(), e.Ref.Stream(), eventstore.Any, eventstore.Proposed{ID: id, Type: e.Type, Data: data, Metadata: metadata})
	if err != nil {
		return e, err
	}
	e.Position, e.Revision = uint64(at.Position), at.Revision
	if w.states[e.Ref.Stream()], err = w.states[e.Ref.Stream()].Apply(e); err != nil {
		return e, err
	}
	if err := w.live.WaitFor(w.t.Context(), e.Position); err != nil {
		return e, err
	}
	w.events = append(w.events, e)
	w.now = w.now.Add(time.Minute)
	return e, nil
}

func uidOf(kind, name string) types.UID {
	return types.UID(uuid.NewSHA1(uuid.NameSpaceOID, []byte(kind+" "+name)).String())
}

// answer is a GraphQL response.
type answer struct {
	Data   json.RawMessage `json:"data"`
	Errors []struct {
		Message    string         `json:"message"`
		Path       []any          `json:"path"`
		Extensions map[string]any `json:"extensions"`
	} `json:"errors"`
}

// ask posts a query and returns the whole response as it came.
func (w *world) ask(query string, variables map[string]any) []byte {
	w.t.Helper()
	body, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.Post(w.server.URL+"/graphql", "application/json", bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// code asks a query that is refused and returns the code of the first error.
func (w *world) code(query string, variables map[string]any) string {
	w.t.Helper()
	raw := w.ask(query, variables)
	var a answer
	if err := json.Unmarshal(raw, &a); err != nil {
		w.t.Fatalf("%s: %v", raw, err)
	}
	if len(a.Errors) == 0 {
		w.t.Fatalf("%s was answered: %s", query, raw)
	}
	code, _ := a.Errors[0].Extensions["code"].(string)
	return code
}

// errRefused is what the authorizer of the tests answers.
var errRefused = errors.New("not for you")

// onlyNamespace lets a caller see the objects of one namespace only.
func onlyNamespace(namespace string) func(context.Context, domain.Resource, string, string) error {
	return func(_ context.Context, _ domain.Resource, ns, _ string) error {
		if ns == namespace {
			return nil
		}
		return errRefused
	}
}

func ref(w *world, kind, namespace, name string) domain.Ref {
	w.t.Helper()
	k, ok := w.kinds.Lookup(kind)
	if !ok {
		w.t.Fatalf("no kind is called %s", kind)
	}
	return k.Ref(namespace, name)
}

func pod(name, namespace string, edit func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{}
	p.Name, p.Namespace = name, namespace
	p.Spec.Containers = []corev1.Container{{Name: "web", Image: "web:1"}}
	if edit != nil {
		edit(p)
	}
	return p
}

// bustle makes one pod after the other until it is stopped.
func (w *world) bustle(stop <-chan struct{}) error {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
			if _, err := w.try(pod(fmt.Sprint("busy-", i), "other", nil), because{user: "ada"}); err != nil {
				return err
			}
		}
	}
}
