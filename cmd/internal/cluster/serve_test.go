package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/protocol/users"
	"github.com/shiplog/shiplog/internal/servetest"
	"github.com/shiplog/shiplog/ops/datadir"
	"github.com/shiplog/shiplog/ops/pki"
)

func certificates(t *testing.T) *pki.PKI {
	t.Helper()
	p, err := pki.Ensure(pki.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func write(ctx context.Context, c *esdb.Client, stream string) esdb.ErrorCode {
	_, err := c.AppendToStream(ctx, stream, esdb.AppendToStreamOptions{}, esdb.EventData{EventID: uuid.New(), EventType: "T"})
	var known *esdb.Error
	if errors.As(err, &known) {
		return known.Code()
	}
	if err != nil {
		return esdb.ErrorCodeUnknown
	}
	return -1
}

func TestStoreThatCannotBeServed(t *testing.T) {
	for name, c := range map[string]struct {
		store Store
		want  string
	}{
		"no directory":           {Store{Listen: ":0", Insecure: true}, "--dir"},
		"neither":                {Store{Dir: "d", Listen: ":0"}, "--insecure"},
		"both":                   {Store{Dir: "d", Listen: ":0", Insecure: true, Cert: "c"}, "exclude"},
		"no key":                 {Store{Dir: "d", Listen: ":0", Cert: "c"}, "--key"},
		"passwords in the clear": {Store{Dir: "d", Listen: ":0", Insecure: true, Users: "u"}, "--users needs TLS"},
		"no port":                {Store{Dir: "d", Listen: "localhost", Insecure: true}, "--listen"},
		"metrics without a port": {Store{Dir: "d", Listen: ":0", Metrics: "x", Insecure: true}, "--metrics"},
	} {
		if err := c.store.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s in it", name, err, c.want)
		}
	}
	p := certificates(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	good := Store{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", Cert: p.Path(pki.ServerCert), Key: p.Path(pki.ServerKey), Logger: slog.New(slog.DiscardHandler),
	}
	for name, c := range map[string]struct {
		change func(*Store)
		want   string
	}{
		"a port in use":         {func(s *Store) { s.Listen = taken.Addr().String() }, "already in use"},
		"no certificate":        {func(s *Store) { s.Cert = "/nowhere" }, "reading the certificate"},
		"no authority":          {func(s *Store) { s.CA = p.Path(pki.ServerKey) }, "holds no certificate"},
		"no users":              {func(s *Store) { s.Users = "/nowhere" }, "reading the users"},
		"a port of metrics too": {func(s *Store) { s.Metrics = taken.Addr().String() }, "--metrics"},
	} {
		s := good
		c.change(&s)
		err := s.Serve(t.Context(), func(string) { t.Errorf("%s: ready", name) })
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s in it", name, err, c.want)
		}
	}
}

// A log by itself, with TLS, users and metrics, that stops although somebody is subscribed.
func TestStoreIsServed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := certificates(t)
	file := filepath.Join(t.TempDir(), "users")
	for _, name := range []string{"admin", "ann"} {
		line, err := users.Line(name, name, nil, bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		if err := users.Put(file, line); err != nil {
			t.Fatal(err)
		}
	}
	metrics, err := net.Listen("tcp", "127.0.0.1:0") // to find a free port
	if err != nil {
		t.Fatal(err)
	}
	metrics.Close()
	s := Store{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", Cert: p.Path(pki.ServerCert), Key: p.Path(pki.ServerKey), Users: file,
		Metrics: metrics.Addr().String(), Logger: slog.New(slog.DiscardHandler),
	}
	serving, stop := context.WithCancel(ctx)
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() { done <- s.Serve(serving, func(address string) { ready <- address }) }()
	var address string
	select {
	case address = <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	connection := func(user string) string {
		return fmt.Sprintf("esdb://%s@%s?tlsCAFile=%s&maxDiscoverAttempts=1", user, address, p.Path(pki.CACert))
	}
	for user, want := range map[string]esdb.ErrorCode{"admin:admin": -1, "ann:ann": esdb.ErrorCodeAccessDenied, "ann:x": esdb.ErrorCodeUnauthenticated} {
		if got := write(ctx, servetest.Connect(t, connection(user)), "$s"); got != want {
			t.Errorf("%s: got %d, want %d", user, got, want)
		}
	}
	sub, err := servetest.Connect(t, connection("admin:admin")).SubscribeToAll(ctx, esdb.SubscribeToAllOptions{From: esdb.Start{}})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	for path, want := range map[string]string{"/metrics": "shiplog_eventstore_calls_total", "/health/live": ""} {
		resp, err := http.Get("http://" + s.Metrics + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode > 299 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s %s %v", path, resp.Status, body, err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("stopping: %v", err)
	}
	for {
		if e := sub.Recv(); e.SubscriptionDropped != nil {
			if !strings.Contains(e.SubscriptionDropped.Error.Error(), "shutting down") {
				t.Errorf("the subscription ended with %v", e.SubscriptionDropped.Error)
			}
			break
		}
	}
}

// A cluster's log is read by those who have the password, and written to where that was asked for.
func TestClusterServesItsLog(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	quiet := slog.New(slog.DiscardHandler)
	dir, err := datadir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	log, err := embedded.Open(dir.Join(logDir), embedded.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if _, err := log.Append(ctx, "pods-default/web", eventstore.Any, eventstore.Proposed{Type: "PodCreated"}); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") // to find a free port
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	cp := &controlPlane{Config: Config{StoreListen: listener.Addr().String(), StoreWrite: []string{"app-"}}, dir: dir, pki: certificates(t), log: log, logger: quiet}
	var before string
	for _, when := range []string{"at first", "after a restart"} {
		running, stop := context.WithCancel(ctx)
		var group errgroup.Group
		if err := cp.serveLog(ctx, &group, running); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{storeUsers, storeConnection} {
			if info, err := os.Stat(dir.Join(file)); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %s: %v, %v", when, file, info, err)
			}
		}
		connection, err := os.ReadFile(dir.Join(storeConnection))
		if err != nil {
			t.Fatal(err)
		}
		if before != "" && before != string(connection) {
			t.Error("the password changed")
		}
		before = string(connection)
		c := servetest.Connect(t, strings.TrimSpace(before))
		read, err := c.ReadAll(ctx, esdb.ReadAllOptions{From: esdb.Start{}}, 1)
		if err != nil {
			t.Fatal(err)
		}
		e, err := read.Recv()
		if err != nil || e.OriginalEvent().StreamID != "pods-default/web" {
			t.Errorf("%s: read %v, %v", when, e, err)
		}
		for stream, want := range map[string]esdb.ErrorCode{"pods-default/web": esdb.ErrorCodeAccessDenied, "$$pods-default/web": esdb.ErrorCodeAccessDenied, "app-1": -1} {
			if got := write(ctx, c, stream); got != want {
				t.Errorf("%s: writing to %s got %d, want %d", when, stream, got, want)
			}
		}
		nobody := servetest.Connect(t, fmt.Sprintf("esdb://%s?tlsCAFile=%s&maxDiscoverAttempts=1", cp.StoreListen, cp.pki.Path(pki.CACert)))
		if got := write(ctx, nobody, "app-1"); got != esdb.ErrorCodeUnauthenticated {
			t.Errorf("%s: nobody got %d", when, got)
		}
		stop()
		if err := group.Wait(); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

func TestConfigOfServedLog(t *testing.T) {
	for name, c := range map[string]Config{
		"in another event store": {StoreListen: ":2113", EventStore: "esdb://h:2113"},
		"nothing is served":      {StoreWrite: []string{"app-"}},
		"no port":                {StoreListen: "here"},
	} {
		c.Listen = "127.0.0.1:0"
		c.PodCIDR, _ = ParsePrefix("pod-cidr", "10.244.0.0/16", 8, 24)
		c.ServiceCIDR, _ = ParsePrefix("service-cidr", "10.96.0.0/16", 12, 24)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), "--eventstore-") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
