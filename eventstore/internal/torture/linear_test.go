package torture_test

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/esdb"
	"github.com/shiplog/shiplog/eventstore/internal/torture"
	"github.com/shiplog/shiplog/eventstore/protocol"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func openEmbedded(t testing.TB, opts embedded.Options) *embedded.Log {
	t.Helper()
	opts.FS, opts.Logger = vfs.NewMem(), quiet()
	log, err := embedded.Open("log", opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return log
}

func connect(t testing.TB, address string) *esdb.Log {
	t.Helper()
	log, err := esdb.Open(t.Context(), "esdb://"+address+"?tls=false", esdb.Options{Logger: quiet(), Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return log
}

// clients of a log in this process, or through a socket with a connection each.
func connections(t testing.TB, log eventstore.Log, n int) []eventstore.Log {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := protocol.NewServer(log, protocol.Options{Logger: quiet()})
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	out := make([]eventstore.Log, n)
	for i := range out {
		out[i] = connect(t, listener.Addr().String())
	}
	return out
}

const clients = 6

func hammer(t testing.TB, seed uint64, operations int, logs []eventstore.Log) error {
	t.Helper()
	r := torture.NewRecorder()
	load := torture.Clients{Seed: seed, Clients: clients, Operations: operations, Streams: []string{"a", "b", "c"}}
	load.Run(r, nil, func(client int, op torture.Op) torture.Result {
		result := torture.Do(t.Context(), logs[client%len(logs)], op)
		if result.Outcome == torture.Unknown {
			t.Errorf("%s: %v", op, result.Err)
		}
		return result
	})
	if want := clients * operations; r.Len() != want && !t.Failed() {
		return fmt.Errorf("%d operations are in the history, want %d", r.Len(), want)
	}
	return r.Check()
}

// What concurrent clients in one process are told is what some order of their calls explains.
func TestLinearizable(t *testing.T) {
	for seed := range uint64(12) {
		opts := embedded.Options{ScavengeEvery: -1, TailEvents: []int{1, 1000}[seed%2], CachedStreams: []int{1, 1000}[seed/2%2]}
		if err := hammer(t, seed, 200, []eventstore.Log{openEmbedded(t, opts)}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// The same while the scavenger runs.
func TestLinearizableWhileScavenging(t *testing.T) {
	for seed := range uint64(6) {
		log := openEmbedded(t, embedded.Options{ScavengeEvery: -1, TailEvents: 4, CachedStreams: 2, MemTableBytes: 64 << 10})
		stop := make(chan struct{})
		var scavenger sync.WaitGroup
		scavenger.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := log.Scavenge(t.Context()); err != nil {
					t.Errorf("scavenging: %v", err)
					return
				}
			}
		})
		err := hammer(t, 100+seed, 150, []eventstore.Log{log})
		close(stop)
		scavenger.Wait()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// The same through sockets, with the official client.
func TestLinearizableOverTheProtocol(t *testing.T) {
	for seed := range uint64(4) {
		log := openEmbedded(t, embedded.Options{ScavengeEvery: -1})
		if err := hammer(t, 200+seed, 100, connections(t, log, clients)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// stale is a log with a fault: a read now and then brings what an earlier one brought.
type stale struct {
	eventstore.Log
	mu    sync.Mutex
	reads int
	last  map[string][]eventstore.Recorded
}

func (s *stale) ReadStream(ctx context.Context, stream string, opts eventstore.ReadStream) iter.Seq2[eventstore.Recorded, error] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reads++; s.reads%20 == 0 && opts.Limit == 0 && len(s.last[stream]) > 0 {
		old := s.last[stream]
		return func(yield func(eventstore.Recorded, error) bool) {
			for _, e := range old {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
	return func(yield func(eventstore.Recorded, error) bool) {
		var all []eventstore.Recorded
		for e, err := range s.Log.ReadStream(ctx, stream, opts) {
			all = append(all, e)
			if !yield(e, err) {
				return
			}
		}
		if s.mu.Lock(); opts.Limit == 0 {
			s.last[stream] = all
		}
		s.mu.Unlock()
	}
}

// unchecked is a log with a fault: now and then it does not look at what a writer expects.
type unchecked struct {
	eventstore.Log
	mu      sync.Mutex
	appends int
}

func (u *unchecked) Append(ctx context.Context, stream string, expected eventstore.Expected, events ...eventstore.Proposed) (eventstore.Appended, error) {
	u.mu.Lock()
	if u.appends++; u.appends%10 == 0 {
		expected = eventstore.Any
	}
	u.mu.Unlock()
	return u.Log.Append(ctx, stream, expected, events...)
}

// hasty is a log with a fault: now and then it acknowledges what it has not done.
type hasty struct {
	eventstore.Log
	mu      sync.Mutex
	appends int
}

func (h *hasty) Append(ctx context.Context, stream string, expected eventstore.Expected, events ...eventstore.Proposed) (eventstore.Appended, error) {
	h.mu.Lock()
	h.appends++
	lie := h.appends%40 == 0 && expected >= 0
	h.mu.Unlock()
	if lie {
		return eventstore.Appended{Revision: uint64(expected) + uint64(len(events))}, nil
	}
	return h.Log.Append(ctx, stream, expected, events...)
}

// The check notices a log that does not keep what it promises.
func TestBrokenLogsAreNotLinearizable(t *testing.T) {
	for name, broken := range map[string]func(eventstore.Log) eventstore.Log{
		"a read that is behind": func(l eventstore.Log) eventstore.Log {
			return &stale{Log: l, last: make(map[string][]eventstore.Recorded)}
		},
		"an expectation that is not looked at":    func(l eventstore.Log) eventstore.Log { return &unchecked{Log: l} },
		"an acknowledgement of what was not done": func(l eventstore.Log) eventstore.Log { return &hasty{Log: l} },
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(20) {
				log := broken(openEmbedded(t, embedded.Options{ScavengeEvery: -1}))
				err := hammer(t, seed, 150, []eventstore.Log{log})
				if err != nil {
					if !strings.Contains(err.Error(), "is not linearizable") {
						t.Fatal(err)
					}
					return
				}
			}
			t.Error("20 histories went through as linearizable")
		})
	}
}

// Histories by hand: what must be explained and what cannot be.
func TestCheck(t *testing.T) {
	a, b := uuid.UUID{1}, uuid.UUID{2}
	appendOf := func(id uuid.UUID, expected eventstore.Expected) torture.Op {
		return torture.Op{Kind: torture.Append, Stream: "s", Expected: expected, IDs: []uuid.UUID{id}}
	}
	read := torture.Op{Kind: torture.Read, Stream: "s"}
	unknown := torture.Result{Outcome: torture.Unknown}
	done := func(revision int64) torture.Result { return torture.Result{Outcome: torture.Done, Revision: revision} }
	saw := func(ids ...uuid.UUID) torture.Result {
		r := torture.Result{Outcome: torture.Done, Events: []torture.Event{}}
		for i, id := range ids {
			r.Events = append(r.Events, torture.Event{ID: id, Revision: uint64(i)})
		}
		return r
	}
	type step struct {
		op     torture.Op
		result torture.Result
		settle bool
	}
	for _, c := range []struct {
		name  string
		steps []step
		ok    bool
	}{
		{"in order", []step{{op: appendOf(a, -1), result: done(0)}, {op: appendOf(b, 0), result: done(1)}, {op: read, result: saw(a, b)}}, true},
		{"an event gone", []step{{op: appendOf(a, -1), result: done(0)}, {op: appendOf(b, 0), result: done(1)}, {op: read, result: saw(a)}}, false},
		{"a revision given twice", []step{{op: appendOf(a, -1), result: done(0)}, {op: appendOf(b, -1), result: done(0)}}, false},
		{"unknown, and it happened", []step{{op: appendOf(a, -1), result: unknown}, {op: read, result: saw(a)}}, true},
		{"unknown, and it did not", []step{{op: appendOf(a, -1), result: unknown}, {op: read, result: torture.Result{Outcome: torture.NotFound}}}, true},
		{"unknown, and it happened later", []step{
			{op: appendOf(a, -1), result: unknown}, {op: read, result: torture.Result{Outcome: torture.NotFound}}, {op: read, result: saw(a)},
		}, true},
		{"settled, and it happened later", []step{
			{op: appendOf(a, -1), result: unknown, settle: true}, {op: read, result: torture.Result{Outcome: torture.NotFound}}, {op: read, result: saw(a)},
		}, false},
		{"seen and gone", []step{{op: appendOf(a, -1), result: unknown, settle: true}, {op: read, result: saw(a)}, {op: read, result: torture.Result{Outcome: torture.NotFound}}}, false},
		{"a repetition", []step{{op: appendOf(a, -1), result: done(0)}, {op: appendOf(a, -1), result: done(0)}, {op: read, result: saw(a)}}, true},
		{"a repetition that was not noticed", []step{{op: appendOf(a, eventstore.Any), result: done(0)}, {op: appendOf(a, eventstore.Any), result: done(1)}}, false},
		{"a conflict with the wrong actual revision", []step{
			{op: appendOf(a, -1), result: done(0)}, {op: appendOf(b, 7), result: torture.Result{Outcome: torture.Conflict, Actual: 3}},
		}, false},
		{"an append to a tombstoned stream", []step{
			{op: torture.Op{Kind: torture.Tombstone, Stream: "s", Expected: eventstore.Any}, result: done(0)}, {op: appendOf(a, eventstore.Any), result: done(0)},
		}, false},
		{"metadata that does not count", []step{
			{op: appendOf(a, -1), result: done(0)},
			{op: appendOf(b, 0), result: done(1)},
			{op: torture.Op{Kind: torture.SetMetadata, Stream: "s", Expected: eventstore.Any, Keep: torture.Retention{MaxCount: 1}}, result: done(0)},
			{op: read, result: saw(a, b)},
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := torture.NewRecorder()
			for _, s := range c.steps {
				r.Record(0, s.op, func() torture.Result { return s.result })
				if s.settle {
					r.Settle()
				}
			}
			if err := r.Check(); (err == nil) != c.ok {
				t.Errorf("got %v, want it to be linearizable: %v", err, c.ok)
			}
		})
	}
}
