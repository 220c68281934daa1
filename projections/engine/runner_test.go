package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections/engine"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

var errAway = errors.New("the store is away")

// memoryStore keeps rows and a checkpoint, and fails when told to.
type memoryStore struct {
	mu         sync.Mutex
	checkpoint eventstore.Position
	rows       []string
	failures   int // how many of the next commits fail
	batches    int
}

type memoryTx struct{ rows []string }

func (s *memoryStore) Checkpoint(context.Context) (eventstore.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checkpoint, nil
}

func (s *memoryStore) Commit(ctx context.Context, from, to eventstore.Position, apply func(context.Context, *memoryTx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.checkpoint != from {
		return fmt.Errorf("%w: at %d, not %d", engine.ErrMoved, s.checkpoint, from)
	}
	var tx memoryTx
	if err := apply(ctx, &tx); err != nil {
		return err
	}
	if s.failures > 0 {
		s.failures--
		return errAway
	}
	s.rows, s.checkpoint = append(s.rows, tx.rows...), to
	s.batches++
	return nil
}

// names writes the ids of events; the one it is told to it refuses.
type names struct{ poison uuid.UUID }

func (names) Name() string { return "names" }
func (names) Version() int { return 1 }

func (n names) Apply(_ context.Context, tx *memoryTx, b engine.Batch) error {
	for _, r := range b.Records {
		if r.ID == n.poison {
			return &engine.PoisonError{Position: uint64(r.Position), Err: errors.New("it makes no sense")}
		}
		tx.rows = append(tx.rows, r.ID.String())
	}
	return nil
}

type bench struct {
	t     *testing.T
	ctx   context.Context
	log   *projectiontest.Log
	store *memoryStore
	ids   []string
}

func newBench(t *testing.T) *bench {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return &bench{t: t, ctx: ctx, log: projectiontest.NewLog(), store: &memoryStore{}}
}

func (b *bench) append(n int) {
	b.t.Helper()
	for range n {
		id := uuid.New()
		if _, err := b.log.Append(b.ctx, "s", eventstore.Any, eventstore.Proposed{ID: id, Type: "Happened"}); err != nil {
			b.t.Fatal(err)
		}
		b.ids = append(b.ids, id.String())
	}
}

func (b *bench) config() engine.Config[*memoryTx] {
	return engine.Config[*memoryTx]{Log: b.log, Projection: names{}, Store: b.store, MaxEvents: 7, RetryMin: time.Microsecond, RetryMax: time.Millisecond}
}

// run runs a runner until it has committed the head, and checks the rows.
func (b *bench) run(r *engine.Runner[*memoryTx]) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	head, err := b.log.Head(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for r.Stats().Position < uint64(head) {
		select {
		case err := <-done:
			b.t.Fatalf("Run ended: %v", err)
		case <-b.ctx.Done():
			b.t.Fatalf("at %+v, the log is at %d", r.Stats(), head)
		case <-tick.C:
		}
	}
	cancel()
	if err := <-done; err != nil {
		b.t.Fatalf("Run: %v", err)
	}
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	if !slices.Equal(b.store.rows, b.ids) {
		b.t.Fatalf("%d rows, not the %d events in their order", len(b.store.rows), len(b.ids))
	}
}

func TestEveryEventOnceInOrder(t *testing.T) {
	b := newBench(t)
	b.append(100)
	r := engine.NewRunner(b.config())
	b.run(r)
	if s := r.Stats(); s.Applied != 100 || s.Batches < 100/7 || !s.CaughtUp {
		t.Errorf("stats %+v", s)
	}
	// Another run goes on from the checkpoint.
	b.append(30)
	registry := prometheus.NewRegistry()
	cfg := b.config()
	cfg.Metrics = registry
	b.run(engine.NewRunner(cfg))
	b.append(1)
	b.run(engine.NewRunner(cfg)) // the same metrics go on
	families, err := registry.Gather()
	if err != nil || len(families) == 0 || families[0].GetMetric()[0].GetHistogram().GetSampleCount() < 2 {
		t.Errorf("metrics %v, %v", families, err)
	}
}

func TestAStoreThatIsAwayIsWaitedFor(t *testing.T) {
	b := newBench(t)
	b.append(100)
	b.store.failures = 25
	b.log.Drop(3)
	cfg := b.config()
	var mu sync.Mutex
	var told []error
	cfg.OnRetry = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, err)
	}
	r := engine.NewRunner(cfg)
	b.run(r)
	if s := r.Stats(); s.Retries != 25 {
		t.Errorf("%d retries, want 25", s.Retries)
	}
	mu.Lock()
	defer mu.Unlock()
	if !errors.Is(told[0], errAway) || told[len(told)-1] != nil {
		t.Errorf("told %v", told)
	}
}

func TestAnotherWriterMovesTheCheckpoint(t *testing.T) {
	b := newBench(t)
	b.append(200)
	done := make(chan struct{})
	other := engine.NewRunner(b.config())
	ctx, cancel := context.WithCancel(b.ctx)
	go func() {
		defer close(done)
		if err := other.Run(ctx); err != nil {
			t.Errorf("the other: %v", err)
		}
	}()
	b.run(engine.NewRunner(b.config()))
	cancel()
	<-done
}

func TestPoisonStopsAndNothingIsSkipped(t *testing.T) {
	b := newBench(t)
	b.append(50)
	cfg := b.config()
	cfg.Projection = names{poison: uuid.MustParse(b.ids[30])}
	err := engine.NewRunner(cfg).Run(b.ctx)
	var poison *engine.PoisonError
	if !errors.As(err, &poison) {
		t.Fatalf("Run: %v", err)
	}
	if n := len(b.store.rows); n > 30 || !slices.Equal(b.store.rows, b.ids[:n]) {
		t.Errorf("%d rows were written", n)
	}
	// The next build reads the event, and everything goes on where it stopped.
	b.run(engine.NewRunner(b.config()))
}

func TestAFinalErrorEndsTheRun(t *testing.T) {
	b := newBench(t)
	b.append(3)
	b.store.failures = 1 << 30
	cfg := b.config()
	cfg.Final = func(err error) bool { return errors.Is(err, errAway) }
	if err := engine.NewRunner(cfg).Run(b.ctx); !errors.Is(err, errAway) {
		t.Errorf("Run: %v", err)
	}
}

func TestTheEndOfTheLog(t *testing.T) {
	b := newBench(t)
	b.append(3)
	if err := b.log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := engine.NewRunner(b.config()).Run(b.ctx); !errors.Is(err, eventstore.ErrClosed) {
		t.Errorf("Run: %v", err)
	}
}

// With a linger that outlasts the test, only hurrying brings the events.
func TestHurryingCutsTheLinger(t *testing.T) {
	b := newBench(t)
	cfg := b.config()
	cfg.Linger, cfg.MaxEvents = time.Hour, 1000
	r := engine.NewRunner(cfg)
	r.Hurry(1 << 40)
	b.append(3)
	b.run(r)

	b.append(3)
	r = engine.NewRunner(cfg)
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range 1000 { // whether it comes before or after the events were read
			select {
			case <-tick.C:
				r.Hurry(1 << 40)
			case <-b.ctx.Done():
				return
			}
		}
	}()
	b.run(r)
}
