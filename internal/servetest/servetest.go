// Package servetest is what tests of a served log share: a log in memory, a server for it, the official client, and certificates.
package servetest

import (
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/protocol"
)

// OpenLog opens an empty log in memory, which is closed when the test ends.
func OpenLog(t testing.TB) *embedded.Log {
	t.Helper()
	log, err := embedded.Open("log", embedded.Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)})
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

// Listen listens at an address of this machine.
func Listen(t testing.TB, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// Serve serves a log until stop is called, which may be more than once. Without a logger it is quiet. The caller says when it ends:
// a server that is started again in the middle of a test must not end before the clients that were there already.
func Serve(t testing.TB, listener net.Listener, log eventstore.Log, opts protocol.Options) (address string, stop func()) {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	server := protocol.NewServer(log, opts)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	return listener.Addr().String(), sync.OnceFunc(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Connect makes an official client, which is closed when the test ends.
func Connect(t testing.TB, connection string) *esdb.Client {
	t.Helper()
	config, err := esdb.ParseConnectionString(connection)
	if err != nil {
		t.Fatal(err)
	}
	config.Logger = esdb.NoopLogging()
	client, err := esdb.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}
