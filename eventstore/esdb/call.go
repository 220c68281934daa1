package esdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// The pauses between the repetitions of a call: each is twice as long as the one before.
const (
	firstBackoff = 20 * time.Millisecond
	lastBackoff  = time.Second
)

// patience is a context that ends when nothing has been heard for a while.
type patience struct {
	context.Context
	timer *time.Timer
	limit time.Duration
	end   context.CancelCauseFunc
}

// errSilent is why a call ended that the server did not get anywhere with.
var errSilent = errors.New("no answer in time")

func newPatience(ctx context.Context, limit time.Duration) *patience {
	ctx, end := context.WithCancelCause(ctx)
	return &patience{Context: ctx, end: end, limit: limit, timer: time.AfterFunc(limit, func() { end(errSilent) })}
}

// heard begins the waiting anew.
func (p *patience) heard() { p.timer.Reset(p.limit) }

func (p *patience) stop() {
	p.timer.Stop()
	p.end(nil)
}

// do makes a call until it is answered, the context ends, or nothing has been heard for Options.Timeout. The call says heard at
// each sign of life.
func do[T any](ctx context.Context, l *Log, call func(ctx context.Context, c *connection, heard func()) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	waiting := newPatience(ctx, l.opts.Timeout)
	defer waiting.stop()
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		result, err := once(waiting, l, l.leader, call)
		if err == nil {
			return result, nil
		}
		select {
		case <-l.closing:
			return none, eventstore.ErrClosed
		default:
		}
		if ctx.Err() != nil {
			return none, ctx.Err()
		}
		if waiting.Err() != nil {
			return none, l.silent(err)
		}
		if !errors.Is(err, eventstore.ErrUnavailable) {
			return none, err
		}
		select {
		case <-time.After(backoff):
		case <-l.closing:
			return none, eventstore.ErrClosed
		case <-waiting.Done():
			if ctx.Err() != nil {
				return none, ctx.Err()
			}
			return none, l.silent(err)
		}
	}
}

// silent is the error of a call that was given up; last is that of its last attempt.
func (l *Log) silent(last error) error {
	if errors.Is(last, errSilent) || errors.Is(last, context.Canceled) {
		return fmt.Errorf("%w: no answer within %s", eventstore.ErrUnavailable, l.opts.Timeout)
	}
	return fmt.Errorf("tried for %s: %w", l.opts.Timeout, last)
}

// once makes a call once, on a connection of the pool. The client can block for ever or panic where its connection is gone, so
// the call runs in a goroutine of its own, which is left behind when the context ends first or the connection is cut.
func once[T any](ctx context.Context, l *Log, p *pool, call func(ctx context.Context, c *connection, heard func()) (T, error)) (T, error) {
	type answer struct {
		result T
		err    error
	}
	var none T
	c, err := p.borrow(ctx)
	if err != nil {
		return none, err
	}
	calling, cancel := context.WithCancel(p.outgoing(ctx))
	watch := time.NewTicker(probeAfter(l.opts.Timeout))
	defer watch.Stop()
	heard := func() {}
	if w, ok := ctx.(*patience); ok {
		heard = func() {
			w.heard()
			watch.Reset(probeAfter(l.opts.Timeout))
		}
	}
	answers := make(chan answer, 1)
	go func() {
		var a answer
		defer func() {
			if r := recover(); r != nil {
				a.err = fmt.Errorf("%w: the client panicked: %v", errBroken, r)
			}
			cancel()
			c.giveBack()
			answers <- a
		}()
		a.result, a.err = call(calling, c, heard)
	}()
	for {
		select {
		case a := <-answers:
			if a.err == nil {
				return a.result, nil
			}
			if ctx.Err() != nil {
				return none, context.Cause(ctx)
			}
			err := kindOf(a.err)
			if errors.Is(err, errBroken) {
				c.retire()
			}
			return a.result, err
		case <-watch.C:
			c.probe()
		case <-c.life.Done():
			cancel()
			return none, errBroken
		case <-ctx.Done():
			return none, context.Cause(ctx)
		}
	}
}
