package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections/engine"
)

// writer keeps the tables of one schema up to date. It is the engine's Projection and its Store. One goroutine uses it.
type writer struct {
	pool   *pgxpool.Pool
	schema string
	views  *views
	folder *folder
	last   eventstore.Recorded // of what was applied
}

var (
	_ engine.Projection[pgx.Tx] = (*writer)(nil)
	_ engine.Store[pgx.Tx]      = (*writer)(nil)
)

// Name implements engine.Projection.
func (w *writer) Name() string { return w.schema }

// Version implements engine.Projection.
func (w *writer) Version() int { return Version }

// Checkpoint implements engine.Store.
func (w *writer) Checkpoint(ctx context.Context) (eventstore.Position, error) {
	w.folder.forget()
	var p int64
	if err := w.pool.QueryRow(ctx, "SELECT position FROM "+w.schema+".checkpoint").Scan(&p); err != nil {
		return 0, fmt.Errorf("reading the checkpoint of %s: %w", w.schema, err)
	}
	return eventstore.Position(p), nil
}

// Commit implements engine.Store. The checkpoint's row is locked first: of two writers the second waits, and then finds that the
// checkpoint is not where its batch starts.
func (w *writer) Commit(ctx context.Context, from, to eventstore.Position, apply func(context.Context, pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		if err := lockCheckpoint(ctx, tx, w.schema, from); err != nil {
			return err
		}
		if err := apply(ctx, tx); err != nil {
			return err
		}
		return moveCheckpoint(ctx, tx, w.schema, to, w.last)
	})
	if err != nil {
		w.folder.forget() // it may hold what was not committed
		return fmt.Errorf("writing %s through position %d: %w", w.schema, to, err)
	}
	w.folder.trim()
	return nil
}

func lockCheckpoint(ctx context.Context, tx pgx.Tx, schema string, want eventstore.Position) error {
	at, err := lockedCheckpoint(ctx, tx, schema)
	if err != nil {
		return err
	}
	if at != want {
		return fmt.Errorf("%w: it is at %d, not at %d", engine.ErrMoved, at, want)
	}
	return nil
}

func lockedCheckpoint(ctx context.Context, tx pgx.Tx, schema string) (eventstore.Position, error) {
	var at int64
	if err := tx.QueryRow(ctx, "SELECT position FROM "+schema+".checkpoint FOR UPDATE").Scan(&at); err != nil {
		return 0, fmt.Errorf("locking the checkpoint: %w", err)
	}
	return eventstore.Position(at), nil
}

func moveCheckpoint(ctx context.Context, tx pgx.Tx, schema string, to eventstore.Position, last eventstore.Recorded) error {
	tag, err := tx.Exec(ctx, "UPDATE "+schema+`.checkpoint SET position = $1, at = now(),
		event_position = CASE WHEN $2 > event_position THEN $2 ELSE event_position END, event = CASE WHEN $2 > event_position THEN $3 ELSE event END`,
		int64(to), int64(last.Position), last.ID)
	if err == nil && tag.RowsAffected() != 1 {
		err = errors.New("its row is gone")
	}
	if err != nil {
		return fmt.Errorf("moving the checkpoint: %w", err)
	}
	return nil
}

// Apply implements engine.Projection.
func (w *writer) Apply(ctx context.Context, tx pgx.Tx, b engine.Batch) error {
	if n := len(b.Records); n > 0 {
		w.last = b.Records[n-1]
	}
	changes, err := decode(b.Records)
	if err != nil {
		return err
	}
	if asked := w.folder.missing(changes); len(asked) > 0 {
		there, err := w.load(ctx, tx, asked)
		if err != nil {
			return err
		}
		w.folder.learn(asked, there)
	}
	if err := w.folder.fold(changes); err != nil {
		return err
	}
	return w.write(ctx, tx, changes)
}

// write writes the rows of folded changes.
func (w *writer) write(ctx context.Context, tx pgx.Tx, changes []change) error {
	out := w.views.rowsOf(changes)
	var ended []*change
	if w.views.has("history") {
		ended = w.incarnations(changes, out)
	}
	for _, t := range w.views.tables() {
		if r := out[t]; r != nil {
			if err := r.copyTo(ctx, tx, w.schema); err != nil {
				return err
			}
		}
	}
	if len(ended) > 0 {
		var which, until []int64
		for _, c := range ended {
			which, until = append(which, int64(c.was.incarnation)), append(until, int64(c.event.Position))
		}
		if _, err := tx.Exec(ctx, endIncarnations(w.schema), which, until); err != nil {
			return fmt.Errorf("ending incarnations: %w", err)
		}
	}
	if w.views.has("current") {
		return w.writeCurrent(ctx, tx, changes)
	}
	return nil
}

// incarnations writes a row for each incarnation that starts, and returns those that end and started in an earlier batch.
func (w *writer) incarnations(changes []change, out map[*table]*rows) (ended []*change) {
	ends := map[uint64]uint64{}
	for i := range changes {
		if c := &changes[i]; c.was != nil {
			ends[c.was.incarnation] = c.event.Position
		}
	}
	born := map[uint64]bool{}
	for i := range changes {
		c := &changes[i]
		switch {
		case c.retained:
		case c.born:
			born[c.entry.incarnation] = true
			until, over := ends[c.entry.incarnation]
			if !over {
				until = forever
			}
			w.views.incarnationRow(c.entry, until, out)
		case c.was != nil && !born[c.was.incarnation]:
			ended = append(ended, c)
		}
	}
	return ended
}

// writeCurrent replaces the rows of the objects that have changed by what they are after the last change.
func (w *writer) writeCurrent(ctx context.Context, tx pgx.Tx, changes []change) error {
	last := map[string]*change{}
	var order []string
	for i := range changes {
		c := &changes[i]
		if c.entry == nil && c.was == nil {
			continue
		}
		if last[c.key] == nil {
			order = append(order, c.key)
		}
		last[c.key] = c
	}
	if len(order) == 0 {
		return nil
	}
	r := newRows(&table{name: "current_in", columns: w.views.current.columns})
	var grp, resource, namespace, name []string
	for _, key := range order {
		c := last[key]
		if c.entry != nil {
			w.views.currentRow(c.entry, r)
			continue
		}
		ref := c.event.Ref
		grp, resource = append(grp, ref.Group), append(resource, ref.Resource)
		namespace, name = append(namespace, ref.Namespace), append(name, ref.Name)
	}
	if len(name) > 0 {
		if _, err := tx.Exec(ctx, fmt.Sprintf(
			`DELETE FROM %s.current c USING unnest($1::text[], $2::text[], $3::text[], $4::text[]) k (grp, resource, namespace, name)
			WHERE c.grp = k.grp AND c.resource = k.resource AND c.namespace = k.namespace AND c.name = k.name`, w.schema),
			grp, resource, namespace, name); err != nil {
			return fmt.Errorf("removing current objects: %w", err)
		}
	}
	if r.n == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("CREATE TEMP TABLE IF NOT EXISTS current_in (LIKE %s.current) ON COMMIT DELETE ROWS", w.schema)); err != nil {
		return fmt.Errorf("writing current objects: %w", err)
	}
	if err := r.copyTo(ctx, tx, "pg_temp"); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, upsertCurrent(w.schema, w.views.current)); err != nil {
		return fmt.Errorf("writing current objects: %w", err)
	}
	return nil
}

func upsertCurrent(schema string, t *table) string {
	var set []string
	for _, c := range t.columns[4:] {
		set = append(set, c.name+" = EXCLUDED."+c.name)
	}
	return fmt.Sprintf("INSERT INTO %s.current SELECT * FROM pg_temp.current_in ON CONFLICT (%s) DO UPDATE SET %s", schema, t.key, strings.Join(set, ", "))
}

// load reads objects that the folder does not hold.
func (w *writer) load(ctx context.Context, tx pgx.Tx, refs []domain.Ref) ([]*entry, error) {
	var grp, resource, namespace, name []string
	for _, r := range refs {
		grp, resource = append(grp, r.Group), append(resource, r.Resource)
		namespace, name = append(namespace, r.Namespace), append(name, r.Name)
	}
	result, err := tx.Query(ctx, fmt.Sprintf(
		`SELECT %s FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) k (grp, resource, namespace, name)
		JOIN %s.current c USING (resource, grp, namespace, name)`, entryColumns, w.schema), grp, resource, namespace, name)
	if err != nil {
		return nil, fmt.Errorf("reading current objects: %w", err)
	}
	there, err := pgx.CollectRows(result, scanEntry)
	if err != nil {
		return nil, fmt.Errorf("reading current objects: %w", err)
	}
	return there, nil
}

const entryColumns = "c.grp, c.resource, c.namespace, c.name, c.uid, c.position, c.revision, c.incarnation, c.base, c.steps, c.bytes, c.object::text"

func scanEntry(row pgx.CollectableRow) (*entry, error) {
	var e entry
	var uid, object string
	var position, revision, incarnation, base int64
	if err := row.Scan(&e.ref.Group, &e.ref.Resource, &e.ref.Namespace, &e.ref.Name, &uid, &position, &revision, &incarnation, &base,
		&e.steps, &e.bytes, &object); err != nil {
		return nil, err
	}
	e.ref.UID = uidOf(uid)
	e.incarnation, e.base = uint64(incarnation), uint64(base)
	e.state = domain.State{JSON: []byte(object), UID: e.ref.UID, Revision: uint64(revision), Position: uint64(position), Exists: true, Seen: true}
	return &e, nil
}
