package postgres_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/shiplog/shiplog/domain"
	private "github.com/shiplog/shiplog/ops/postgres"
	"github.com/shiplog/shiplog/projections/postgres"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

// server is one Postgres for all tests; each test has databases of its own.
type server struct {
	*private.Server
	databases atomic.Int64
}

var shared server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "shiplog-models-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := private.Start(ctx, filepath.Join(dir, "postgres"), private.Options{Settings: map[string]string{"fsync": "off", "max_connections": "60"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, "the read models are tested with a real Postgres:", err)
		return 1
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	shared.Server = s
	return m.Run()
}

// dsn is the address of a database of a server.
func dsn(s *private.Server, database string) string {
	u, err := url.Parse(s.DSN())
	if err != nil {
		panic(err) // the server's own address
	}
	u.Path = "/" + database
	return u.String()
}

func newDatabase() string { return fmt.Sprintf("test%d", shared.databases.Add(1)) }

type world struct {
	t      testing.TB
	ctx    context.Context
	kinds  *domain.Set
	log    *projectiontest.Log
	scribe *projectiontest.Scribe
	dsn    string
	models *postgres.Models
	stop   func()
}

func newWorld(t testing.TB) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, kinds: domain.NewSet(domain.Kinds()), log: projectiontest.NewLog(), dsn: dsn(shared.Server, newDatabase())}
	w.scribe = projectiontest.NewScribe(w.log, w.kinds)
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// start runs models until the test ends or stop is called.
func (w *world) start() *world {
	w.t.Helper()
	w.models, w.stop = follow(w.t, w.ctx, postgres.Config{DSN: w.dsn, Log: w.log, Kinds: w.kinds, Linger: -1})
	return w
}

func follow(t testing.TB, ctx context.Context, cfg postgres.Config) (*postgres.Models, func()) {
	t.Helper()
	m, err := postgres.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		m.Close()
	}
	t.Cleanup(stop)
	return m, stop
}

func (w *world) head() uint64 {
	w.t.Helper()
	head, err := w.log.Head(w.ctx)
	w.check(err)
	return uint64(head)
}

func (w *world) caughtUp() {
	w.t.Helper()
	w.check(w.models.WaitFor(w.ctx, w.head()))
}

func (w *world) connect() *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(w.ctx, w.dsn)
	w.check(err)
	w.t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the server may be gone by now
	return conn
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	conn, err := pgx.Connect(w.ctx, w.dsn)
	w.check(err)
	_, err = conn.Exec(w.ctx, sql, args...)
	w.check(err)
	w.check(conn.Close(w.ctx))
}

// verified checks that what is served is what the log says.
func (w *world) verified() {
	w.t.Helper()
	v, err := w.models.Verify(w.ctx, nil)
	w.check(err)
	for _, c := range v.Models {
		if !c.Equal {
			w.t.Errorf("%s is not what the log says: %d rows served, %d rebuilt\nserved only: %s\nrebuilt only: %s", c.Table, c.Rows, c.RebuiltRows, c.ServedRow, c.LogRow)
		}
	}
	if v.Position != w.head() {
		w.t.Errorf("verified at position %d, the log is at %d", v.Position, w.head())
	}
}
