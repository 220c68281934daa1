package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/engine"
)

// ErrForeign says that a database holds the read models of another cluster.
var ErrForeign = errors.New("the database holds the read models of another cluster: give each cluster a database of its own")

// Config of the models.
type Config struct {
	DSN    string // of any Postgres from 13 on; the database is made if it is not there and the user may
	Log    eventstore.Log
	Kinds  *domain.Set
	Logger *slog.Logger // default: nowhere
	// Linger is how long rows may lag behind when there is little to do, so that a trickle of events does not cost a transaction
	// each. What somebody waits for (WaitFor) does not linger. Default: 300 ms; negative: not at all.
	Linger time.Duration
	// MaxConns bounds the connections. Default: 6.
	MaxConns int32
	// Metrics, when set, gets how long batches take.
	Metrics prometheus.Registerer
}

// State of a model.
type State string

// The states of a model.
const (
	Starting    State = "starting"
	Building    State = "building"    // it is being built from the log's beginning and cannot answer
	Following   State = "following"   // it is up to date or becomes so
	Unavailable State = "unavailable" // Postgres is away; tried again until it is back
	Stopped     State = "stopped"     // something has to be done by somebody: see the error
)

// Status of a model.
type Status struct {
	Name     string
	Version  int
	State    State
	Position uint64
	Lag      uint64 // positions between that and the log's head
	Progress string // what is being built, if anything
	Error    string
	Since    time.Time // of the state
}

// Models are the read models in one database. They implement projections.History.
type Models struct {
	cfg   Config
	pool  *pgxpool.Pool
	views *views
	log   *slog.Logger

	identityOnce sync.Mutex
	identity     string

	mu       sync.Mutex
	state    State
	since    time.Time
	err      error
	position uint64
	moved    chan struct{} // closed when the position or the state changes
	progress map[string]Progress
	rebuild  sync.Mutex // one Rebuild or Verify at a time
	runner   *engine.Runner[pgx.Tx]
	urgent   uint64 // the last position that somebody waited for
	suspect  bool   // the rows are not what they should be; Run's alone
}

// Open prepares the models of a log. It returns at once, whether Postgres is there or not; only a DSN that cannot be read is an
// error. Run keeps the models up to date.
func Open(_ context.Context, cfg Config) (*Models, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Linger == 0 {
		cfg.Linger = 300 * time.Millisecond
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = 6
	}
	pc, err := pgxpool.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("reading the address of Postgres: %w", err)
	}
	pc.MaxConns, pc.MinConns = cfg.MaxConns, 0
	pc.MaxConnIdleTime = 5 * time.Minute
	pc.HealthCheckPeriod = 5 * time.Minute // broken connections are found out when they are used
	if pc.ConnConfig.ConnectTimeout == 0 {
		pc.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	pc.ConnConfig.RuntimeParams["application_name"] = "shiplog"
	pc.ConnConfig.RuntimeParams["timezone"] = "UTC"
	pc.ConnConfig.RuntimeParams["synchronous_commit"] = "off" // see package ops/postgres: what is lost is read again
	// The pool makes connections when they are needed: none now.
	pool, err := pgxpool.NewWithConfig(context.Background(), pc)
	if err != nil {
		return nil, fmt.Errorf("preparing connections to Postgres: %w", err)
	}
	return &Models{
		cfg: cfg, pool: pool, views: newViews(), log: cfg.Logger, state: Starting, since: time.Now(),
		moved: make(chan struct{}), progress: map[string]Progress{},
	}, nil
}

// Close gives the connections back. Run must have returned.
func (m *Models) Close() { m.pool.Close() }

// Run keeps the models up to date until the context ends, which is no error. While Postgres is away it waits for it. An event that
// cannot be applied stops the models, not the cluster: they go on answering as of the position before it, and Status and the log
// say so; Run then only waits for the context. It returns an error when there is nothing to keep: ErrForeign, a log that is closed
// or cannot be read, one that only a newer build understands (domain.ErrNewer).
func (m *Models) Run(ctx context.Context) error {
	const minWait, maxWait = 100 * time.Millisecond, 5 * time.Second
	wait := minWait
	for {
		began := m.written()
		err := m.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if m.suspect = m.suspect || tampered(err); final(err) {
			m.setState(Stopped, err)
			var poison *engine.PoisonError
			if !errors.As(err, &poison) || errors.Is(err, domain.ErrNewer) {
				return fmt.Errorf("keeping the read models: %w", err)
			}
			m.log.Error("the read models have stopped at an event that cannot be applied; the cluster goes on without them", "error", err)
			<-ctx.Done()
			return nil
		}
		if m.written() != began {
			wait = minWait
		}
		m.setState(Unavailable, err)
		m.log.Warn("the read models cannot be kept up to date: trying again", "wait", wait, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, maxWait)
	}
}

// written is the position last written, or found written, by this process.
func (m *Models) written() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.position
}

// session prepares the database and follows the log until something breaks.
func (m *Models) session(ctx context.Context) error {
	if err := m.prepare(ctx); err != nil {
		return err
	}
	m.suspect = false
	w := &writer{pool: m.pool, schema: schemaLive, views: m.views, folder: newFolder(m.cfg.Kinds, false)}
	r := engine.NewRunner(engine.Config[pgx.Tx]{
		Log: m.cfg.Log, Projection: w, Store: &observed{writer: w, models: m}, Logger: m.log, Linger: max(m.cfg.Linger, 0), Metrics: m.cfg.Metrics,
		Final: func(err error) bool { return final(err) || layoutBroken(err) },
		OnRetry: func(err error) {
			if err == nil {
				m.setState(Following, nil)
				return
			}
			m.setState(Unavailable, err)
		},
	})
	m.mu.Lock()
	m.runner = r
	r.Hurry(m.urgent)
	m.mu.Unlock()
	err := r.Run(ctx)
	var poison *engine.PoisonError
	if errors.As(err, &poison) && !errors.Is(err, domain.ErrNewer) {
		// Either the log is damaged or the rows are, which somebody may have changed. Building anew tells: it reads the log alone.
		return &suspectError{poison}
	}
	return err
}

// suspectError is poison met while following, when the rows may be to blame. It does not unwrap to poison.
type suspectError struct{ poison *engine.PoisonError }

func (e *suspectError) Error() string {
	return e.poison.Error() + " to the rows there are: building them anew"
}

// tampered says of an error that the rows are not what the log says.
func tampered(err error) bool {
	var suspect *suspectError
	var pg *pgconn.PgError
	return errors.As(err, &suspect) || errors.As(err, &pg) && pg.Code == "23505" // a row is there that is still to come
}

// observed tells the models what the writer has written.
type observed struct {
	*writer
	models *Models
}

func (o *observed) Checkpoint(ctx context.Context) (eventstore.Position, error) {
	p, err := o.writer.Checkpoint(ctx)
	if err == nil {
		o.models.moveTo(uint64(p))
		o.models.setState(Following, nil)
	}
	return p, err
}

func (o *observed) Commit(ctx context.Context, from, to eventstore.Position, apply func(context.Context, pgx.Tx) error) error {
	err := o.writer.Commit(ctx, from, to, apply)
	if err == nil {
		o.models.moveTo(uint64(to))
	}
	return err
}

func (m *Models) moveTo(position uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.position = position
	m.tell()
}

// tell wakes those who wait; m.mu is held.
func (m *Models) tell() {
	close(m.moved)
	m.moved = make(chan struct{})
}

func (m *Models) setState(s State, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != s {
		m.state, m.since = s, time.Now()
	}
	m.err = err
	m.tell()
}

// WaitFor blocks until the models reflect a position. It returns ErrUnavailable when they have stopped.
func (m *Models) WaitFor(ctx context.Context, position uint64) error {
	for {
		m.mu.Lock()
		if m.urgent = max(m.urgent, position); m.runner != nil {
			m.runner.Hurry(m.urgent)
		}
		at, state, err, moved := m.position, m.state, m.err, m.moved
		m.mu.Unlock()
		switch {
		case state == Following && at >= position:
			return nil
		case state == Stopped:
			return fmt.Errorf("waiting until the read models reach position %d: %w: %w", position, projections.ErrUnavailable, err)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("waiting until the read models (%s, at position %d) reach position %d: %w", state, at, position, ctx.Err())
		}
	}
}

// Status tells how each model is.
func (m *Models) Status(ctx context.Context) []Status {
	head, err := m.cfg.Log.Head(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Status
	for _, model := range m.views.models {
		s := Status{Name: model.name, Version: Version, State: m.state, Position: m.position, Since: m.since}
		if err == nil && uint64(head) > m.position {
			s.Lag = uint64(head) - m.position
		}
		if m.err != nil {
			s.Error = m.err.Error()
		}
		if p, ok := m.progress[model.name]; ok {
			s.Progress = fmt.Sprintf("%s, position %d of %d", p.Step, p.Position, p.Head)
		}
		out = append(out, s)
	}
	return out
}

func (m *Models) setProgress(p Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range p.Models {
		m.progress[n] = p
	}
}

func (m *Models) clearProgress() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.progress)
}

// final says of an error that waiting does not help.
func final(err error) bool {
	var poison *engine.PoisonError
	return errors.As(err, &poison) || errors.Is(err, ErrForeign) || errors.Is(err, eventstore.ErrClosed) ||
		errors.Is(err, eventstore.ErrCorrupt) || errors.Is(err, eventstore.ErrVersion) || errors.Is(err, eventstore.ErrReadOnly)
}

// layoutBroken says of an error that the tables are not what they should be: somebody dropped or changed them, or the database.
func layoutBroken(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return errors.Is(err, pgx.ErrNoRows) // the checkpoint's row is gone
	}
	switch pg.Code {
	case "3D000", "3F000", "42P01", "42703", "42704", "42P10", "23505":
		return true // no such database, schema, table, column, object, constraint; a row that should not be there
	}
	return false
}

// away says of an error that Postgres cannot be asked now.
func away(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code[:2] {
		case "08", "53", "57", "58", "3D", "3F": // connection, resources, operator's intervention, system; no database, no schema
			return true
		}
		return pg.Code == "42P01"
	}
	var connect *pgconn.ConnectError
	var netErr net.Error
	return errors.As(err, &connect) || errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, errBuilding) || pgconn.SafeToRetry(err)
}

func uidOf(s string) types.UID { return types.UID(s) }
