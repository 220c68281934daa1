package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

var _ projections.History = (*Models)(nil)

// read runs queries on one consistent state of the tables and makes errors say whose they are.
func (m *Models) read(ctx context.Context, what string, do func(tx pgx.Tx, position uint64) error) error {
	m.mu.Lock()
	state, cause := m.state, m.err
	m.mu.Unlock()
	if state == Building || errors.Is(cause, ErrForeign) {
		if cause == nil {
			cause = errBuilding
		}
		return fmt.Errorf("%s: %w: %w", what, projections.ErrUnavailable, cause)
	}
	err := pgx.BeginTxFunc(ctx, m.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var at int64
		if err := tx.QueryRow(ctx, "SELECT position FROM "+schemaLive+".checkpoint").Scan(&at); err != nil {
			return err
		}
		return do(tx, uint64(at))
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() == nil && (away(err) || layoutBroken(err) && !errors.Is(err, projections.ErrNotFound)):
		return fmt.Errorf("%s: %w: %w", what, projections.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Position implements projections.History.
func (m *Models) Position(ctx context.Context) (uint64, error) {
	var out uint64
	err := m.read(ctx, "reading the read models' position", func(_ pgx.Tx, position uint64) error {
		out = position
		return nil
	})
	return out, err
}

// PositionAt implements projections.History. The times of events rise with their positions but for small disorders: the last
// event that is not after t is looked for among those of the minute before the latest. Facts that change no object do not count: they
// are written in batches, later than they happened, and would let in changes that came after t.
func (m *Models) PositionAt(ctx context.Context, t time.Time) (uint64, error) {
	var out int64
	err := m.read(ctx, "looking for the position at "+t.Format(time.RFC3339), func(tx pgx.Tx, _ uint64) error {
		return tx.QueryRow(ctx, fmt.Sprintf(`SELECT coalesce(max(position), 0) FROM %[1]s.events WHERE coalesce(op, '') <> '' AND time <= $1 AND time >=
			(SELECT time FROM %[1]s.events WHERE coalesce(op, '') <> '' AND time <= $1 ORDER BY time DESC LIMIT 1) - $2`, schemaLive), t.UnixNano(), int64(time.Minute)).Scan(&out)
	})
	return uint64(out), err
}

func future(position, at uint64) error {
	if position > at {
		return fmt.Errorf("%w: the read models are at position %d", projections.ErrFuture, at)
	}
	return nil
}

// GetAt implements projections.History.
func (m *Models) GetAt(ctx context.Context, ref domain.Ref, position uint64) (*projections.Object, error) {
	var out *projections.Object
	err := m.read(ctx, fmt.Sprintf("reading %s as of position %d", ref, position), func(tx pgx.Tx, at uint64) error {
		if err := future(position, at); err != nil {
			return err
		}
		if m.bounded(ref.GroupResource()) {
			found, err := m.presentOf(ctx, tx, ref.GroupResource(), "AND c.namespace = $3 AND c.name = $4", ref.Namespace, ref.Name)
			if err != nil {
				return err
			}
			if len(found) == 0 || ref.UID != "" && found[0].Ref.UID != ref.UID {
				return tooOldUnless(position == at, projections.ErrNotFound)
			}
			if found[0].Position > position {
				return projections.ErrTooOld
			}
			out = found[0]
			return nil
		}
		where := "resource = $1 AND grp = $2 AND namespace = $4 AND name = $5 AND incarnation <= $3"
		args := []any{ref.Resource, ref.Group, int64(position), ref.Namespace, ref.Name}
		found, err := m.objectsAt(ctx, tx, "SELECT * FROM (SELECT * FROM "+schemaLive+".incarnations WHERE "+where+" ORDER BY incarnation DESC LIMIT 1) last WHERE until > $3", args)
		if err != nil {
			return err
		}
		if len(found) == 0 || ref.UID != "" && found[0].Ref.UID != ref.UID {
			return projections.ErrNotFound
		}
		out = found[0]
		return nil
	})
	return out, err
}

// ListAt implements projections.History.
func (m *Models) ListAt(ctx context.Context, gr domain.Resource, namespace string, position uint64) ([]*projections.Object, error) {
	var out []*projections.Object
	err := m.read(ctx, fmt.Sprintf("listing %s as of position %d", gr, position), func(tx pgx.Tx, at uint64) error {
		if err := future(position, at); err != nil {
			return err
		}
		var err error
		args := []any{gr.Resource, gr.Group}
		if m.bounded(gr) {
			if position != at {
				return projections.ErrTooOld
			}
			if namespace != "" {
				out, err = m.presentOf(ctx, tx, gr, "AND c.namespace = $3", namespace)
			} else {
				out, err = m.presentOf(ctx, tx, gr, "")
			}
			return err
		}
		where := "resource = $1 AND grp = $2 AND incarnation <= $3 AND until > $3"
		args = append(args, int64(position))
		if namespace != "" {
			where += " AND namespace = $4"
			args = append(args, namespace)
		}
		out, err = m.objectsAt(ctx, tx, "SELECT * FROM "+schemaLive+".incarnations WHERE "+where, args)
		return err
	})
	return out, err
}

func tooOldUnless(ok bool, err error) error {
	if ok {
		return err
	}
	return projections.ErrTooOld
}

// bounded says whether only the present of a resource is kept.
func (m *Models) bounded(gr domain.Resource) bool {
	k, ok := m.cfg.Kinds.ByResource(gr)
	return ok && k.Retained()
}

// presentOf reads objects of a bounded kind as they are now.
func (m *Models) presentOf(ctx context.Context, tx pgx.Tx, gr domain.Resource, where string, args ...any) ([]*projections.Object, error) {
	result, err := tx.Query(ctx, "SELECT "+entryColumns+" FROM "+schemaLive+".current c WHERE c.resource = $1 AND c.grp = $2 "+where+" ORDER BY c.namespace, c.name",
		append([]any{gr.Resource, gr.Group}, args...)...)
	if err != nil {
		return nil, err
	}
	entries, err := pgx.CollectRows(result, scanEntry)
	if err != nil {
		return nil, err
	}
	out := make([]*projections.Object, len(entries))
	for i, e := range entries {
		out[i] = m.objectOf(e)
	}
	return out, nil
}

func (m *Models) objectOf(e *entry) *projections.Object {
	return memory.Decoded(m.cfg.Kinds, projections.Object{Ref: e.ref, Position: e.state.Position, Revision: e.state.Revision, JSON: e.state.JSON})
}

// objectsAt folds the events of some incarnations from the last whole copy that is not after a position ($3) to that position,
// all in one query: for each incarnation its last row gives the base, and the rows from there on give the object. The rows are
// put in order here: Postgres would carry all they hold through a sort on disk.
func (m *Models) objectsAt(ctx context.Context, tx pgx.Tx, incarnations string, args []any) ([]*projections.Object, error) {
	result, err := tx.Query(ctx, fmt.Sprintf(`WITH i AS (%[2]s)
		SELECT i.incarnation, i.grp, i.resource, i.namespace, i.name, i.uid, h.position, e.revision, e.type,
			h.object::text, CASE WHEN h.object IS NULL THEN e.data::text END, CASE WHEN h.object IS NULL THEN e.metadata::text END
		FROM i
		CROSS JOIN LATERAL (SELECT l.base, l.position FROM %[1]s.history l
			WHERE l.incarnation = i.incarnation AND l.position <= $3 ORDER BY l.position DESC LIMIT 1) last
		JOIN %[1]s.history h ON h.incarnation = i.incarnation AND h.position BETWEEN last.base AND last.position
		JOIN %[1]s.events e ON e.position = h.position`, schemaLive, incarnations), args...)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(result, scanStep)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b step) int {
		return cmp.Or(strings.Compare(a.ref.Namespace, b.ref.Namespace), strings.Compare(a.ref.Name, b.ref.Name),
			cmp.Compare(a.incarnation, b.incarnation), cmp.Compare(a.position, b.position))
	})
	var out []*projections.Object
	for len(found) > 0 {
		n := 1
		for n < len(found) && found[n].incarnation == found[0].incarnation {
			n++
		}
		state, err := foldSteps(found[:n])
		if err != nil {
			return nil, fmt.Errorf("folding %s: %w", found[0].ref, err)
		}
		out = append(out, m.objectOf(&entry{ref: found[0].ref, state: state}))
		found = found[n:]
	}
	return out, nil
}

// step is a row of history: a whole copy, or the event that it stands for.
type step struct {
	incarnation, position, revision uint64
	ref                             domain.Ref
	typ                             string
	object, data, metadata          []byte
}

func scanStep(row pgx.CollectableRow) (step, error) {
	var s step
	var incarnation, position, revision int64
	var uid string
	err := row.Scan(&incarnation, &s.ref.Group, &s.ref.Resource, &s.ref.Namespace, &s.ref.Name, &uid, &position, &revision, &s.typ, &s.object, &s.data, &s.metadata)
	s.incarnation, s.position, s.revision, s.ref.UID = uint64(incarnation), uint64(position), uint64(revision), uidOf(uid)
	return s, err
}

func foldSteps(steps []step) (domain.State, error) {
	var state domain.State
	for _, s := range steps {
		if s.object != nil {
			state = domain.State{JSON: s.object, UID: s.ref.UID, Revision: s.revision, Position: s.position, Exists: true, Seen: true}
			continue
		}
		e, err := domain.UnmarshalEvent(s.typ, "", s.data, s.metadata, s.position, s.revision, time.Time{})
		if err != nil {
			return state, err
		}
		if state, err = state.Apply(e); err != nil {
			return state, err
		}
	}
	return state, nil
}

const eventColumns = "e.position, e.revision, e.id, e.type, e.time, e.data::text, e.metadata::text"

func scanEvent(row pgx.CollectableRow) (domain.Event, error) {
	var position, revision, at int64
	var id uuid.UUID
	var typ, data, metadata string
	if err := row.Scan(&position, &revision, &id, &typ, &at, &data, &metadata); err != nil {
		return domain.Event{}, err
	}
	return domain.UnmarshalEvent(typ, id.String(), []byte(data), []byte(metadata), uint64(position), uint64(revision), time.Unix(0, at).UTC())
}

// Events implements projections.History. Events of kinds whose past is bounded are not remembered.
func (m *Models) Events(ctx context.Context, q projections.EventQuery) ([]domain.Event, error) {
	sql, args := eventsSQL(q)
	var out []domain.Event
	err := m.read(ctx, "reading events", func(tx pgx.Tx, _ uint64) error {
		result, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		out, err = pgx.CollectRows(result, scanEvent)
		return err
	})
	return out, err
}

func eventsSQL(q projections.EventQuery) (string, []any) {
	var where []string
	var args []any
	add := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, fmt.Sprintf(condition, len(args)))
	}
	text := func(column, value string) {
		if value != "" {
			add("e."+column+" = $%d", value)
		}
	}
	text("resource", q.Resource)
	if q.Group != "" || q.Resource != "" && !q.AnyGroup {
		add("e.grp = $%d", q.Group)
	}
	text("namespace", q.Namespace)
	text("name", q.Name)
	text("uid", q.UID)
	if q.Actor != "" {
		args = append(args, q.Actor)
		// The second condition, without which the index on impersonators is not used, is true of every name.
		where = append(where, fmt.Sprintf("(e.actor = $%[1]d OR e.impersonator = $%[1]d AND e.impersonator <> '')", len(args)))
	}
	text("correlation", q.Correlation)
	if len(q.Types) > 0 {
		add("e.type = ANY ($%d)", q.Types)
	}
	if q.CauseID != "" {
		add("e.position IN (SELECT effect FROM "+schemaLive+".causes WHERE cause_id = $%d)", q.CauseID)
	}
	if q.After > 0 {
		add("e.position > $%d", int64(q.After))
	}
	if q.Through > 0 {
		add("e.position <= $%d", int64(q.Through))
	}
	if !q.Since.IsZero() {
		add("e.time >= $%d", q.Since.UnixNano())
	}
	if !q.Until.IsZero() {
		add("e.time < $%d", q.Until.UnixNano())
	}
	sql := "SELECT " + eventColumns + " FROM " + schemaLive + ".events e"
	if len(where) > 0 {
		sql += " WHERE " + strings.Join(where, " AND ")
	}
	sql += " ORDER BY e.position"
	if q.Newest {
		sql += " DESC"
	}
	limit := q.Limit
	if limit <= 0 {
		limit = 1000
	}
	return sql + fmt.Sprintf(" LIMIT %d", limit), args
}

// Event implements projections.History.
func (m *Models) Event(ctx context.Context, position uint64, id string) (domain.Event, error) {
	var out domain.Event
	what := fmt.Sprintf("reading event %s", id)
	if position > 0 {
		what = fmt.Sprintf("reading the event at position %d", position)
	}
	err := m.read(ctx, what, func(tx pgx.Tx, _ uint64) error {
		where, arg := "e.position = $1", any(int64(position))
		if position == 0 {
			parsed, err := uuid.Parse(id)
			if err != nil {
				return projections.ErrNotFound
			}
			where, arg = "e.id = $1", parsed
		}
		result, err := tx.Query(ctx, "SELECT "+eventColumns+" FROM "+schemaLive+".events e WHERE "+where+" ORDER BY e.position LIMIT 1", arg)
		if err != nil {
			return err
		}
		out, err = pgx.CollectExactlyOneRow(result, scanEvent)
		if errors.Is(err, pgx.ErrNoRows) {
			return projections.ErrNotFound
		}
		return err
	})
	return out, err
}
