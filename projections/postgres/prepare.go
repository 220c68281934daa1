package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
)

//go:embed migrations
var migrations embed.FS

// buildLock is the key of the advisory lock that a process holds while it makes or replaces schemas.
const buildLock = 0x73686970

// prepare makes everything be there: the database, what its schemas share, and the schema of this version, built from the log if
// it is missing or is not what it should be.
func (m *Models) prepare(ctx context.Context) error {
	if err := m.ensureDatabase(ctx); err != nil {
		return err
	}
	identity, err := m.logIdentity(ctx)
	if err != nil {
		return err
	}
	conn, release, err := m.lockBuilds(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := m.migrate(ctx, conn); err != nil {
		return err
	}
	if err := claim(ctx, conn, identity); err != nil {
		return err
	}
	why, err := m.unusable(ctx, conn)
	if m.suspect && why == "" {
		why = "rows are not what the log says"
	}
	if err != nil || why == "" {
		return err
	}
	return m.buildAll(ctx, conn, why)
}

// lockBuilds keeps others from building until release is called, and returns the connection that does.
func (m *Models) lockBuilds(ctx context.Context) (conn *pgxpool.Conn, release func(), err error) {
	if conn, err = m.pool.Acquire(ctx); err != nil {
		return nil, nil, fmt.Errorf("connecting to Postgres: %w", err)
	}
	if _, err = conn.Exec(ctx, "SELECT pg_advisory_lock($1)", buildLock); err != nil {
		conn.Release()
		return nil, nil, fmt.Errorf("waiting for others who build: %w", err)
	}
	return conn, func() {
		// A connection that cannot give the lock back is closed, which gives it back too.
		if _, err := conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", buildLock); err != nil {
			_ = conn.Conn().Close(context.WithoutCancel(ctx)) // it is broken anyway
		}
		conn.Release()
	}, nil
}

// ensureDatabase makes the database if the server is there and the database is not.
func (m *Models) ensureDatabase(ctx context.Context) error {
	err := m.pool.Ping(ctx)
	var pg *pgconn.PgError
	if err == nil {
		return nil
	}
	if !errors.As(err, &pg) || pg.Code != "3D000" {
		return fmt.Errorf("connecting to Postgres: %w", err)
	}
	cfg := m.pool.Config().ConnConfig.Copy()
	name := cfg.Database
	var last error
	for _, maintenance := range []string{"postgres", "template1"} {
		cfg.Database = maintenance
		conn, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			last = err
			continue
		}
		_, last = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
		if closeErr := conn.Close(ctx); last == nil {
			last = closeErr
		}
		break
	}
	if last != nil && !(errors.As(last, &pg) && pg.Code == "42P04") { // somebody else has made it
		return fmt.Errorf("making the database %s: %w", name, last)
	}
	m.log.Info("made the database of the read models", "database", name)
	return nil
}

func (m *Models) logIdentity(ctx context.Context) (string, error) {
	m.identityOnce.Lock()
	defer m.identityOnce.Unlock()
	if m.identity == "" {
		id, err := projections.LogIdentity(ctx, m.cfg.Log)
		if err != nil {
			return "", err
		}
		m.identity = id
	}
	return m.identity, nil
}

// migrate brings what the schemas share up to date.
func (m *Models) migrate(ctx context.Context, conn *pgxpool.Conn) error {
	if _, err := conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS shiplog"); err != nil {
		return fmt.Errorf("making the shared schema: %w", err)
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("migrating the shared schema: %w", err)
	}
	db := stdlib.OpenDBFromPool(m.pool)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, dir, goose.WithTableName("shiplog.migrations"), goose.WithDisableGlobalRegistry(true), goose.WithSlog(m.log))
	if err != nil {
		return fmt.Errorf("migrating the shared schema: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrating the shared schema: %w", err)
	}
	return nil
}

// claim makes the database this log's, if it is nobody's.
func claim(ctx context.Context, conn *pgxpool.Conn, identity string) error {
	if _, err := conn.Exec(ctx, "INSERT INTO shiplog.log (identity) VALUES ($1) ON CONFLICT DO NOTHING", identity); err != nil {
		return fmt.Errorf("claiming the database: %w", err)
	}
	var owner string
	if err := conn.QueryRow(ctx, "SELECT identity FROM shiplog.log").Scan(&owner); err != nil {
		return fmt.Errorf("claiming the database: %w", err)
	}
	if owner != identity {
		return fmt.Errorf("%w (it was built from log %s, this is log %s)", ErrForeign, owner, identity)
	}
	return nil
}

// unusable says why the schema of this version cannot be gone on with; "" when it can.
func (m *Models) unusable(ctx context.Context, q querier) (string, error) {
	var missing []string
	for _, t := range append(m.views.tables(), &table{name: "checkpoint", columns: columnsOf("one boolean, position bigint, event_position bigint, event uuid, at timestamptz")}) {
		var columns int
		var keyed bool
		names := make([]string, len(t.columns))
		for i, c := range t.columns {
			names[i] = c.name
		}
		err := q.QueryRow(ctx, `SELECT count(*) FILTER (WHERE a.attname = ANY ($3)), EXISTS (
				SELECT FROM pg_constraint k JOIN pg_class kc ON kc.oid = k.conrelid JOIN pg_namespace kn ON kn.oid = kc.relnamespace
				WHERE kn.nspname = $1 AND kc.relname = $2 AND k.contype = 'p')
			FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped`, schemaLive, t.name, names).Scan(&columns, &keyed)
		if err != nil {
			return "", fmt.Errorf("looking at the tables: %w", err)
		}
		if columns != len(t.columns) || !keyed {
			missing = append(missing, t.name)
		}
	}
	if len(missing) > 0 {
		return "missing or changed: " + strings.Join(missing, ", "), nil
	}
	var at, eventAt int64
	var event uuid.UUID
	err := q.QueryRow(ctx, "SELECT position, event_position, event FROM "+schemaLive+".checkpoint").Scan(&at, &eventAt, &event)
	if errors.Is(err, pgx.ErrNoRows) {
		return "there is no checkpoint", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the checkpoint: %w", err)
	}
	head, err := m.cfg.Log.Head(ctx)
	if err != nil {
		return "", fmt.Errorf("reading the log's head: %w", err)
	}
	if uint64(at) > uint64(head) {
		return fmt.Sprintf("they are at position %d, the log ends at %d: it was restored from a backup", at, head), nil
	}
	if eventAt == 0 {
		return "", nil
	}
	for r, err := range m.cfg.Log.ReadAll(ctx, eventstore.ReadAll{From: eventstore.Position(eventAt), Limit: 1}) {
		if err != nil {
			return "", fmt.Errorf("reading the log at the checkpoint: %w", err)
		}
		if r.Position == eventstore.Position(eventAt) && r.ID != event {
			return fmt.Sprintf("at position %d the log has another event: it was restored from a backup, and went on", eventAt), nil
		}
	}
	return "", nil
}

// querier is what a pool, a connection and a transaction have in common.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// buildAll builds the schema beside whatever is there and puts it in its place.
func (m *Models) buildAll(ctx context.Context, conn *pgxpool.Conn, why string) error {
	m.setState(Building, nil)
	defer m.clearProgress()
	m.log.Info("building the read models from the log", "why", why)
	b := newBuilder(m.pool, m.cfg.Log, m.cfg.Kinds, schemaNew, m.views, m.setProgress)
	if _, err := b.build(ctx); err != nil {
		return err
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, s := range []string{"DROP SCHEMA IF EXISTS " + schemaLive + " CASCADE", "ALTER SCHEMA " + schemaNew + " RENAME TO " + schemaLive} {
			if _, err := tx.Exec(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
		return dropOlder(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("putting the new read models in place: %w", err)
	}
	return nil
}

// dropOlder removes the schemas of versions before this one, which has taken their place.
func dropOlder(ctx context.Context, tx pgx.Tx) error {
	found, err := tx.Query(ctx, `SELECT nspname FROM pg_namespace WHERE nspname ~ '^views_v[0-9]+(_new|_check)?$' AND substring(nspname FROM '^views_v([0-9]+)')::integer < $1`, Version)
	if err != nil {
		return fmt.Errorf("looking for older read models: %w", err)
	}
	older, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("looking for older read models: %w", err)
	}
	for _, s := range older {
		if _, err := tx.Exec(ctx, "DROP SCHEMA "+pgx.Identifier{s}.Sanitize()+" CASCADE"); err != nil {
			return fmt.Errorf("removing older read models: %w", err)
		}
	}
	return nil
}
