package cluster

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

// fakePostgres starts at the nth time.
type fakePostgres struct {
	fails   []error
	starts  []time.Time
	stopped bool
}

func (p *fakePostgres) start(context.Context) (pgServer, error) {
	p.starts = append(p.starts, time.Now())
	if n := len(p.starts); n <= len(p.fails) {
		return nil, p.fails[n-1]
	}
	return p, nil
}

func (p *fakePostgres) DSN() string                { return "postgres:///nowhere" }
func (p *fakePostgres) Stop(context.Context) error { p.stopped = true; return nil }

var errInitdb = errors.New("running initdb: exit status 1: no room on the disk")

// A Postgres that cannot be initialised is tried again with longer and longer pauses until it can; whoever asks meanwhile is told why
// there is nothing to ask, and nobody waits for it.
func TestPostgresThatDoesNotStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		models := newReadModels(slog.New(slog.NewTextHandler(&said, nil)))
		pg := &fakePostgres{}
		for range 8 {
			pg.fails = append(pg.fails, errInitdb)
		}
		began := time.Now()
		started := make(chan bool, 1)
		go func() { started <- models.startServer(t.Context(), pg.start) }()
		synctest.Wait()

		past := fresh{models, projectiontest.NewLog()}
		for name, ask := range map[string]func() error{
			"Position":   func() error { _, err := past.Position(t.Context()); return err },
			"PositionAt": func() error { _, err := past.PositionAt(t.Context(), time.Now()); return err },
			"GetAt":      func() error { _, err := past.GetAt(t.Context(), domain.Ref{}, 0); return err },
			"ListAt":     func() error { _, err := past.ListAt(t.Context(), domain.Resource{}, "", 0); return err },
			"Events":     func() error { _, err := past.Events(t.Context(), projections.EventQuery{}); return err },
			"Event":      func() error { _, err := past.Event(t.Context(), 0, "x"); return err },
		} {
			err := ask()
			if !errors.Is(err, projections.ErrUnavailable) || !errors.Is(err, errInitdb) {
				t.Errorf("%s: %v, want ErrUnavailable and the reason", name, err)
				continue
			}
			for _, want := range []string{"read models are not available: running initdb", "no room on the disk", "--postgres"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %q does not say %q", name, err, want)
				}
			}
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("whoever asked waited %s although it was known that there is nothing", waited)
		}
		for _, want := range []string{"level=ERROR", "no room on the disk", "--postgres"} {
			if !strings.Contains(said.String(), want) {
				t.Errorf("the log does not say %q:\n%s", want, said.String())
			}
		}
		if !<-started {
			t.Fatal("it was given up")
		}
		var at []time.Duration
		for _, s := range pg.starts {
			at = append(at, s.Sub(began)/time.Second)
		}
		want := []time.Duration{0, 1, 3, 7, 15, 31, 61, 91, 121}
		if len(at) != len(want) {
			t.Fatalf("started after %d seconds, want %d", at, want)
		}
		for i := range want {
			if at[i] != want[i] {
				t.Fatalf("started after %d seconds, want %d", at, want)
			}
		}
		if err := models.close(t.Context()); err != nil || !pg.stopped {
			t.Errorf("closing: stopped %v, %v", pg.stopped, err)
		}
	})
}

// Tending says the same, as the end of its answer.
func TestTendingWithoutReadModels(t *testing.T) {
	models := newReadModels(slog.New(slog.DiscardHandler))
	models.change(func() { models.why = errInitdb })
	cp := &controlPlane{models: models, log: projectiontest.NewLog()}
	last := cp.tendRead(t.Context(), func(Step) {}, nil)
	if !last.Failed || !strings.Contains(last.Message, "read models are not available: "+errInitdb.Error()) {
		t.Errorf("%+v", last)
	}
}

// Whoever asks while Postgres is starting waits for a while, and a stop does not wait for a start that fails.
func TestPostgresThatIsStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		models := newReadModels(slog.New(slog.DiscardHandler))
		began := time.Now()
		_, err := fresh{models, projectiontest.NewLog()}.Position(t.Context())
		if !errors.Is(err, projections.ErrUnavailable) || !errors.Is(err, errPostgresStarting) || time.Since(began) != catchUpWithin {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		ctx, stop := context.WithCancel(t.Context())
		pg := &fakePostgres{fails: []error{errInitdb, errInitdb}}
		started := make(chan bool, 1)
		go func() { started <- models.startServer(ctx, pg.start) }()
		synctest.Wait()
		stop()
		if <-started || len(pg.starts) != 1 {
			t.Errorf("started %d times after the stop", len(pg.starts))
		}
	})
}
