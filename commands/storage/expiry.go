package storage

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/shiplog/shiplog/commands/origin"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/internal/due"
)

// expirer deletes objects that were written with a time to live, by commands like any other: an object that expires leaves the
// log by an event, so that watches and read models hear of it. What is due after a restart is found by looking at the objects of
// the kinds whose retention has an age (Recover).
type expirer struct {
	engine *Engine
	mu     sync.Mutex
	due    due.Heap[*expiry]
	wake   chan struct{}
}

// expiry is the end of one object's life, unless it is written again before.
type expiry struct {
	due.Place
	kind     *domain.Kind
	ref      domain.Ref
	position uint64
}

func newExpirer(e *Engine) *expirer { return &expirer{engine: e, wake: make(chan struct{}, 1)} }

// schedule lets an object end at a time if its last event is then still the one at position.
func (x *expirer) schedule(d *expiry, at time.Time) {
	x.mu.Lock()
	x.due.Set(d, at)
	first, _ := x.due.Next()
	x.mu.Unlock()
	if first.Equal(at) {
		select {
		case x.wake <- struct{}{}:
		default:
		}
	}
}

func (x *expirer) run(ctx context.Context) {
	for {
		now := x.engine.now()
		for _, d := range x.takeDue(now) {
			x.expire(ctx, d)
		}
		timer := time.NewTimer(x.untilNext(now))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-x.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (x *expirer) takeDue(now time.Time) []*expiry {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []*expiry
	for d, ok := x.due.Pop(now); ok; d, ok = x.due.Pop(now) {
		out = append(out, d)
	}
	return out
}

func (x *expirer) untilNext(now time.Time) time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	at, ok := x.due.Next()
	if !ok {
		return time.Hour
	}
	return max(at.Sub(now), time.Millisecond)
}

// expire appends the deletion. An object that was written meanwhile has another end, or none.
func (x *expirer) expire(ctx context.Context, d *expiry) {
	o, ok := x.engine.live.Snapshot().Get(d.kind.GroupResource(), d.ref.Namespace, d.ref.Name)
	if !ok || o.Position != d.position {
		return
	}
	before, err := o.Typed()
	if err != nil {
		x.engine.logger.Error("expiring an object", "object", d.ref.String(), "error", err)
		return
	}
	ctx = origin.With(ctx, origin.Origin{
		Actor:   domain.Actor{User: "system:expiry"},
		Command: domain.CommandInfo{Verb: "delete"},
	})
	s := &Store{Engine: x.engine, kind: d.kind, gr: d.kind.GroupResource()}
	_, err = s.append(ctx, change{op: domain.Deleted, ref: d.ref, expected: eventstore.Exact(o.Revision), from: o, before: before}, nil)
	if err != nil && ctx.Err() == nil && !errors.Is(err, eventstore.ErrWrongExpectedRevision) {
		x.engine.logger.Warn("expiring an object; trying again in a minute", "object", d.ref.String(), "error", err)
		x.schedule(d, x.engine.now().Add(time.Minute))
	}
}

// Recover schedules the ends of the objects that were there when the process started. When a life began is not kept with the
// object; it is taken from the last time that the object itself tells.
func (e *Engine) Recover(kinds []*domain.Kind) {
	snap := e.live.Snapshot()
	for _, k := range kinds {
		if k.Retention.MaxAge == 0 {
			continue
		}
		for o := range snap.List(k.GroupResource(), "") {
			typed, err := o.Typed()
			if err != nil {
				continue
			}
			m, err := meta.Accessor(typed)
			if err != nil {
				continue
			}
			began := m.GetCreationTimestamp().Time
			for _, f := range m.GetManagedFields() {
				if f.Time != nil && f.Time.After(began) {
					began = f.Time.Time
				}
			}
			ref := o.Ref
			ref.UID = m.GetUID()
			e.expiry.schedule(&expiry{kind: k, ref: ref, position: o.Position}, began.Add(k.Retention.MaxAge))
		}
	}
}
