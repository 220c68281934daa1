package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
)

// Verification is what Verify has found.
type Verification struct {
	Position uint64 // at which everything was compared
	Events   uint64
	Streams  int
	Models   []Comparison
}

// Comparison of a table as it is served with the same table rebuilt from the log.
type Comparison struct {
	Model, Table      string
	Rows, RebuiltRows int64
	Hash, RebuiltHash string // of all rows, whatever their order
	Equal             bool
	ServedRow, LogRow string // the first row, in the order of their texts, that only the served, or only the rebuilt, table has
}

// Equal says whether everything that is served is what the log says.
func (v *Verification) Equal() bool {
	return !slices.ContainsFunc(v.Models, func(c Comparison) bool { return !c.Equal })
}

// ErrUnsound is what every UnsoundError is, for errors.Is.
var ErrUnsound = errors.New("the log is not sound")

// UnsoundError says what is wrong with the log.
type UnsoundError struct {
	Position uint64
	What     string
}

func (e *UnsoundError) Error() string {
	return fmt.Sprintf("the log is not sound at position %d: %s", e.Position, e.What)
}

// Is makes errors.Is(err, ErrUnsound) true.
func (e *UnsoundError) Is(target error) bool { return target == ErrUnsound }

// Verify reads the whole log, checks that it is sound (positions rise, the revisions of a stream are without gaps where nothing
// may be missing, every event folds), rebuilds all models beside those that are served, and compares them. The log's unsoundness
// is an error (ErrUnsound, *engine.PoisonError), a difference is not: see Verification.Equal. progress may be nil.
func (m *Models) Verify(ctx context.Context, progress func(Progress)) (*Verification, error) {
	sound := newSoundness(m.cfg.Kinds)
	out := &Verification{}
	err := m.beside(ctx, schemaCheck, m.views, progress, sound.see, func(tx pgx.Tx, b *builder) error {
		position, err := lockedCheckpoint(ctx, tx, schemaLive)
		if err != nil {
			return err
		}
		out.Position = uint64(position)
		for _, model := range m.views.models {
			for _, t := range model.tables {
				c, err := m.compare(ctx, tx, b, model.name, t)
				if err != nil {
					return fmt.Errorf("comparing %s: %w", t.name, err)
				}
				out.Models = append(out.Models, c)
			}
		}
		_, err = tx.Exec(ctx, "DROP SCHEMA "+schemaCheck+" CASCADE")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("verifying the read models: %w", err)
	}
	out.Events, out.Streams = sound.events, len(sound.streams)
	return out, nil
}

// compare compares what a table holds that can be rebuilt: what the log has forgotten by now is left out.
func (m *Models) compare(ctx context.Context, tx pgx.Tx, b *builder, model string, t *table) (Comparison, error) {
	c := Comparison{Model: model, Table: t.name}
	where := "true"
	switch t.name {
	case "current": // of bounded streams the log may not have what the last event was
		var retained []string
		for _, k := range m.cfg.Kinds.All() {
			if k.Retained() {
				retained = append(retained, "'"+strings.ReplaceAll(k.Resource+"/"+k.Group, "'", "''")+"'")
			}
		}
		if len(retained) > 0 {
			where = "resource || '/' || grp NOT IN (" + strings.Join(retained, ", ") + ")"
		}
	case "events":
		where = fmt.Sprintf("(op <> '' OR position >= %d)", max(b.firstFact, 1))
		if b.firstFact == 0 {
			where = "op <> ''"
		}
	case "audit":
		where = fmt.Sprintf("(NOT fact OR position >= %d)", max(b.firstFact, 1))
		if b.firstFact == 0 {
			where = "NOT fact"
		}
	}
	sum := func(schema string, n *int64, hash *string) error {
		return tx.QueryRow(ctx, fmt.Sprintf("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM %s.%s t WHERE %s", schema, t.name, where)).Scan(n, hash)
	}
	if err := errors.Join(sum(schemaLive, &c.Rows, &c.Hash), sum(schemaCheck, &c.RebuiltRows, &c.RebuiltHash)); err != nil {
		return c, err
	}
	if c.Equal = c.Rows == c.RebuiltRows && c.Hash == c.RebuiltHash; c.Equal {
		return c, nil
	}
	first := func(a, b string, row *string) error {
		err := tx.QueryRow(ctx, fmt.Sprintf("SELECT left(d, 4000) FROM (SELECT t::text FROM %s.%s t WHERE %s EXCEPT ALL SELECT t::text FROM %s.%s t WHERE %s) AS x (d) ORDER BY d LIMIT 1",
			a, t.name, where, b, t.name, where)).Scan(row)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	}
	return c, errors.Join(first(schemaLive, schemaCheck, &c.ServedRow), first(schemaCheck, schemaLive, &c.LogRow))
}

// soundness checks a log record by record.
type soundness struct {
	kinds   *domain.Set
	streams map[string]uint64 // the last revision
	last    eventstore.Position
	events  uint64
}

func newSoundness(kinds *domain.Set) *soundness {
	return &soundness{kinds: kinds, streams: map[string]uint64{}}
}

func (s *soundness) see(r eventstore.Recorded) error {
	if r.Position <= s.last {
		return &UnsoundError{uint64(r.Position), fmt.Sprintf("it follows position %d", s.last)}
	}
	last, seen := s.streams[r.Stream]
	switch dense := s.dense(r.Stream); {
	case seen && r.Revision <= last, seen && dense && r.Revision != last+1:
		return &UnsoundError{uint64(r.Position), fmt.Sprintf("revision %d of stream %s follows revision %d", r.Revision, r.Stream, last)}
	case !seen && dense && r.Revision != 0:
		return &UnsoundError{uint64(r.Position), fmt.Sprintf("stream %s begins with revision %d", r.Stream, r.Revision)}
	}
	if e, ok, err := projections.EventOf(r); errors.Is(err, domain.ErrNewer) {
		return err // the log is sound, as far as this build can tell
	} else if err != nil {
		return &UnsoundError{uint64(r.Position), err.Error()}
	} else if ok && e.Op != "" && !projections.Concerns(r, e) {
		return &UnsoundError{uint64(r.Position), fmt.Sprintf("an event of %s stands in stream %s", e.Ref, r.Stream)}
	}
	s.last, s.streams[r.Stream] = r.Position, r.Revision
	s.events++
	return nil
}

// dense says whether nothing of a stream may be missing: it holds an object of a kind whose past is kept.
func (s *soundness) dense(stream string) bool {
	ref, ok := domain.ParseStream(stream)
	if !ok {
		return false
	}
	k, ok := s.kinds.ByResource(ref.GroupResource())
	return ok && !k.Retained()
}
