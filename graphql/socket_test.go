package graphql_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

// socket is a client of the graphql-transport-ws protocol.
type socket struct {
	t    *testing.T
	conn *websocket.Conn
}

type frame struct {
	Type    string          `json:"type"`
	ID      string          `json:"id,omitempty"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// dial opens a WebSocket and starts a subscription.
func (w *world) dial(query string, variables map[string]any) *socket {
	w.t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{"graphql-transport-ws"}, HandshakeTimeout: 10 * time.Second}
	conn, resp, err := dialer.Dial("ws"+strings.TrimPrefix(w.server.URL, "http")+"/graphql", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	s := &socket{t: w.t, conn: conn}
	w.t.Cleanup(func() { _ = conn.Close() })
	s.write(frame{Type: "connection_init"})
	if f := s.read(); f.Type != "connection_ack" {
		w.t.Fatalf("got %s, want connection_ack", f.Type)
	}
	payload, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		w.t.Fatal(err)
	}
	s.write(frame{Type: "subscribe", ID: "1", Payload: payload})
	return s
}

func (s *socket) write(f frame) {
	s.t.Helper()
	if err := s.conn.WriteJSON(f); err != nil {
		s.t.Fatal(err)
	}
}

// read returns the next frame that is not a ping, which it answers.
func (s *socket) read() frame {
	s.t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	for {
		var f frame
		if err := s.conn.ReadJSON(&f); err != nil {
			s.t.Fatal(err)
		}
		switch f.Type {
		case "ping":
			s.write(frame{Type: "pong"})
		case "pong":
		default:
			return f
		}
	}
}

// next returns the data of the next answer, compact.
func (s *socket) next() string {
	s.t.Helper()
	f := s.read()
	if f.Type != "next" {
		s.t.Fatalf("got %s %s, want next", f.Type, f.Payload)
	}
	var a answer
	if err := json.Unmarshal(f.Payload, &a); err != nil || len(a.Errors) > 0 {
		s.t.Fatalf("%s: %v", f.Payload, err)
	}
	return string(a.Data)
}

// counted counts the subscriptions of a log that are open.
type counted struct {
	*projectiontest.Log
	open atomic.Int64
}

func (c *counted) Subscribe(ctx context.Context, opts eventstore.Subscribe) (eventstore.Subscription, error) {
	sub, err := c.Log.Subscribe(ctx, opts)
	if err != nil {
		return nil, err
	}
	c.open.Add(1)
	return &countedSubscription{Subscription: sub, log: c}, nil
}

type countedSubscription struct {
	eventstore.Subscription
	log *counted
}

func (s *countedSubscription) Close() error {
	s.log.open.Add(-1)
	return s.Subscription.Close()
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: did not come to pass", what)
		}
	}
}

func postSSE(t *testing.T, url, query string) *http.Response {
	t.Helper()
	body, err := json.Marshal(map[string]any{"query": query})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}
