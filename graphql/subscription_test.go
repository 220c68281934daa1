package graphql_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/graphql"
	"github.com/shiplog/shiplog/projections/live"
)

// TestEventsFromThePastAndOn is the promise of the subscription: from a position on every event once and in order, while new ones
// are appended and the log drops subscriptions.
func TestEventsFromThePastAndOn(t *testing.T) {
	w := newWorld(t)
	w.tell()
	w.log.BatchSize(3)
	var want []string
	for _, e := range w.events {
		if e.Position > 13 {
			want = append(want, fmt.Sprintf(`{"events":{"position":%d,"type":"%s","ref":{"name":"%s"}}}`, e.Position, e.Type, e.Ref.Name))
		}
	}
	s := w.dial(`subscription ($after: Position) { events(after: $after) { position type ref { name } } }`, map[string]any{"after": 13})
	w.log.Drop(2)
	for i := range 60 { // while the server delivers
		if i%20 == 10 {
			w.log.Drop(1)
		}
		e := w.put(pod(fmt.Sprint("new-", i), "other", nil), because{user: "ada"})
		want = append(want, fmt.Sprintf(`{"events":{"position":%d,"type":"PodCreated","ref":{"name":"new-%d"}}}`, e.Position, i))
	}
	for n := range want {
		if got := s.next(); got != want[n] {
			t.Fatalf("event %d is %s, want %s", n, got, want[n])
		}
	}
}

func TestEventsThatAreWanted(t *testing.T) {
	w := newWorld(t)
	w.tell()
	s := w.dial(`subscription { events(after: 0, filter: { kinds: ["pod"], namespace: "default", types: ["PodBound"] }) { position evidence objectBefore { ... on Pod { nodeName } } objectAfter { ... on Pod { nodeName node { name } } } fieldChanges { path } cause { type } } }`, nil)
	if got, want := s.next(), `{"events":{"position":19,"evidence":{"chosen":"n1","refused":{"n2":"not ready"}},"objectBefore":{"nodeName":null},"objectAfter":{"nodeName":"n1","node":{"name":"n1"}},"fieldChanges":[{"path":"spec.nodeName"}],"cause":{"type":"PodCreated"}}}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	w.put(webPod("web-1-b", "n1", false), because{user: "system:kube-scheduler"})
	if got := s.next(); !strings.Contains(got, `"nodeName":"n1"`) || !strings.Contains(got, `"evidence":null`) {
		t.Errorf("got %s", got)
	}
}

func TestEventsOnlyFromNow(t *testing.T) {
	w := newWorld(t)
	w.tell()
	s := w.dial(`subscription { events { type } }`, nil)
	// The server confirms nothing before the first event: ask for something else on the same connection, which it answers in turn.
	s.write(frame{Type: "subscribe", ID: "2", Payload: json.RawMessage(`{"query":"{ head { position } }"}`)})
	if f := s.read(); f.ID != "2" {
		t.Fatalf("an event came that nobody asked for: %s", f.Payload)
	}
	if f := s.read(); f.Type != "complete" || f.ID != "2" {
		t.Fatalf("got %+v", f)
	}
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() { // until one comes through: when the subscription begins is up to the server
		done <- w.bustle(stop)
	}()
	if got := s.next(); got != `{"events":{"type":"PodCreated"}}` {
		t.Errorf("got %s", got)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

const watchPods = `subscription ($after: Position, $labels: String) { objects(kind: "po", namespace: "default", labelSelector: $labels, after: $after) { type position object { name ... on Pod { phase nodeName } } event { type } } }`

func TestObjectsNowAndOn(t *testing.T) {
	w := newWorld(t)
	w.tell()
	s := w.dial(watchPods, map[string]any{"labels": "app=web"})
	if got, want := s.next(), `{"objects":{"type":"ADDED","position":42,"object":{"name":"web-1-b","phase":"Pending","nodeName":null},"event":null}}`; got != want {
		t.Fatalf("got %s", got)
	}
	w.put(pod("elsewhere-2", "other", nil), because{user: "ada"})
	w.put(pod("no-label", "default", nil), because{user: "ada"})
	bound := w.put(webPod("web-1-b", "n1", false), because{user: "system:kube-scheduler"})
	if got, want := s.next(), fmt.Sprintf(`{"objects":{"type":"MODIFIED","position":%d,"object":{"name":"web-1-b","phase":"Pending","nodeName":"n1"},"event":{"type":"PodBound"}}}`, bound.Position); got != want {
		t.Fatalf("got %s", got)
	}
	unlabelled := webPod("web-1-b", "n1", false)
	unlabelled.Labels = nil
	w.put(unlabelled, because{user: "ada"})
	if got := s.next(); !strings.Contains(got, `"type":"DELETED"`) || !strings.Contains(got, `"type":"PodLabelsChanged"`) {
		t.Fatalf("an object that ceases to match: %s", got)
	}
	w.put(webPod("web-1-b", "n1", false), because{user: "ada"})
	if got := s.next(); !strings.Contains(got, `"type":"ADDED"`) {
		t.Fatalf("an object that begins to match: %s", got)
	}
	gone := w.remove(ref(w, "pod", "default", "web-1-b"), because{user: "ada"})
	if got, want := s.next(), fmt.Sprintf(`{"objects":{"type":"DELETED","position":%d,"object":{"name":"web-1-b","phase":"Pending","nodeName":"n1"},"event":{"type":"PodDeleted"}}}`, gone.Position); got != want {
		t.Fatalf("got %s", got)
	}
}

// TestObjectsFromThePast asks the live view's buffer and, when that no longer holds what is asked for, the log: the answers are the
// same.
func TestObjectsFromThePast(t *testing.T) {
	for name, options := range map[string]live.Options{"from the buffer": {}, "from the log": {MaxChanges: 1}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.tell()
			if options.MaxChanges > 0 { // another view over the same log, with a short memory
				small := live.New(w.log, w.kinds, options)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); _ = small.Run(ctx) }()
				t.Cleanup(func() { cancel(); <-done })
				if err := small.WaitReady(t.Context()); err != nil {
					t.Fatal(err)
				}
				config := w.config
				config.Live = small
				w.server.Config.Handler = graphql.NewHandler(config)
			}
			s := w.dial(watchPods, map[string]any{"after": 18})
			for _, want := range []string{
				`{"objects":{"type":"MODIFIED","position":19,"object":{"name":"web-1-a","phase":"Pending","nodeName":"n1"},"event":{"type":"PodBound"}}}`,
				`{"objects":{"type":"MODIFIED","position":21,"object":{"name":"web-1-a","phase":"Running","nodeName":"n1"},"event":{"type":"PodStarted"}}}`,
				`{"objects":{"type":"ADDED","position":33,"object":{"name":"web-1-b","phase":"Pending","nodeName":null},"event":{"type":"PodCreated"}}}`,
				`{"objects":{"type":"DELETED","position":42,"object":{"name":"web-1-a","phase":"Running","nodeName":"n1"},"event":{"type":"PodDeleted"}}}`,
			} {
				if got := s.next(); got != want {
					t.Fatalf("got  %s\nwant %s", got, want)
				}
			}
			e := w.put(pod("later", "default", nil), because{user: "ada"})
			if got := s.next(); !strings.Contains(got, fmt.Sprintf(`"type":"ADDED","position":%d`, e.Position)) {
				t.Fatalf("got %s", got)
			}
		})
	}
}

func TestSubscriptionsThatCannotBe(t *testing.T) {
	w := newWorld(t, func(c *graphql.Config) { c.Authorize = onlyNamespace("default") })
	for query, code := range map[string]string{
		`subscription { events(after: 999) { type } }`:                                               "FUTURE",
		`subscription { events(filter: { kinds: ["ship"] }) { type } }`:                              "UNKNOWN_KIND",
		`subscription { events(filter: { kinds: ["pods"], namespace: "other" }) { type } }`:          "FORBIDDEN",
		`subscription { objects(kind: "pods") { type } }`:                                            "FORBIDDEN",
		`subscription { objects(kind: "ship") { type } }`:                                            "UNKNOWN_KIND",
		`subscription { objects(kind: "pods", namespace: "default", labelSelector: "((") { type } }`: "BAD_REQUEST",
		`subscription { objects(kind: "pods", namespace: "default", after: 999) { type } }`:          "FUTURE",
		`subscription { events(after: -1) { type } }`:                                                "BAD_REQUEST",
	} {
		f := w.dial(query, nil).read()
		if !strings.Contains(string(f.Payload), `"code":"`+code+`"`) {
			t.Errorf("%s: got %s %s, want %s", query, f.Type, f.Payload, code)
		}
	}
}

// TestEventsAreForThoseWhoMaySeeThem: the events of other namespaces are left out, not refused.
func TestEventsAreForThoseWhoMaySeeThem(t *testing.T) {
	w := newWorld(t, func(c *graphql.Config) { c.Authorize = onlyNamespace("other") })
	w.tell()
	s := w.dial(`subscription { events(after: 0) { ref { id } } }`, nil)
	if got := s.next(); got != `{"events":{"ref":{"id":"pods/other/elsewhere"}}}` {
		t.Errorf("got %s", got)
	}
}

// TestDeadClients: a client that is gone, or that no longer answers, leaves nothing behind.
func TestDeadClients(t *testing.T) {
	var log *counted
	w := newWorld(t, func(c *graphql.Config) {
		c.KeepAlive = 20 * time.Millisecond
	})
	log = &counted{Log: w.log}
	config := w.config
	config.Log = log
	w.server.Config.Handler = graphql.NewHandler(config)
	w.tell()

	t.Run("gone", func(t *testing.T) {
		s := w.dial(`subscription { events(after: 0) { type } }`, nil)
		s.next()
		eventually(t, "the subscription begins", func() bool { return log.open.Load() == 1 })
		if err := s.conn.UnderlyingConn().Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the subscription ends", func() bool { return log.open.Load() == 0 })
	})
	t.Run("silent", func(t *testing.T) {
		s := w.dial(`subscription { events { type } }`, nil)
		eventually(t, "the subscription begins", func() bool { return log.open.Load() == 1 })
		_ = s // it reads nothing, and so answers no ping
		eventually(t, "the subscription ends", func() bool { return log.open.Load() == 0 })
	})
	t.Run("done", func(t *testing.T) {
		s := w.dial(`subscription { events(after: 0) { type } }`, nil)
		s.next()
		s.write(frame{Type: "complete", ID: "1"})
		eventually(t, "the subscription ends", func() bool { return log.open.Load() == 0 })
	})
	t.Run("standing still", func(t *testing.T) {
		// More than any buffer on the way holds, so that the server is stuck in the middle of writing.
		for i := range 24 {
			w.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("big-", i), Namespace: "other"}, Data: map[string]string{"a": strings.Repeat("x", 1<<20)}}, because{user: "ada"})
		}
		w.dial(`subscription { events(after: 0, filter: { kinds: ["cm"], namespace: "other" }) { objectAfter { json } } }`, nil)
		eventually(t, "the subscription begins", func() bool { return log.open.Load() == 1 })
		eventually(t, "the subscription ends", func() bool { return log.open.Load() == 0 })
	})
	t.Run("nothing is left", func(t *testing.T) {
		w.server.CloseClientConnections()
		eventually(t, "the server's goroutines end", func() bool {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			return !strings.Contains(string(stacks), "wsConnection") && !strings.Contains(string(stacks), "/graphql/resolvers.")
		})
	})
}

func TestServerSentEvents(t *testing.T) {
	w := newWorld(t)
	w.tell()
	resp := postSSE(t, w.server.URL+"/graphql", `subscription { events(after: 33) { position type } }`)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func() string {
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				return data
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return ""
	}
	if got, want := next(), `{"data":{"events":{"position":36,"type":"SecretDataChanged"}}}`; got != want {
		t.Errorf("got %s", got)
	}
	next()
	next()
	next()
	e := w.put(pod("later", "other", nil), because{user: "ada"})
	if got, want := next(), fmt.Sprintf(`{"data":{"events":{"position":%d,"type":"PodCreated"}}}`, e.Position); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
