package esdb_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/esdb"
	"github.com/shiplog/shiplog/internal/servetest"
)

// scripted is a server's log that does what a test wants where a function is set.
type scripted struct {
	eventstore.Log
	append    func(ctx context.Context) error // before the append
	readAll   func(ctx context.Context, opts eventstore.ReadAll) iter.Seq2[eventstore.Recorded, error]
	subscribe func(ctx context.Context, opts eventstore.Subscribe) (eventstore.Subscription, error)
}

func (s *scripted) Append(ctx context.Context, stream string, expected eventstore.Expected, events ...eventstore.Proposed) (eventstore.Appended, error) {
	if s.append != nil {
		if err := s.append(ctx); err != nil {
			return eventstore.Appended{}, err
		}
	}
	return s.Log.Append(ctx, stream, expected, events...)
}

func (s *scripted) ReadAll(ctx context.Context, opts eventstore.ReadAll) iter.Seq2[eventstore.Recorded, error] {
	if s.readAll != nil {
		return s.readAll(ctx, opts)
	}
	return s.Log.ReadAll(ctx, opts)
}

func (s *scripted) Subscribe(ctx context.Context, opts eventstore.Subscribe) (eventstore.Subscription, error) {
	if s.subscribe != nil {
		return s.subscribe(ctx, opts)
	}
	return s.Log.Subscribe(ctx, opts)
}

func (s *scripted) serve(t *testing.T) *proxy {
	t.Helper()
	address, stop := serve(t, s, "127.0.0.1:0", nil)
	t.Cleanup(stop)
	return newProxy(t, address)
}

// Whatever goes wrong in the server's log is the same kind of error here. Those that may pass are tried again until time is up.
func TestKindsOfErrors(t *testing.T) {
	for _, c := range []struct {
		server error
		want   []error
		tries  bool
	}{
		{eventstore.ErrUnavailable, []error{eventstore.ErrUnavailable}, true},
		{eventstore.ErrClosed, []error{eventstore.ErrUnavailable}, true},
		{eventstore.ErrNotLeader, []error{eventstore.ErrUnavailable, eventstore.ErrNotLeader}, true},
		{eventstore.ErrTooLarge, []error{eventstore.ErrTooLarge}, false},
		{eventstore.ErrReadOnly, []error{eventstore.ErrReadOnly}, false},
		{eventstore.ErrCorrupt, []error{eventstore.ErrCorrupt}, false},
		{eventstore.ErrStreamDeleted, []error{eventstore.ErrStreamDeleted}, false},
		{&eventstore.WrongExpectedRevisionError{Stream: "s", Expected: eventstore.Any, Actual: 41}, []error{eventstore.ErrWrongExpectedRevision}, false},
	} {
		t.Run(c.server.Error(), func(t *testing.T) {
			var tries atomic.Int32
			p := (&scripted{Log: servetest.OpenLog(t), append: func(context.Context) error {
				tries.Add(1)
				return fmt.Errorf("wrapped: %w", c.server)
			}}).serve(t)
			log := connectFor(t, 500*time.Millisecond, "esdb://"+p.address()+"?tls=false")
			_, err := log.Append(t.Context(), "s", eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "A"})
			for _, want := range c.want {
				if !errors.Is(err, want) {
					t.Errorf("got %v, want one that is %q", err, want)
				}
			}
			if again := tries.Load() > 1; again != c.tries {
				t.Errorf("it was tried %d times", tries.Load())
			}
			var wrong *eventstore.WrongExpectedRevisionError
			if errors.As(err, &wrong) && wrong.Actual != 41 {
				t.Errorf("the conflict says %d, want 41", wrong.Actual)
			}
		})
	}
}

// A follower whose cluster has no leader says so, and so does the adapter when time is up.
func TestNoLeader(t *testing.T) {
	c := newCluster(t, 1)
	log := connectFor(t, 500*time.Millisecond, c.connection(""))
	c.lead(-1)
	if _, err := log.Append(t.Context(), "s", eventstore.Any, eventstore.Proposed{Type: "A"}); !errors.Is(err, eventstore.ErrNotLeader) || !isUnavailable(err) {
		t.Errorf("got %v, want %v", err, eventstore.ErrNotLeader)
	}
}

// A node that leads no more is not read from: its reads might be stale.
func TestReadsGoToTheLeader(t *testing.T) {
	c := newCluster(t, 2)
	log := connectFor(t, 30*time.Second, c.connection(""))
	for round := range 4 {
		c.lead(round % 2)
		before := c.reads[round%2].Load()
		if _, err := log.Head(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c.reads[round%2].Load() == before {
			t.Errorf("round %d: the node that leads was not asked", round)
		}
	}
}

// A connection over which nothing comes any more is replaced in time for the call that finds out.
func TestDeadConnection(t *testing.T) {
	for name, f := range map[string]fault{"stalled": stalled, "swallowed": swallowed, "one way": oneWay} {
		t.Run(name, func(t *testing.T) {
			p := (&scripted{Log: servetest.OpenLog(t)}).serve(t)
			log := connectFor(t, 4*time.Second, "esdb://"+p.address()+"?tls=false")
			p.suffer(f)
			a, err := log.Append(t.Context(), "s", eventstore.NoStream, eventstore.Proposed{ID: uuid.New(), Type: "A"})
			if err != nil || a.Revision != 0 {
				t.Errorf("got %+v, %v", a, err)
			}
			if n := p.connections(); n < 2 {
				t.Errorf("%d connections were made, want another", n)
			}
		})
	}
}

// A server that takes its time over an append, and answers other questions, is waited for.
func TestSlowDisk(t *testing.T) {
	var probes atomic.Int32
	probed := make(chan struct{}, 100)
	slow := &scripted{Log: servetest.OpenLog(t)}
	slow.append = func(ctx context.Context) error {
		for range 2 {
			select {
			case <-probed:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
	slow.readAll = func(ctx context.Context, opts eventstore.ReadAll) iter.Seq2[eventstore.Recorded, error] {
		if probes.Add(1) > 1 { // the first is that of connecting
			probed <- struct{}{}
		}
		return slow.Log.ReadAll(ctx, opts)
	}
	p := slow.serve(t)
	log := connectFor(t, 8*time.Second, "esdb://"+p.address()+"?tls=false")
	if _, err := log.Append(t.Context(), "s", eventstore.NoStream, eventstore.Proposed{ID: uuid.New(), Type: "A"}); err != nil {
		t.Errorf("got %v", err)
	}
	if n := p.connections(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
}

// A read may take longer than a call may be silent, as long as it brings something; one that brings nothing more ends.
func TestLongRead(t *testing.T) {
	log := servetest.OpenLog(t)
	for range 8 {
		if _, err := log.Append(t.Context(), "s", eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "A"}); err != nil {
			t.Fatal(err)
		}
	}
	const timeout = 2 * time.Second
	sticks := false
	slow := &scripted{Log: log}
	slow.readAll = func(ctx context.Context, opts eventstore.ReadAll) iter.Seq2[eventstore.Recorded, error] {
		return func(yield func(eventstore.Recorded, error) bool) {
			for e, err := range log.ReadAll(ctx, opts) {
				if opts.Direction == eventstore.Forwards {
					pause := time.After(timeout / 6)
					if sticks && e.Position == 5 {
						pause = nil
					}
					select {
					case <-pause:
					case <-ctx.Done():
						yield(eventstore.Recorded{}, ctx.Err())
						return
					}
				}
				if !yield(e, err) {
					return
				}
			}
		}
	}
	p := slow.serve(t)
	client := connectFor(t, timeout, "esdb://"+p.address()+"?tls=false")
	read := func() (n int, err error) {
		for _, err := range client.ReadAll(t.Context(), eventstore.ReadAll{}) {
			if err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	}
	began := time.Now()
	if n, err := read(); n != 8 || err != nil {
		t.Errorf("got %d events, %v", n, err)
	}
	if took := time.Since(began); took < timeout {
		t.Errorf("it took %s, which proves nothing", took)
	}
	sticks = true
	if n, err := read(); n > 4 || !isUnavailable(err) {
		t.Errorf("a read that stands still: got %d events, %v", n, err)
	}
}

// A subscription that its server forgot, on a connection that is sound, is noticed and made again.
func TestForgottenSubscription(t *testing.T) {
	log := servetest.OpenLog(t)
	var subscriptions atomic.Int32
	forgetful := &scripted{Log: log}
	forgetful.subscribe = func(ctx context.Context, opts eventstore.Subscribe) (eventstore.Subscription, error) {
		if subscriptions.Add(1) == 1 {
			return forgotten{}, nil
		}
		return log.Subscribe(ctx, opts)
	}
	p := forgetful.serve(t)
	client := connectFor(t, 300*time.Millisecond, "esdb://"+p.address()+"?tls=false")
	sub, err := client.Subscribe(t.Context(), eventstore.Subscribe{})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	if _, err := log.Append(t.Context(), "s", eventstore.NoStream, eventstore.Proposed{ID: uuid.New(), Type: "A"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if b, err := sub.Next(ctx); err != nil || len(b.Events) != 1 {
		t.Errorf("got %+v, %v", b, err)
	}
}

type forgotten struct{}

func (forgotten) Next(ctx context.Context) (eventstore.Batch, error) {
	<-ctx.Done()
	return eventstore.Batch{}, ctx.Err()
}
func (forgotten) Close() error { return nil }

// Deleting is repeated too when its answer is lost, and what the first time did is no error of the second.
func TestDeletionWhoseAnswerIsLost(t *testing.T) {
	for name, remove := range map[string]func(*esdb.Log, context.Context) error{
		"delete": func(l *esdb.Log, ctx context.Context) error { return l.Delete(ctx, "s", eventstore.StreamExists) },
		"delete, exact": func(l *esdb.Log, ctx context.Context) error {
			return l.Delete(ctx, "s", eventstore.Exact(0))
		},
		"tombstone": func(l *esdb.Log, ctx context.Context) error { return l.Tombstone(ctx, "s", eventstore.Exact(0)) },
	} {
		t.Run(name, func(t *testing.T) {
			log := servetest.OpenLog(t)
			if _, err := log.Append(t.Context(), "s", eventstore.NoStream, eventstore.Proposed{ID: uuid.New(), Type: "A"}); err != nil {
				t.Fatal(err)
			}
			p := (&scripted{Log: log}).serve(t)
			client := connectFor(t, 4*time.Second, "esdb://"+p.address()+"?tls=false")
			p.suffer(oneWay)
			if err := remove(client, t.Context()); err != nil {
				t.Errorf("got %v", err)
			}
		})
	}
}

// What a connection string may not say is refused with a sentence, before anything is connected.
func TestAddresses(t *testing.T) {
	for _, c := range []struct{ address, want string }{
		{"http://127.0.0.1:1", "begins with neither"},
		{"esdb://", "host"},
		{"esdb://me:hush@127.0.0.1:1?tls=false", "password"},
		{"esdb://127.0.0.1:1?tls=maybe", "tls"},
		{"esdb://127.0.0.1:1?tlsCaFlie=/ca.pem", "tlsCaFlie"},
		{"esdb://127.0.0.1:1?tlsCAFile=/there/is/none", "/there/is/none"},
		{"esdb://127.0.0.1:1?userCertFile=/there/is/none", "userKeyFile"},
		{"esdb://127.0.0.1:1?userCertFile=/there/is/none&userKeyFile=/none", "user certificate"},
		{"esdb://127.0.0.1:1,127.0.0.1:2?nodePreference=nobody", "nobody"},
		{"esdb+discover://", "host"},
		{"esdb://a:1:2", "host"},
	} {
		_, err := esdb.Open(t.Context(), c.address, esdb.Options{})
		if err == nil || errors.Is(err, eventstore.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want it to mention %q", c.address, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error tells the password: %v", c.address, err)
		}
	}
}
