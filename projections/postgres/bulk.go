package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections/engine"
)

// builder builds the tables of a schema from the log's beginning: rows are copied into tables without indexes, objects are kept
// in memory and written when the end is near, indexes are made last. From then on the schema is kept like any other.
type builder struct {
	pool     *pgxpool.Pool
	log      eventstore.Log
	schema   string
	views    *views
	folder   *folder
	progress func(Progress)
	// check, when set, sees every record.
	check func(eventstore.Recorded) error

	// firstFact is the position of the first event that changes nothing: the trail of such events is bounded.
	firstFact uint64
}

// Progress of building models.
type Progress struct {
	Models   []string
	Position uint64 // reached
	Head     uint64 // of the log
	Events   uint64 // so far
	Step     string // what is being done, in words
}

func newBuilder(pool *pgxpool.Pool, log eventstore.Log, kinds *domain.Set, schema string, v *views, progress func(Progress)) *builder {
	if progress == nil {
		progress = func(Progress) {}
	}
	return &builder{pool: pool, log: log, schema: schema, views: v, folder: newFolder(kinds, true), progress: progress}
}

// bulkEvents is how many events are copied at once.
const bulkEvents = 4000

// prepared is a part of the log made into rows.
type prepared struct {
	rows  map[*table]*rows
	ended []*change
	last  eventstore.Recorded
	n     int
	err   error
}

// build makes the schema and fills it with everything that is in the log when it starts. It returns a writer that goes on from
// there.
func (b *builder) build(ctx context.Context) (*writer, error) {
	w := &writer{pool: b.pool, schema: b.schema, views: b.views, folder: b.folder}
	head, err := b.log.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("building %s: %w", b.schema, err)
	}
	conn, err := b.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("building %s: %w", b.schema, err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, fmt.Sprintf("DROP SCHEMA IF EXISTS %s CASCADE", b.schema)); err != nil {
		return nil, fmt.Errorf("building %s: %w", b.schema, err)
	}
	// One transaction for all: tables made in it need no write-ahead log, and nobody ever sees half of them.
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return b.buildIn(ctx, tx, w, head) })
	if err != nil {
		return nil, fmt.Errorf("building %s: %w", b.schema, err)
	}
	return w, nil
}

func (b *builder) buildIn(ctx context.Context, tx pgx.Tx, w *writer, head eventstore.Position) error {
	statements := []string{"CREATE SCHEMA " + b.schema, createCheckpoint(b.schema)}
	for _, t := range b.views.tables() {
		statements = append(statements, t.create(b.schema))
	}
	for _, s := range statements {
		if _, err := tx.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	readCtx, stop := context.WithCancel(ctx)
	ready := make(chan prepared, 2)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(ready)
		b.prepare(readCtx, head, ready)
	})
	defer reading.Wait()
	defer stop()
	var last eventstore.Recorded
	var n uint64
	ended := map[uint64]uint64{}
	for p := range ready {
		if p.err != nil {
			return p.err
		}
		for _, t := range b.views.tables() {
			if r := p.rows[t]; r != nil {
				if err := r.copyTo(ctx, tx, b.schema); err != nil {
					return err
				}
			}
		}
		for _, c := range p.ended {
			ended[c.was.incarnation] = c.event.Position
		}
		last = p.last
		n += uint64(p.n)
		b.progress(Progress{Models: b.views.names(), Position: uint64(last.Position), Head: uint64(head), Events: n, Step: "reading the log"})
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.finish(ctx, tx, max(last.Position, head), last, n, ended)
}

// prepare reads the log up to its head and makes rows of it, while those made before are being written.
func (b *builder) prepare(ctx context.Context, head eventstore.Position, ready chan<- prepared) {
	send := func(p prepared) bool {
		select {
		case ready <- p:
			return p.err == nil
		case <-ctx.Done():
			return false
		}
	}
	var records []eventstore.Recorded
	size := 0
	flush := func() bool {
		p := b.prepareRows(records)
		records, size = nil, 0
		return send(p)
	}
	for r, err := range b.log.ReadAll(ctx, eventstore.ReadAll{From: 1}) {
		if err != nil {
			send(prepared{err: fmt.Errorf("reading the log: %w", err)})
			return
		}
		if r.Position > head {
			break
		}
		if b.check != nil {
			if err := b.check(r); err != nil {
				send(prepared{err: err})
				return
			}
		}
		records = append(records, r)
		if size += len(r.Data) + len(r.Metadata); len(records) >= bulkEvents || size >= 8<<20 {
			if !flush() {
				return
			}
		}
	}
	if len(records) > 0 {
		flush()
	}
}

func (b *builder) prepareRows(records []eventstore.Recorded) prepared {
	changes, err := decode(records)
	if err == nil {
		err = b.folder.fold(changes)
	}
	if err != nil {
		return prepared{err: err}
	}
	for i := range changes {
		if b.firstFact == 0 && changes[i].event.Op == "" {
			b.firstFact = changes[i].event.Position
		}
	}
	p := prepared{rows: b.views.rowsOf(changes), n: len(records), last: records[len(records)-1]}
	if b.views.has("history") {
		w := writer{views: b.views}
		p.ended = w.incarnations(changes, p.rows)
	}
	return p
}

// finish writes what is there at the end, makes the indexes and sets the checkpoint.
func (b *builder) finish(ctx context.Context, tx pgx.Tx, through eventstore.Position, last eventstore.Recorded, n uint64, ended map[uint64]uint64) error {
	step := func(s string) {
		b.progress(Progress{Models: b.views.names(), Position: uint64(through), Head: uint64(through), Events: n, Step: s})
	}
	if b.views.has("current") {
		step("writing the current objects")
		if err := b.copyCurrent(ctx, tx); err != nil {
			return err
		}
	}
	for _, t := range b.views.tables() {
		step("indexing " + t.name)
		for _, s := range t.finish(b.schema) {
			if _, err := tx.Exec(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
	}
	if len(ended) > 0 && b.views.has("history") {
		var which, until []int64
		for i, u := range ended {
			which, until = append(which, int64(i)), append(until, int64(u))
		}
		if _, err := tx.Exec(ctx, endIncarnations(b.schema), which, until); err != nil {
			return fmt.Errorf("ending incarnations: %w", err)
		}
	}
	for _, t := range b.views.tables() {
		if _, err := tx.Exec(ctx, fmt.Sprintf("ANALYZE %s.%s", b.schema, t.name)); err != nil {
			return fmt.Errorf("analysing %s: %w", t.name, err)
		}
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("INSERT INTO %s.checkpoint (position, event_position, event) VALUES ($1, $2, $3)", b.schema),
		int64(through), int64(last.Position), last.ID); err != nil {
		return fmt.Errorf("setting the checkpoint: %w", err)
	}
	return nil
}

func (b *builder) copyCurrent(ctx context.Context, tx pgx.Tx) error {
	r := newRows(b.views.current)
	for _, e := range b.folder.objects {
		if e == nil {
			continue
		}
		b.views.currentRow(e, r)
		if len(r.buf) >= 8<<20 {
			if err := r.copyTo(ctx, tx, b.schema); err != nil {
				return err
			}
			r = newRows(b.views.current)
		}
	}
	return r.copyTo(ctx, tx, b.schema)
}

// catchUp applies what has come since, through a position at least, without holding anybody up.
func (b *builder) catchUp(ctx context.Context, w *writer, through eventstore.Position) (eventstore.Position, error) {
	at, err := w.Checkpoint(ctx)
	if err != nil {
		return 0, err
	}
	for at < through {
		next, err := b.step(ctx, at, through, b.check, func(batch engine.Batch) error {
			return w.Commit(ctx, batch.After, batch.Through, func(ctx context.Context, tx pgx.Tx) error { return w.Apply(ctx, tx, batch) })
		})
		if err != nil {
			return 0, err
		}
		at = next
	}
	return at, nil
}

// step applies one batch of what follows a position, no further than through.
func (b *builder) step(
	ctx context.Context, at, through eventstore.Position, check func(eventstore.Recorded) error, apply func(engine.Batch) error,
) (eventstore.Position, error) {
	batch := engine.Batch{After: at, Through: through}
	for r, err := range b.log.ReadAll(ctx, eventstore.ReadAll{From: at + 1, Limit: bulkEvents}) {
		if err != nil {
			return 0, fmt.Errorf("reading the log: %w", err)
		}
		if r.Position > through {
			break
		}
		if check != nil {
			if err := check(r); err != nil {
				return 0, err
			}
		}
		batch.Records = append(batch.Records, r)
	}
	if n := len(batch.Records); n == bulkEvents {
		batch.Through = batch.Records[n-1].Position
	}
	if err := apply(batch); err != nil {
		return 0, err
	}
	return batch.Through, nil
}

func endIncarnations(schema string) string {
	return fmt.Sprintf(
		"UPDATE %s.incarnations i SET until = e.until FROM unnest($1::bigint[], $2::bigint[]) e (incarnation, until) WHERE i.incarnation = e.incarnation", schema)
}

var errBuilding = errors.New("the read models are being built")
