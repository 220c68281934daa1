package controllers

import (
	"context"
	"sync"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/internal/due"
)

// trigger is the event that asks for a key. When several ask before the key is reconciled the one of the highest rank is the
// cause; of equals the latest.
type trigger struct {
	rank        int
	cause       domain.Cause // Position 0: none
	correlation string
}

func (t trigger) merge(u trigger) trigger {
	if u.cause.Position == 0 || u.rank < t.rank {
		return t
	}
	return u
}

// item is a key that is waiting, running, or must be remembered for a while.
type item struct {
	due.Place
	key     Key
	trigger trigger // of the next run
	queued  bool    // in ready
	running bool
	dirty   bool      // asked for while running
	want    time.Time // when to run by itself; zero: never
	floor   time.Time // not before this time

	failures int
}

// verdict is what a run of a key ended with.
type verdict struct {
	again  time.Time // zero: none
	settle time.Duration
	retry  bool // failed: run again after a back-off
}

// Back-off of keys that failed.
const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = 2 * time.Minute
)

func backoff(failures int) time.Duration {
	d := firstRetry
	for i := 1; i < failures && d < lastRetry; i++ {
		d *= 2
	}
	return min(d, lastRetry)
}

// queue holds the keys of one controller: each at most once, and never two runs of one key at a time.
type queue struct {
	workers int
	process func(context.Context, Key, trigger) verdict

	mu      sync.Mutex
	items   map[Key]*item
	ready   []*item
	timers  due.Heap[*item]
	running int
	wake    chan struct{}
}

func newQueue(workers int, process func(context.Context, Key, trigger) verdict) *queue {
	return &queue{workers: workers, process: process, items: map[Key]*item{}, wake: make(chan struct{}, 1)}
}

// add asks for a key as soon as may be.
func (q *queue) add(key Key, t trigger, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.items[key]
	if it == nil {
		it = &item{key: key}
		q.items[key] = it
	}
	it.trigger = it.trigger.merge(t)
	if it.running {
		it.dirty = true
		return
	}
	q.schedule(it, now, now)
}

// schedule wants an item to run at a time, or as soon after it as its floor allows. The caller holds mu.
func (q *queue) schedule(it *item, at, now time.Time) {
	if it.queued {
		return
	}
	if it.want.IsZero() || at.Before(it.want) {
		it.want = at
	}
	at = it.want
	if at.Before(it.floor) {
		at = it.floor
	}
	if at.After(now) {
		q.setTimer(it, at)
		return
	}
	q.makeReady(it)
}

func (q *queue) makeReady(it *item) {
	q.timers.Remove(it)
	it.queued = true
	q.ready = append(q.ready, it)
	q.poke()
}

func (q *queue) setTimer(it *item, at time.Time) {
	q.timers.Set(it, at)
	q.poke()
}

func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// depth is how many keys are waiting to run now.
func (q *queue) depth() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ready)
}

// run works until the context ends, and returns when the last run has.
func (q *queue) run(ctx context.Context) {
	var runs sync.WaitGroup
	defer runs.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := q.start(ctx, &runs)
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		case <-timer.C:
		}
	}
}

// start starts what is due and returns how long nothing will be.
func (q *queue) start(ctx context.Context, runs *sync.WaitGroup) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for it, ok := q.timers.Pop(now); ok; it, ok = q.timers.Pop(now) {
		if it.want.IsZero() { // it was only remembered for its floor
			delete(q.items, it.key)
			continue
		}
		q.makeReady(it)
	}
	for len(q.ready) > 0 && q.running < q.workers && ctx.Err() == nil {
		it := q.ready[0]
		q.ready[0] = nil
		q.ready = q.ready[1:]
		t := it.trigger
		it.queued, it.running, it.dirty = false, true, false
		it.want, it.trigger = time.Time{}, trigger{}
		q.running++
		runs.Add(1)
		go func() {
			defer runs.Done()
			v := q.process(ctx, it.key, t)
			q.done(it, t, v)
		}()
	}
	if at, ok := q.timers.Next(); ok {
		return at.Sub(now)
	}
	return time.Hour
}

func (q *queue) done(it *item, t trigger, v verdict) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.running--
	it.running = false
	it.floor = now.Add(v.settle)
	t.rank = 0 // it is the cause of a later run unless something happens
	if v.retry {
		it.failures++
		it.floor = now.Add(max(v.settle, backoff(it.failures)))
		it.trigger = t.merge(it.trigger)
		q.schedule(it, now, now)
	} else {
		it.failures = 0
	}
	if it.dirty {
		it.dirty = false
		q.schedule(it, now, now)
	}
	if !v.again.IsZero() {
		it.trigger = t.merge(it.trigger)
		q.schedule(it, v.again, now)
	}
	switch {
	case it.queued || it.Waits():
	case it.floor.After(now):
		q.setTimer(it, it.floor)
	default:
		delete(q.items, it.key)
	}
	q.poke()
}
