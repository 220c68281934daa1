package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// reaper destroys the keys of payloads that no object has any more. It follows the live view, and so sees every superseding event, whoever wrote
// it and whether or not the writer was told; what it cannot have seen it finds by comparing the store with the objects that are there.
type reaper struct {
	engine  *Engine
	reached *progress
}

func newReaper(e *Engine) *reaper { return &reaper{engine: e, reached: newProgress()} }

// run reaps until the context ends.
func (r *reaper) run(ctx context.Context) {
	defer r.reached.stall(errEnded)
	const minWait, maxWait = 100 * time.Millisecond, time.Minute
	for wait := minWait; ; wait = min(2*wait, maxWait) {
		err := r.reap(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, projections.ErrTooOld) { // it fell behind: compare again
			wait = minWait
			continue
		}
		r.reached.stall(err)
		r.engine.logger.Error("superseded data keys are not destroyed; trying again", "wait", wait, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (r *reaper) reap(ctx context.Context) error {
	position, resources, err := r.sweep(ctx)
	if err != nil {
		return err
	}
	r.reached.reach(position)
	if len(resources) == 0 {
		<-ctx.Done() // nothing is ever sealed here
		return ctx.Err()
	}
	f, err := r.engine.live.Follow(position, resources...)
	if err != nil {
		return fmt.Errorf("following the live view: %w", err)
	}
	defer f.Close()
	for {
		changes, position, err := f.Next(ctx)
		if err != nil {
			return fmt.Errorf("following the live view: %w", err)
		}
		var superseded []string
		for _, c := range changes {
			if before, after := keyOf(c.Before), keyOf(c.After); before != "" && before != after {
				superseded = append(superseded, before)
			}
		}
		if len(superseded) > 0 {
			if err := r.engine.keys.Destroy(ctx, superseded...); err != nil {
				return err
			}
		}
		if n := len(changes); n > 0 {
			position = max(position, changes[n-1].Event.Position)
		}
		r.reached.reach(position)
	}
}

// errUnread keeps a sweep from taking the keys of objects that it cannot read for unused.
var errUnread = errors.New("an object cannot be read, so it is not known which keys are in use")

// sweep destroys the keys that no object needs, and returns the position up to which that holds and the resources that have, or may
// have, sealed objects.
func (r *reaper) sweep(ctx context.Context) (position uint64, resources []domain.Resource, err error) {
	n, missing := 0, 0
	n, err = r.engine.keys.Sweep(ctx, func() (map[string]bool, error) {
		snap, err := r.engine.Current(ctx)
		if err != nil {
			return nil, err
		}
		used := map[string]bool{}
		position = snap.Position()
		resources, missing = resources[:0], 0
		for _, k := range r.engine.kinds.All() {
			gr := k.GroupResource()
			holds := len(k.Sealed) > 0
			for o := range snap.List(gr, "") {
				if id := keyOf(o); id != "" {
					used[id], holds = true, true
					if _, ok := r.engine.keys.DataKey(id); !ok {
						missing++
					}
				}
				if len(k.Sealed) == 0 && !domain.IsSealed(o.JSON) {
					continue
				}
				if _, err := o.Typed(); err != nil {
					return nil, fmt.Errorf("%w: %s", errUnread, o.Ref)
				}
			}
			if holds {
				resources = append(resources, gr)
			}
		}
		return used, nil
	})
	if n > 0 && err == nil {
		r.engine.logger.Info("data keys that nothing needs any more have been destroyed", "keys", n)
	}
	if missing > 0 {
		r.engine.logger.Error("payloads cannot be read, because their keys are not in the key store: these objects read as erased", "objects", missing)
	}
	return position, resources, err
}

func keyOf(o *projections.Object) string {
	if o == nil {
		return ""
	}
	e, _ := domain.EnvelopeOf(o.JSON)
	return e.KeyID
}

// wait blocks until the keys superseded by the events up to a position are destroyed.
func (r *reaper) wait(ctx context.Context, position uint64) error {
	if err := r.reached.wait(ctx, position); err != nil {
		return fmt.Errorf("the deletion was committed at position %d, but the key of what was deleted has not been destroyed yet: %w", position, err)
	}
	return nil
}
