package esdb_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/contract"
	"github.com/shiplog/shiplog/eventstore/esdb"
	"github.com/shiplog/shiplog/internal/servetest"
)

func isUnavailable(err error) bool { return errors.Is(err, eventstore.ErrUnavailable) }

func expiring(ctx context.Context, t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// The server goes away and comes back at the same address.
func TestServerRestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	log := servetest.OpenLog(t)
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
