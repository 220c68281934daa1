package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/logreplay"
	"github.com/shiplog/shiplog/projections/memory"
)

// View is the current state of the cluster. It implements projections.Live.
type View struct {
	log   eventstore.Log
	kinds *domain.Set
	opts  Options
	slog  *slog.Logger

	mu         sync.Mutex // held while an event is applied and while a snapshot is taken
	store      *memory.Store
	position   uint64
	bulk       uint64 // events that were folded to start from
	applied    uint64 // events since
	unreadable map[domain.Ref]struct{}
	past       State // as it was keepRecent events ago, or less; Run's alone

	snapshot  atomic.Pointer[memory.Snapshot] // the last taken; current while its position is latest
	latest    atomic.Uint64                   // position
	ready     chan struct{}
	readyOnce sync.Once
	ended     chan struct{} // closed when Run returns; over is why, then
	over      error
	restarts  atomic.Uint64

	ring    *ring
	waiters waiters
	hints   hints
}

var _ projections.Live = (*View)(nil)

// New returns a view of a log. It is empty until Run has brought it up to date: see WaitReady.
func New(log eventstore.Log, kinds *domain.Set, opts Options) *View {
	opts.complete()
	v := &View{
		log: log, kinds: kinds, opts: opts, slog: opts.Logger, ready: make(chan struct{}), ended: make(chan struct{}),
		ring: newRing(opts.MaxChanges, opts.MaxChangeBytes),
	}
	v.reset(emptyBase(), 0)
	return v
}

func emptyBase() *Base {
	return &Base{Objects: memory.NewStore(), Broken: map[domain.Ref]struct{}{}}
}

// Run keeps the view up to date until the context ends, which is no error, or the log cannot be followed any more. It is called
// once. When it returns, followers and waiters get ErrClosed.
func (v *View) Run(ctx context.Context) (over error) {
	defer func() {
		v.over = over
		close(v.ended)
	}()
	defer v.ring.close()
	defer v.waiters.end(fmt.Errorf("following the log: %w", eventstore.ErrClosed))
	stop := v.tellProgress()
	defer stop()
	const minWait, maxWait = time.Millisecond, 2 * time.Second
	wait := minWait
	for started := false; ; {
		before := v.latest.Load()
		var err error
		if !started {
			err = v.start(ctx)
			started = err == nil
		}
		if started {
			err = v.follow(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, domain.ErrNewer), errors.Is(err, eventstore.ErrClosed), errors.Is(err, eventstore.ErrCorrupt), errors.Is(err, eventstore.ErrVersion):
			return fmt.Errorf("keeping the live view: %w", err)
		}
		v.restarts.Add(1)
		dropped := errors.Is(err, eventstore.ErrDropped) // for being slow: the log itself is well
		if dropped || v.latest.Load() != before {
			wait = minWait
		}
		if dropped {
			v.slog.Debug("the log's subscription was dropped: subscribing again", "position", v.latest.Load(), "error", err)
		} else {
			v.slog.Warn("the log cannot be followed: trying again", "position", v.latest.Load(), "wait", wait, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, maxWait)
	}
}

// keepRecent is about how many of the log's last events a view that starts takes one by one, so that those who come back after a
// restart find them in the buffer of recent changes. What comes before is only folded, which is a lot quicker.
const keepRecent = 4096

// start takes the objects from where the options say, if they are of use, and else from the log.
func (v *View) start(ctx context.Context) error {
	head, err := v.log.Head(ctx)
	if err != nil {
		return fmt.Errorf("starting the live view: %w", err)
	}
	base, err := v.base(ctx, uint64(head))
	if err != nil {
		return err
	}
	events := uint64(0)
	if uint64(head) > base.Position+keepRecent {
		from := uint64(head) - keepRecent
		if events, err = logreplay.Continue(ctx, v.log, v.kinds, base.Objects, base.Broken, base.Position, from); err != nil {
			return fmt.Errorf("starting the live view: %w", err)
		}
		base.Position = from
	}
	v.reset(base, events)
	if v.opts.Offer != nil && events > 0 {
		v.opts.Offer(v.past)
	}
	return nil
}

// base is what the options give to start from, if it is of use, and else the state before the first event.
func (v *View) base(ctx context.Context, head uint64) (*Base, error) {
	if v.opts.Base == nil {
		return emptyBase(), nil
	}
	base, err := v.opts.Base(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		v.slog.Warn("the live view starts from the beginning of the log", "because", err)
	case base == nil:
	case base.Position > head:
		v.slog.Warn("the live view starts from the beginning of the log: what it was to start from is of another log", "position", base.Position, "head", head)
	default:
		v.slog.Debug("the live view starts from a snapshot", "position", base.Position, "objects", base.Objects.Len(), "head", head)
		return base, nil
	}
	return emptyBase(), nil
}

// reset replaces everything. events is how many have led from what the options gave to the base.
func (v *View) reset(base *Base, events uint64) {
	v.mu.Lock()
	v.store = base.Objects
	v.unreadable = base.Broken
	v.position, v.bulk, v.applied = base.Position, events, 0
	v.snapshot.Store(v.store.Snapshot(base.Position))
	v.latest.Store(base.Position)
	v.mu.Unlock()
	if v.opts.Offer != nil {
		v.past = v.State()
	}
	v.ring.reset(base.Position)
	v.waiters.reach(base.Position)
}

// State is the state as it is now, for others to keep.
func (v *View) State() State {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.store.Snapshot(v.position)
	v.snapshot.Store(s)
	return State{Objects: s, broken: maps.Clone(v.unreadable), Events: v.bulk + v.applied}
}

// remember offers the state as it was, once it is keepRecent events old. Whoever starts from it finds the events since then in the log,
// and takes the last of them one by one.
func (v *View) remember() {
	if v.opts.Offer == nil || v.bulk+v.applied < v.past.Events+keepRecent {
		return
	}
	v.opts.Offer(v.past)
	v.past = v.State()
}

// tellProgress lets followers know the position now and then, until it is stopped.
func (v *View) tellProgress() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(v.opts.Progress)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				v.ring.progress()
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

// follow applies what one subscription delivers until it is over.
func (v *View) follow(ctx context.Context) error {
	sub, err := v.log.Subscribe(ctx, eventstore.Subscribe{After: eventstore.Position(v.latest.Load())})
	if err != nil {
		return fmt.Errorf("subscribing: %w", err)
	}
	defer sub.Close()
	for {
		batch, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		// In chunks, so that those who wait for an early event of a long batch need not wait for the last.
		const chunk = 256
		events := batch.Events
		for len(events) > chunk {
			if err := v.apply(events[:chunk], 0); err != nil {
				return err
			}
			events = events[chunk:]
		}
		if err := v.apply(events, uint64(batch.Checkpoint)); err != nil {
			return err
		}
		if batch.CaughtUp {
			v.readyOnce.Do(func() { close(v.ready) })
		}
	}
}

// WaitReady blocks until everything that was in the log when the view subscribed has been applied. When Run ends before that, it
// returns Run's error, or eventstore.ErrClosed.
func (v *View) WaitReady(ctx context.Context) error {
	select {
	case <-v.ready:
		return nil
	case <-v.ended:
		if v.over != nil {
			return v.over
		}
		return fmt.Errorf("waiting for the live view: %w", eventstore.ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("waiting for the live view: %w", ctx.Err())
	}
}

// Snapshot implements projections.Live.
func (v *View) Snapshot() projections.Reader { return v.current() }

func (v *View) current() *memory.Snapshot {
	if s := v.snapshot.Load(); s.Position() == v.latest.Load() {
		return s
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.snapshot.Load()
	if s.Position() != v.position {
		s = v.store.Snapshot(v.position)
		v.snapshot.Store(s)
	}
	return s
}

// WaitFor implements projections.Live.
func (v *View) WaitFor(ctx context.Context, position uint64) error {
	if err := v.waiters.wait(ctx, position); err != nil {
		return fmt.Errorf("waiting for position %d: %w", position, err)
	}
	return nil
}

// Follow implements projections.Live.
func (v *View) Follow(after uint64, resources ...domain.Resource) (projections.Follower, error) {
	f, err := v.ring.follow(after, resources)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Expect implements projections.Live.
func (v *View) Expect(eventID string, typed runtime.Object) {
	if typed != nil && eventID != "" {
		v.hints.put(eventID, typed, time.Now())
	}
}

// Stats returns figures for metrics. Lag is 0 when the log cannot say where its head is.
func (v *View) Stats(ctx context.Context) Stats {
	v.mu.Lock()
	s := Stats{Position: v.position, Objects: v.store.Len(), Unreadable: len(v.unreadable), Applied: v.applied, Restarts: v.restarts.Load()}
	v.mu.Unlock()
	select {
	case <-v.ready:
		s.Ready = true
	default:
	}
	s.Changes, s.ChangeBytes, s.Followers = v.ring.stats()
	if head, err := v.log.Head(ctx); err == nil && uint64(head) > s.Position {
		s.Lag = uint64(head) - s.Position
	}
	return s
}
