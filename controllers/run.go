package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/shiplog/shiplog/commands"
)

// ErrSkipped is the Err of a careful decision's commands that were not sent because one before them failed.
var ErrSkipped = errors.New("not sent: an earlier command failed")

// maxThens bounds how often a decision may lead to a further one in the same run.
const maxThens = 8

// run carries out one decision.
type run struct {
	runtime    *Runtime
	controller Controller
	trigger    trigger

	written uint64 // position of the last own write
	stale   bool   // a command found that the view had changed
	err     error  // of commands, joined
	again   time.Time
	settle  time.Duration
}

func (r *run) carryOut(ctx context.Context, d Decision) {
	for range maxThens {
		outcomes := r.send(ctx, d)
		for _, o := range outcomes {
			r.judge(o)
		}
		if !d.Again.IsZero() && (r.again.IsZero() || d.Again.Before(r.again)) {
			r.again = d.Again
		}
		r.settle = max(r.settle, d.Settle)
		for _, e := range d.Events {
			r.runtime.recorder.record(r.controller.Name(), e, r.trigger)
		}
		if d.Then == nil || ctx.Err() != nil {
			return
		}
		d = d.Then(outcomes)
	}
	r.err = errors.Join(r.err, fmt.Errorf("%s: a decision went on for more than %d steps", r.controller.Name(), maxThens))
}

// send carries out the commands of a decision and returns what became of each, in their order.
func (r *run) send(ctx context.Context, d Decision) []Outcome {
	outcomes := make([]Outcome, len(d.Commands))
	actor := Actor(r.controller.Name())
	for i, c := range d.Commands {
		c.Actor = actor
		if c.Cause == nil && r.trigger.cause.Position > 0 {
			cause := r.trigger.cause
			c.Cause = &cause
		}
		if c.Correlation == "" {
			c.Correlation = r.trigger.correlation
		}
		outcomes[i] = Outcome{Command: c, Err: ErrSkipped}
	}
	if !d.Careful {
		r.batch(ctx, outcomes)
		return outcomes
	}
	for from, size := 0, 1; from < len(outcomes); from, size = from+size, size*2 {
		batch := outcomes[from:min(from+size, len(outcomes))]
		if r.batch(ctx, batch); failed(batch) {
			break
		}
	}
	return outcomes
}

func failed(outcomes []Outcome) bool {
	for _, o := range outcomes {
		if o.Err != nil {
			return true
		}
	}
	return false
}

// batch sends commands concurrently, as many at a time as the runtime has slots.
func (r *run) batch(ctx context.Context, outcomes []Outcome) {
	if len(outcomes) == 1 {
		r.do(ctx, &outcomes[0])
		return
	}
	var all sync.WaitGroup
	for i := range outcomes {
		all.Go(func() { r.do(ctx, &outcomes[i]) })
	}
	all.Wait()
}

func (r *run) do(ctx context.Context, o *Outcome) {
	select {
	case r.runtime.slots <- struct{}{}:
		defer func() { <-r.runtime.slots }()
	case <-ctx.Done():
		o.Err = ctx.Err()
		return
	}
	o.Result, o.Err = r.runtime.bus.Do(ctx, o.Command)
	r.runtime.meters.commanded(r.controller.Name(), o.Command, o.Err)
}

// judge decides what the end of a command means for the key.
func (r *run) judge(o Outcome) {
	r.written = max(r.written, o.Result.Position)
	err := o.Err
	switch {
	case err == nil, errors.Is(err, ErrSkipped), errors.Is(err, context.Canceled):
	case apierrors.IsNotFound(err) && o.Command.Verb != commands.Create:
		// It is gone, which is what a deletion wanted and what an update cannot change; the deletion's event asks for the key.
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		r.stale = true
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		// Nothing can be created any more and all there is will be deleted.
	default:
		r.err = errors.Join(r.err, fmt.Errorf("%s %s %s/%s: %w", o.Command.Verb, o.Command.Resource.Resource, o.Command.Namespace, o.Command.Name, err))
	}
}

// Benign says whether the error of a command only means that the view was old, that there is nothing left to do, or that the
// namespace is going away: nothing to tell anybody.
func Benign(err error) bool {
	return errors.Is(err, ErrSkipped) || errors.Is(err, context.Canceled) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) ||
		apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}
