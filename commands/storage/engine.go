package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/keystore"
	"github.com/shiplog/shiplog/projections"
)

// Config is what all stores share.
type Config struct {
	Log  eventstore.Log
	Live projections.Live
	// History answers reads of the past; nil: reads of a position that is no longer in memory fail with "Expired".
	History projections.History
	// Keys seal what kinds want sealed; nil: nothing is sealed, and nothing is destroyed. The set of the read models should open with them.
	Keys keystore.Store
	// Kinds are all kinds of the cluster, with the keys that open what is sealed. They must be given with Keys.
	Kinds  *domain.Set
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default()
}

// Engine makes the stores of the resources over one log. It is safe for many goroutines.
type Engine struct {
	log     eventstore.Log
	live    projections.Live
	history projections.History
	now     func() time.Time
	logger  *slog.Logger

	keys   keystore.Store
	kinds  *domain.Set
	reaper *reaper // nil without keys

	pages  *pages
	recent recent
	expiry *expirer
	bounds chan bound
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

// bound asks for a stream to get its retention.
type bound struct {
	stream string
	keep   domain.Retention
}

// NewEngine makes an engine. Close ends what it runs in the background.
func NewEngine(c Config) *Engine {
	e := &Engine{
		log: c.Log, live: c.Live, history: c.History, keys: c.Keys, kinds: c.Kinds, now: c.Now, logger: c.Logger,
		pages: newPages(), bounds: make(chan bound, 1024),
	}
	if e.now == nil {
		e.now = time.Now
	}
	if e.logger == nil {
		e.logger = slog.Default()
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.stop = cancel
	e.expiry = newExpirer(e)
	e.wg.Add(2)
	go func() { defer e.wg.Done(); e.expiry.run(ctx) }()
	go func() { defer e.wg.Done(); e.boundStreams(ctx) }()
	if e.keys != nil && e.kinds != nil {
		e.reaper = newReaper(e)
		e.wg.Go(func() { e.reaper.run(ctx) })
	}
	return e
}

// Close ends the engine's background work. It closes neither the log nor the live view.
func (e *Engine) Close() {
	e.stop()
	e.wg.Wait()
}

// Live is the live view that the engine reads from.
func (e *Engine) Live() projections.Live { return e.live }

// Log is the log that the engine appends to.
func (e *Engine) Log() eventstore.Log { return e.log }

// Now is the engine's clock.
func (e *Engine) Now() time.Time { return e.now() }

// boundStreams gives the streams of kinds with a retention their bounds. It stays out of the way of the writes: until a bound
// is set, or when it cannot be set, a stream merely keeps more than it needs to.
func (e *Engine) boundStreams(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case b := <-e.bounds:
			m := eventstore.Metadata{MaxCount: b.keep.MaxCount, MaxAge: b.keep.MaxAge}
			if err := e.log.SetMetadata(ctx, b.stream, eventstore.Any, m); err != nil && ctx.Err() == nil {
				e.logger.Warn("bounding a stream", "stream", b.stream, "error", err)
			}
		}
	}
}

func (e *Engine) bound(stream string, keep domain.Retention) {
	select {
	case e.bounds <- bound{stream, keep}:
	default: // The next creation under this name tries again.
	}
}

// Current returns the state of the cluster that reflects everything committed before the call.
func (e *Engine) Current(ctx context.Context) (projections.Reader, error) {
	head, err := e.log.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the log's head: %w", err)
	}
	if snap := e.live.Snapshot(); snap.Position() >= uint64(head) {
		return snap, nil
	}
	if err := e.live.WaitFor(ctx, uint64(head)); err != nil {
		return nil, fmt.Errorf("waiting for the live view to reach position %d: %w", head, err)
	}
	return e.live.Snapshot(), nil
}

// AtLeast returns a state that reflects a position: without a wait when the live view is there already.
func (e *Engine) atLeast(ctx context.Context, position uint64) (projections.Reader, error) {
	if snap := e.live.Snapshot(); snap.Position() >= position {
		return snap, nil
	}
	snap, err := e.Current(ctx)
	if err != nil {
		return nil, err
	}
	if snap.Position() < position {
		return nil, storage.NewTooLargeResourceVersionError(position, snap.Position(), 1)
	}
	return snap, nil
}

// correlationOf finds the correlation of the event that caused a command.
func (e *Engine) correlationOf(ctx context.Context, cause *domain.Cause) string {
	if cause == nil {
		return uuid.NewString()
	}
	if c, ok := e.recent.get(cause.Position); ok {
		return c
	}
	if cause.Position > 0 {
		if f, err := e.live.Follow(cause.Position - 1); err == nil {
			defer f.Close()
			short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			for {
				changes, _, err := f.Next(short)
				if err != nil {
					break
				}
				if len(changes) > 0 {
					if changes[0].Event.Position == cause.Position {
						return changes[0].Event.Correlation
					}
					break
				}
			}
		}
		if e.history != nil {
			if ev, err := e.history.Event(ctx, cause.Position, ""); err == nil {
				return ev.Correlation
			}
		}
	}
	return uuid.NewString()
}

// errNoHistory says that a moment of the past was asked for and nothing here can tell it.
var errNoHistory = errors.New("no history is kept here")

// Options describe one resource's store.
type Options struct {
	Kind *domain.Kind
	// Scheme converts between the kind's version, as the log and the live view hold it, and the Go type of New.
	Scheme *runtime.Scheme
	// New and NewList return what the callers of the store read into.
	New, NewList func() runtime.Object
	// Prefix is what the resource's keys begin with: "/pods".
	Prefix string
}
