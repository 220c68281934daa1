package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Options of a Runtime. The zero value works.
type Options struct {
	// Leader decides when the runtime may act; nil: always.
	Leader Leader
	Logger *slog.Logger          // nil: slog.Default()
	Meter  prometheus.Registerer // nil: no metrics
	// Workers is how many keys of one controller are reconciled at a time; 0: 4.
	Workers int
	// InFlight is how many commands are under way at a time, over all controllers; 0: 64. Commands spend their time waiting
	// for the log, which makes one write of all that wait.
	InFlight int
}

// Runtime runs the controllers of a registry.
type Runtime struct {
	registry *Registry
	live     projections.Live
	bus      commands.Bus
	leader   Leader
	log      *slog.Logger
	slots    chan struct{}
	workers  int
	meters   *meters
	recorder *recorder
}

// New makes a runtime. It fails when its metrics cannot be registered.
func New(registry *Registry, live projections.Live, bus commands.Bus, o Options) (*Runtime, error) {
	if o.Leader == nil {
		o.Leader = Always{}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Workers <= 0 {
		o.Workers = 4
	}
	if o.InFlight <= 0 {
		o.InFlight = 64
	}
	r := &Runtime{
		registry: registry, live: live, bus: bus, leader: o.Leader, log: o.Logger.With("room", "controllers"),
		slots: make(chan struct{}, o.InFlight), workers: o.Workers, meters: newMeters(),
	}
	r.recorder = newRecorder(live, bus, r.log)
	if o.Meter != nil {
		if err := r.meters.register(o.Meter); err != nil {
			return nil, fmt.Errorf("registering the metrics of controllers: %w", err)
		}
	}
	return r, nil
}

// Run works until the context ends, whenever the leader lets it. It returns nil when the context ended.
func (r *Runtime) Run(ctx context.Context) error {
	err := r.leader.Lead(ctx, r.lead)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("leading the controllers: %w", err)
	}
	return nil
}

// lead runs all controllers until the context ends. The view must reflect the position since before anything is decided: all
// that an earlier leader wrote stands before it.
func (r *Runtime) lead(ctx context.Context, since uint64) {
	if err := r.live.WaitFor(ctx, since); err != nil {
		r.log.Warn("controllers do not start: the view does not reach the leader's position", "position", since, "error", err)
		return
	}
	r.meters.leading.Set(1)
	defer r.meters.leading.Set(0)

	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	d := &dispatcher{runtime: r}
	began := time.Now()
	for _, c := range r.registry.controllers {
		if s, ok := c.(Starter); ok {
			c = s.Started(began)
		}
		var q *queue
		q = newQueue(r.workers, func(ctx context.Context, key Key, t trigger) verdict {
			r.meters.wait(c.Name(), q.depth())
			return r.reconcile(ctx, c, key, t)
		})
		d.add(c, q)
		all.Go(func() { q.run(ctx) })
	}
	all.Go(func() { r.recorder.run(ctx) })
	r.log.Info("controllers run", "controllers", len(r.registry.controllers))
	for attempt := 1; ctx.Err() == nil; attempt++ {
		err := d.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, projections.ErrTooOld):
			r.log.Info("controllers fell behind the buffer of changes: starting again from a snapshot")
			attempt = 0
			pause(ctx, afterTooOld)
		default:
			r.log.Warn("controllers lost the view: following it again", "error", err)
			pause(ctx, backoff(attempt))
		}
	}
}

// afterTooOld is the pause before everything is looked at anew: what made the runtime too slow needs time too.
const afterTooOld = 100 * time.Millisecond

// pause waits, or returns early when the context ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// reconcile runs a key once and carries out what is decided. It returns only when the view reflects all that was written, so
// that the next run of the key never decides on a view older than its own writes.
func (r *Runtime) reconcile(ctx context.Context, c Controller, key Key, t trigger) verdict {
	log := r.log.With("controller", c.Name(), "key", key.String())
	start := time.Now()
	d, err := decide(c, r.live.Snapshot(), key, start)
	r.meters.decided(c.Name(), time.Since(start))
	if err != nil {
		log.Warn("controller could not decide", "error", err)
		r.meters.ended(c.Name(), "undecided")
		return verdict{retry: true}
	}
	run := run{runtime: r, controller: c, trigger: t}
	run.carryOut(ctx, d)
	if run.written > 0 {
		if err := r.live.WaitFor(ctx, run.written); err != nil && ctx.Err() == nil {
			log.Warn("view does not reach own write", "position", run.written, "error", err)
			run.stale = true
		}
	}
	v := verdict{again: run.again, settle: run.settle, retry: run.stale || run.err != nil}
	switch {
	case ctx.Err() != nil:
		r.meters.ended(c.Name(), "stopped")
	case run.err != nil:
		log.Warn("command of a controller failed", "error", run.err)
		r.meters.ended(c.Name(), "failed")
	case run.stale:
		log.Debug("controller decided on a view that had changed: deciding again")
		r.meters.ended(c.Name(), "conflict")
	default:
		r.meters.ended(c.Name(), "ok")
	}
	return v
}

// decide calls Reconcile, and makes an error of a panic: one broken object must not stop the controllers.
func decide(c Controller, view projections.Reader, key Key, now time.Time) (d Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("reconciling %s by %s: panic: %v\n%s", key, c.Name(), p, debug.Stack())
		}
	}()
	d, err = c.Reconcile(view, key, now)
	if err != nil {
		return Decision{}, fmt.Errorf("reconciling %s by %s: %w", key, c.Name(), err)
	}
	return d, nil
}

// Actor is the authenticated form of a service account of kube-system, which a controller acts as.
func Actor(controller string) domain.Actor {
	return domain.Actor{
		User:      "system:serviceaccount:" + metav1.NamespaceSystem + ":" + controller,
		Groups:    []string{"system:serviceaccounts", "system:serviceaccounts:" + metav1.NamespaceSystem, "system:authenticated"},
		UserAgent: "shiplog-controllers",
	}
}
