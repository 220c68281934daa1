package esdb_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/contract"
	"github.com/shiplog/shiplog/eventstore/esdb"
)

// gate is a way to the server that can be cut.
type gate struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	shut     bool
	conns    map[net.Conn]struct{}
}

func newGate(t *testing.T, target string) *gate {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{listener: listener, target: target, conns: make(map[net.Conn]struct{})}
	go g.accept()
	t.Cleanup(func() {
		_ = listener.Close()
		g.set(true)
	})
	return g
}

func (g *gate) accept() {
	for {
		conn, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		upstream, err := net.Dial("tcp", g.target)
		if g.shut || err != nil {
			_ = conn.Close()
			if err == nil {
				_ = upstream.Close()
			}
			g.mu.Unlock()
			continue
		}
		g.conns[conn], g.conns[upstream] = struct{}{}, struct{}{}
		g.mu.Unlock()
		go pipe(conn, upstream)
		go pipe(upstream, conn)
	}
}

func pipe(dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_ = dst.Close()
	_ = src.Close()
}

// set cuts all connections, and lets new ones through only if not shut.
func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	for c := range g.conns {
		_ = c.Close()
	}
	clear(g.conns)
}

// Connections break while writers write and subscribers follow: every append is answered, and makes its events once; every
// subscriber gets every event once, in order, without ever subscribing again itself.
func TestBrokenConnections(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	log := openEmbedded(t)
	address, stop := serve(t, log, "127.0.0.1:0", nil)
	t.Cleanup(stop)
	g := newGate(t, address)
	client := connect(t, "esdb://"+g.listener.Addr().String()+"?tls=false")

	var deliveries []*contract.Delivery
	var following errgroup.Group
	const end = "TheEnd"
	for _, filter := range []eventstore.Filter{{}, {System: true}, {TypePrefixes: []string{"Even", end}}, {StreamPrefixes: []string{"s-1", "s-2", "end"}}} {
		d := &contract.Delivery{Subscribed: eventstore.Subscribe{Filter: filter}}
		deliveries = append(deliveries, d)
		sub, err := client.Subscribe(ctx, d.Subscribed)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		following.Go(func() error {
			for {
				b, err := sub.Next(ctx)
				if err != nil {
					return err
				}
				d.Batches = append(d.Batches, b)
				for _, e := range b.Events {
					if e.Type == end {
						return nil
					}
				}
			}
		})
	}

	var mu sync.Mutex
	var acknowledged []contract.Acknowledged
	var writing errgroup.Group
	breaking := make(chan struct{})
	for w := range 4 {
		stream := fmt.Sprintf("s-%d", w)
		writing.Go(func() error {
			expected := eventstore.NoStream
			for i := 0; ; i++ {
				select {
				case <-breaking:
					return nil
				default:
				}
				e := eventstore.Proposed{ID: uuid.New(), Type: []string{"Even", "Odd"}[i%2]}
				result, err := client.Append(ctx, stream, expected, e)
				if err != nil {
					return err
				}
				expected = eventstore.Exact(result.Revision)
				mu.Lock()
				acknowledged = append(acknowledged, contract.Acknowledged{Stream: stream, Events: []uuid.UUID{e.ID}, Result: result})
				mu.Unlock()
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged)
	}
	for round := range 6 {
		before := count()
		waitFor(ctx, t, func() bool { return count() > before+20 })
		g.set(round%2 == 0)
		if round%2 == 0 { // for a while nobody gets through
			_, err := client.Head(expiring(ctx, t))
			if err == nil {
				t.Fatal("the gate is shut, and the server was reached")
			}
			g.set(false)
		}
	}
	before := count()
	waitFor(ctx, t, func() bool { return count() > before+20 })
	close(breaking)
	if err := writing.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Append(ctx, "end", eventstore.NoStream, eventstore.Proposed{Type: end}); err != nil {
		t.Fatal(err)
	}
	if err := following.Wait(); err != nil {
		t.Fatal(err)
	}
	var all []eventstore.Recorded
	for e, err := range log.ReadAll(ctx, eventstore.ReadAll{Filter: eventstore.Filter{System: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	if err := contract.CheckDurable(all, acknowledged, nil); err != nil {
		t.Error(err)
	}
	for _, d := range deliveries {
		if err := d.Check(all); err != nil {
			t.Errorf("subscription with %+v: %v", d.Subscribed.Filter, err)
		}
	}
}

func expiring(ctx context.Context, t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func waitFor(ctx context.Context, t *testing.T, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatal("waited in vain")
		case <-ticker.C:
		}
	}
}

// The server goes away and comes back at the same address.
func TestServerRestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	log := openEmbedded(t)
	address, stop := serve(t, log, "127.0.0.1:0", nil)
	client := connect(t, "esdb://"+address+"?tls=false")
	sub, err := client.Subscribe(ctx, eventstore.Subscribe{})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	var d contract.Delivery
	for round := range 3 {
		a, err := client.Append(ctx, "s", eventstore.Any, eventstore.Proposed{Type: "A"})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for d.Checkpoint() < a.Position {
			b, err := sub.Next(ctx)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			d.Batches = append(d.Batches, b)
		}
		stop()
		_, err = client.Append(expiring(ctx, t), "s", eventstore.Any, eventstore.Proposed{Type: "A"})
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, eventstore.ErrUnavailable) {
			t.Fatalf("round %d, without a server: got %v", round, err)
		}
		_, stop = serve(t, log, address, nil)
	}
	stop()
	if n := len(d.Events()); n < 3 {
		t.Errorf("got %d events", n)
	}
}

func TestNoServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = esdb.Open(t.Context(), "esdb://"+address+"?tls=false", esdb.Options{Timeout: 300 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	for _, bad := range []string{"http://" + address, "esdb://", "esdb://me:secret@" + address + "?tls=false"} {
		if _, err := esdb.Open(t.Context(), bad, esdb.Options{}); err == nil || errors.Is(err, eventstore.ErrUnavailable) {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}
