package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections/engine"
)

// Names are the models that Rebuild knows.
func (m *Models) Names() []string { return m.views.names() }

// Rebuild builds models anew from the log's beginning (no names: all of them) beside those that are served, and puts them in their
// place when they have caught up. Meanwhile the served ones answer and are kept up to date. progress may be nil.
func (m *Models) Rebuild(ctx context.Context, names []string, progress func(Progress)) error {
	v, ok := m.views.only(names)
	if !ok {
		return fmt.Errorf("rebuilding %s: there are the read models %s", strings.Join(names, ", "), strings.Join(m.views.names(), ", "))
	}
	err := m.beside(ctx, schemaNew, v, progress, nil, func(tx pgx.Tx, _ *builder) error {
		for _, t := range v.tables() {
			for _, s := range []string{
				fmt.Sprintf("DROP TABLE %s.%s", schemaLive, t.name), fmt.Sprintf("ALTER TABLE %s.%s SET SCHEMA %s", schemaNew, t.name, schemaLive),
			} {
				if _, err := tx.Exec(ctx, s); err != nil {
					return fmt.Errorf("%s: %w", s, err)
				}
			}
		}
		_, err := tx.Exec(ctx, "DROP SCHEMA "+schemaNew+" CASCADE")
		return err
	})
	if err != nil {
		return fmt.Errorf("rebuilding %s: %w", strings.Join(v.names(), ", "), err)
	}
	return nil
}

// beside builds models in a schema of their own and calls do in a transaction in which they and the served ones stand at the same
// position, the served ones being held there.
func (m *Models) beside(ctx context.Context, schema string, v *views, progress func(Progress), check func(eventstore.Recorded) error, do func(pgx.Tx, *builder) error) error {
	m.rebuild.Lock()
	defer m.rebuild.Unlock()
	if err := m.ensureReady(ctx); err != nil {
		return err
	}
	conn, release, err := m.lockBuilds(ctx)
	if err != nil {
		return err
	}
	defer release()
	defer m.clearProgress()
	b := newBuilder(m.pool, m.cfg.Log, m.cfg.Kinds, schema, v, func(p Progress) {
		if progress != nil {
			progress(p)
		}
		m.setProgress(p)
	})
	b.check = check
	w, err := b.build(ctx)
	if err != nil {
		return err
	}
	defer func() { // what is left of a failure
		_, _ = m.pool.Exec(context.WithoutCancel(ctx), "DROP SCHEMA IF EXISTS "+schema+" CASCADE") // else the next build removes it
	}()
	// Close in on the served models, then hold them and go the last steps.
	for range 3 {
		var served int64
		if err := conn.QueryRow(ctx, "SELECT position FROM "+schemaLive+".checkpoint").Scan(&served); err != nil {
			return fmt.Errorf("reading the checkpoint: %w", err)
		}
		if _, err := b.catchUp(ctx, w, eventstore.Position(served)); err != nil {
			return err
		}
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		served, err := lockedCheckpoint(ctx, tx, schemaLive)
		if err != nil {
			return err
		}
		at, err := lockedCheckpoint(ctx, tx, schema)
		if err != nil {
			return err
		}
		if at > served { // the served ones lag: take them along
			live := &writer{pool: m.pool, schema: schemaLive, views: m.views, folder: newFolder(m.cfg.Kinds, false)}
			if err := m.take(ctx, tx, b, live, served, at, nil); err != nil {
				return err
			}
			served = at
		}
		if err := m.take(ctx, tx, b, w, at, served, b.check); err != nil {
			return err
		}
		return do(tx, b)
	})
}

// take brings a writer from one position to another within a transaction.
func (m *Models) take(ctx context.Context, tx pgx.Tx, b *builder, w *writer, at, to eventstore.Position, check func(eventstore.Recorded) error) error {
	for at < to {
		next, err := b.step(ctx, at, to, check, func(batch engine.Batch) error { return w.Apply(ctx, tx, batch) })
		if err != nil {
			return err
		}
		at = next
	}
	return moveCheckpoint(ctx, tx, w.schema, to, w.last)
}

// ensureReady prepares the database for those who do not run the models: `shiplog rebuild` and `shiplog verify` on a stopped
// cluster.
func (m *Models) ensureReady(ctx context.Context) error {
	m.mu.Lock()
	running := m.state == Following
	m.mu.Unlock()
	if running {
		return nil
	}
	return m.prepare(ctx)
}
