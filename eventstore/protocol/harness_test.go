package protocol_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"golang.org/x/crypto/bcrypt"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/protocol"
	"github.com/shiplog/shiplog/eventstore/protocol/users"
	"github.com/shiplog/shiplog/internal/servetest"
)

// serve returns a log and the address at which it is served, open to everybody and without TLS.
func serve(t *testing.T) (eventstore.Log, string) {
	t.Helper()
	log := servetest.OpenLog(t)
	address, _ := start(t, log, protocol.Options{})
	return log, address
}

// start serves a log until the test ends or stop is called.
func start(t *testing.T, log eventstore.Log, opts protocol.Options) (address string, stop func()) {
	t.Helper()
	return startAt(t, servetest.Listen(t, "127.0.0.1:0"), log, opts)
}

func startAt(t *testing.T, listener net.Listener, log eventstore.Log, opts protocol.Options) (address string, stop func()) {
	t.Helper()
	address, stop = servetest.Serve(t, listener, log, opts)
	t.Cleanup(stop)
	return address, stop
}

// received is what a read brings, as show tells each event.
func received[T any](t *testing.T, read *esdb.ReadStream, show func(*esdb.ResolvedEvent) T) []T {
	t.Helper()
	defer read.Close()
	out := []T{}
	for {
		e, err := read.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, show(e))
	}
}

func number(e *esdb.ResolvedEvent) uint64 { return e.OriginalEvent().EventNumber }

func position(e *esdb.ResolvedEvent) uint64 { return e.OriginalEvent().Position.Commit }

func official(t *testing.T, address string) *esdb.Client {
	t.Helper()
	return servetest.Connect(t, "esdb://"+address+"?tls=false")
}

// account is a user of a secured server. Passwords are the names.
func account(t *testing.T, name string, groups ...string) string {
	t.Helper()
	line, err := users.Line(name, name, groups, bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// secured is a server with TLS and users.
type secured struct {
	log     eventstore.Log
	address string
	ca      *servetest.Authority
}

// serveSecured serves a log with TLS to admin, ops, ann and bob, who is a writer.
func serveSecured(t *testing.T, change func(*protocol.Options)) *secured {
	t.Helper()
	set, err := users.Parse(strings.NewReader(strings.Join([]string{
		account(t, "admin"), account(t, "ops"), account(t, "ann"), account(t, "bob", "writers"),
	}, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	s := &secured{log: servetest.OpenLog(t), ca: servetest.NewAuthority(t)}
	opts := protocol.Options{TLS: s.ca.Server(t), Users: func() *users.Set { return set }}
	if change != nil {
		change(&opts)
	}
	s.address, _ = start(t, s.log, opts)
	return s
}

// client connects as a user; "" is nobody.
func (s *secured) client(t *testing.T, user string) *esdb.Client {
	t.Helper()
	return servetest.Connect(t, s.connection(user))
}

func (s *secured) connection(user string) string {
	if user != "" {
		user += ":" + user + "@"
	}
	return fmt.Sprintf("esdb://%s%s?tlsCAFile=%s", user, s.address, s.ca.File)
}
