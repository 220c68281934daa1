package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/metrics"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/shiplog/shiplog/eventstore"
)

// Projection makes rows of events. T is its store's transaction.
type Projection[T any] interface {
	Name() string
	// Version changes when the same events give other rows.
	Version() int
	// Apply writes what the events of a batch mean, in the transaction that moves the checkpoint. Errors of the store are retried;
	// a *PoisonError stops the projection.
	Apply(ctx context.Context, tx T, b Batch) error
}

// Store keeps a projection's rows and its checkpoint.
type Store[T any] interface {
	// Checkpoint is the position through which the rows reflect the log.
	Checkpoint(ctx context.Context) (eventstore.Position, error)
	// Commit moves the checkpoint from one position to another together with what apply writes, all or nothing. ErrMoved says that
	// the checkpoint is not where it should be: somebody else has moved it.
	Commit(ctx context.Context, from, to eventstore.Position, apply func(ctx context.Context, tx T) error) error
}

// ErrMoved says that a checkpoint is not where the batch starts.
var ErrMoved = errors.New("the checkpoint was moved by another writer")

// PoisonError says that an event cannot be applied, now or ever, by this build.
type PoisonError struct {
	Position uint64
	Err      error
}

func (e *PoisonError) Error() string {
	return fmt.Sprintf("the event at position %d cannot be applied: %v", e.Position, e.Err)
}

func (e *PoisonError) Unwrap() error { return e.Err }

// Config of a Runner.
type Config[T any] struct {
	Log        eventstore.Log
	Projection Projection[T]
	Store      Store[T]
	// Final says of an error, besides poison and ErrMoved, that trying the same batch again is of no use: Run returns it.
	Final func(error) bool

	MaxEvents int           // of a batch; default 2,000
	Linger    time.Duration // see SubscriberConfig
	// RetryMin and RetryMax bound the pauses between attempts while the store is away. Defaults: 50 ms, 5 s.
	RetryMin, RetryMax time.Duration
	// OnRetry, when set, is told each error that is being retried, and nil when the store is back.
	OnRetry func(error)
	// Metrics, when set, gets how long batches take (watermill's handler metrics).
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// Runner runs one projection.
type Runner[T any] struct {
	cfg      Config[T]
	position atomic.Uint64
	applied  atomic.Uint64
	batches  atomic.Uint64
	retries  atomic.Uint64
	caughtUp atomic.Bool

	mu     sync.Mutex
	sub    *Subscriber
	urgent eventstore.Position
}

// NewRunner returns a runner; see Run.
func NewRunner[T any](cfg Config[T]) *Runner[T] {
	if cfg.RetryMin <= 0 {
		cfg.RetryMin = 50 * time.Millisecond
	}
	if cfg.RetryMax <= 0 {
		cfg.RetryMax = 5 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Runner[T]{cfg: cfg}
}

// Stats are figures for metrics.
type Stats struct {
	Position uint64 // committed
	Applied  uint64 // events since the start
	Batches  uint64
	Retries  uint64
	CaughtUp bool // has been, since the start
}

// Stats returns figures for metrics.
func (r *Runner[T]) Stats() Stats {
	return Stats{
		Position: r.position.Load(), Applied: r.applied.Load(), Batches: r.batches.Load(), Retries: r.retries.Load(), CaughtUp: r.caughtUp.Load(),
	}
}

// Run follows the log from the checkpoint until the context ends (nil), or the projection has to stop: an event that it cannot
// apply (*PoisonError), a final error, or the end of the log.
func (r *Runner[T]) Run(ctx context.Context) error {
	for {
		err := r.runOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, ErrMoved) {
			return fmt.Errorf("running projection %s: %w", r.cfg.Projection.Name(), err)
		}
		r.cfg.Logger.Info("a projection's checkpoint was moved by another writer: going on from there", "projection", r.cfg.Projection.Name())
	}
}

func (r *Runner[T]) runOnce(ctx context.Context) error {
	checkpoint, err := r.cfg.Store.Checkpoint(ctx)
	if err != nil {
		return fmt.Errorf("reading the checkpoint: %w", err)
	}
	r.position.Store(uint64(checkpoint))
	logger := watermill.NewSlogLoggerWithLevelMapping(r.cfg.Logger, map[slog.Level]slog.Level{
		slog.LevelInfo: slog.LevelDebug, slog.LevelError: slog.LevelDebug, // what matters is said by us
	})
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 30 * time.Second}, logger)
	if err != nil {
		return fmt.Errorf("making the router: %w", err)
	}
	sub := NewSubscriber(SubscriberConfig{
		Log: r.cfg.Log, MaxEvents: r.cfg.MaxEvents, Linger: r.cfg.Linger, Logger: r.cfg.Logger,
		After: func(context.Context, string) (eventstore.Position, error) { return checkpoint, nil },
	})
	r.mu.Lock()
	r.sub = sub
	sub.Hurry(r.urgent)
	r.mu.Unlock()
	runCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	router.AddMiddleware(r.retry().Middleware)
	if r.cfg.Metrics != nil {
		builder := metrics.NewPrometheusMetricsBuilder(r.cfg.Metrics, "shiplog", "projections")
		router.AddMiddleware(builder.NewRouterMiddleware().Middleware)
	}
	router.AddConsumerHandler(r.cfg.Projection.Name(), "$all", sub, func(msg *message.Message) error {
		b, ok := BatchOf(msg)
		if !ok {
			return errors.New("a message without a batch")
		}
		return r.apply(msg.Context(), b)
	})
	var once sync.Once
	var last error
	router.AddMiddleware(func(h message.HandlerFunc) message.HandlerFunc { // the innermost: it sees what the handler says
		return func(msg *message.Message) ([]*message.Message, error) {
			out, err := h(msg)
			if err != nil && !r.transient(err) {
				once.Do(func() {
					last = err
					stop(err)
				})
			}
			return out, err
		}
	})
	err = router.Run(runCtx)
	once.Do(func() {}) // happens after whatever was stored
	switch {
	case last != nil:
		return last
	case err != nil:
		return fmt.Errorf("routing: %w", err)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("following the log: %w", eventstore.ErrClosed)
}

// Hurry says that somebody waits for a position: events up to it do not linger.
func (r *Runner[T]) Hurry(position uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.urgent = max(r.urgent, eventstore.Position(position))
	if r.sub != nil {
		r.sub.Hurry(r.urgent)
	}
}

func (r *Runner[T]) apply(ctx context.Context, b Batch) error {
	err := r.cfg.Store.Commit(ctx, b.After, b.Through, func(ctx context.Context, tx T) error {
		return r.cfg.Projection.Apply(ctx, tx, b)
	})
	if err != nil {
		return err
	}
	r.position.Store(uint64(b.Through))
	r.applied.Add(uint64(len(b.Records)))
	r.batches.Add(1)
	if b.CaughtUp {
		r.caughtUp.Store(true)
	}
	if r.cfg.OnRetry != nil {
		r.cfg.OnRetry(nil)
	}
	return nil
}

// transient says whether an error may go away by itself.
func (r *Runner[T]) transient(err error) bool {
	var poison *PoisonError
	return !errors.As(err, &poison) && !errors.Is(err, ErrMoved) && !errors.Is(err, context.Canceled) && (r.cfg.Final == nil || !r.cfg.Final(err))
}

// retry tries a batch again while the store is away, for as long as that takes.
func (r *Runner[T]) retry() middleware.Retry {
	return middleware.Retry{
		MaxRetries: math.MaxInt32, InitialInterval: r.cfg.RetryMin, MaxInterval: r.cfg.RetryMax, Multiplier: 2, RandomizationFactor: 0.2,
		ShouldRetry: func(p middleware.RetryParams) bool {
			if !r.transient(p.Err) {
				return false
			}
			r.retries.Add(1)
			if r.cfg.OnRetry != nil {
				r.cfg.OnRetry(p.Err)
			}
			return true
		},
	}
}
