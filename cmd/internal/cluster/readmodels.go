package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	privatepg "github.com/shiplog/shiplog/ops/postgres"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/postgres"
)

// The pause after the first start of Postgres that failed, and how long it becomes by doubling.
const (
	minPostgresPause = time.Second
	maxPostgresPause = 30 * time.Second
)

// noModelsError says why there are no read models. It is projections.ErrUnavailable.
type noModelsError struct{ why error }

func (e *noModelsError) Error() string {
	return fmt.Sprintf("read models are not available: %v; remove the cause, or give the address of a running Postgres with --postgres "+
		"(the cluster runs on without them, and they come by themselves when Postgres starts)", e.why)
}

func (e *noModelsError) Unwrap() []error { return []error{projections.ErrUnavailable, e.why} }

var errPostgresStarting = errors.New("no Postgres has started yet, the log of the cluster says what it does")

// pgServer is a Postgres of the cluster's own.
type pgServer interface {
	DSN() string
	Stop(ctx context.Context) error
}

// readModels are the read models of a running cluster. There are none until Postgres has started once: who asks for them is told why.
type readModels struct {
	log *slog.Logger

	mu     sync.Mutex
	server pgServer         // nil: somebody else's, or it has not started
	models *postgres.Models // nil: there are none yet
	why    error            // why the last start failed, when there are none
	told   chan struct{}    // closed when one of these changes
}

func newReadModels(log *slog.Logger) *readModels {
	return &readModels{log: log, told: make(chan struct{})}
}

func (r *readModels) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.told)
	r.told = make(chan struct{})
}

// get returns the models. It waits for a Postgres that is starting until the context ends; when a start has failed it says so at once.
func (r *readModels) get(ctx context.Context) (*postgres.Models, error) {
	for {
		r.mu.Lock()
		models, why, told := r.models, r.why, r.told
		r.mu.Unlock()
		switch {
		case models != nil:
			return models, nil
		case why != nil:
			return nil, &noModelsError{why}
		}
		select {
		case <-told:
		case <-ctx.Done():
			return nil, &noModelsError{errPostgresStarting}
		}
	}
}

// use sets the models.
func (r *readModels) use(models *postgres.Models) {
	r.change(func() { r.models, r.why = models, nil })
}

// startServer starts Postgres until it runs, which may be never: everything else runs on meanwhile. It returns false when the context has
// ended before.
func (r *readModels) startServer(ctx context.Context, start func(context.Context) (pgServer, error)) bool {
	for pause := minPostgresPause; ; pause = min(2*pause, maxPostgresPause) {
		server, err := start(ctx)
		if err == nil {
			r.change(func() { r.server = server })
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		r.change(func() { r.why = err })
		r.log.Error("Postgres does not start, so there are no read models: remove the cause, or start the cluster with --postgres and the "+
			"address of a running one; the cluster runs on without them, and Postgres is tried again", "error", err, "wait", pause)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// close ends what was started. Whoever used it has ended.
func (r *readModels) close(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.models != nil {
		r.models.Close()
	}
	if r.server != nil {
		return r.server.Stop(ctx)
	}
	return nil
}

// openModels prepares the read models and returns what keeps them: it starts the private Postgres, unless a DSN was given, and runs them
// on it. The cluster does not wait for that, and does without while Postgres does not start: who asks for the past waits until they have
// caught up, or is told why there are none.
func (cp *controlPlane) openModels(ctx, running context.Context) (keep func() error, err error) {
	cp.models = newReadModels(cp.logger)
	cp.closeLater(cp.models.close)
	open := func(dsn string) (*postgres.Models, error) {
		models, err := postgres.Open(ctx, postgres.Config{DSN: dsn, Log: cp.log, Kinds: cp.kinds, Logger: cp.logger})
		if err != nil {
			return nil, fmt.Errorf("opening the read models: %w", err)
		}
		cp.models.use(models)
		return models, nil
	}
	if cp.Postgres != "" {
		models, err := open(cp.Postgres)
		if err != nil {
			return nil, err
		}
		return func() error { return models.Run(running) }, nil
	}
	return func() error {
		if !cp.models.startServer(running, cp.startPostgres) {
			return nil
		}
		models, err := open(cp.models.server.DSN())
		if err != nil {
			return err
		}
		return models.Run(running)
	}, nil
}

// startPostgres starts the private Postgres.
func (cp *controlPlane) startPostgres(ctx context.Context) (pgServer, error) {
	server, err := privatepg.Start(ctx, cp.dir.Join(postgresDir), privatepg.Options{Logger: cp.logger})
	if err != nil {
		return nil, err
	}
	return server, nil
}
