package controllers

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shiplog/shiplog/domain"
)

// recordedRuns notes when a queue ran which key.
type recordedRuns struct {
	mu     sync.Mutex
	start  time.Time
	runs   []string
	takes  time.Duration
	answer func(run int) verdict
	alive  map[Key]int
	most   int
	causes []uint64
}

func (r *recordedRuns) process(_ context.Context, key Key, t trigger) verdict {
	r.mu.Lock()
	if r.alive == nil {
		r.alive = map[Key]int{}
	}
	r.alive[key]++
	if r.alive[key] > 1 {
		r.runs = append(r.runs, "TWICE AT ONCE "+key.Name)
	}
	total := 0
	for _, n := range r.alive {
		total += n
	}
	r.most = max(r.most, total)
	r.runs = append(r.runs, fmt.Sprintf("%s@%s", key.Name, time.Since(r.start)))
	r.causes = append(r.causes, t.cause.Position)
	n := len(r.runs)
	r.mu.Unlock()
	time.Sleep(r.takes)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alive[key]--
	if r.answer != nil {
		return r.answer(n)
	}
	return verdict{}
}

func at(position uint64, rank int) trigger {
	return trigger{rank: rank, cause: domain.Cause{Position: position}}
}

func TestQueue(t *testing.T) {
	a, b := Key{Name: "a"}, Key{Name: "b"}
	for _, c := range []struct {
		name  string
		takes time.Duration
		do    func(q *queue)
		ends  func(run int) verdict
		want  []string
		cause []uint64
	}{
		{
			name:  "asked for twice before it ran, a key runs once, for the weightier reason",
			do:    func(q *queue) { q.add(a, at(1, rankSpec), time.Now()); q.add(a, at(2, rankStatus), time.Now()) },
			want:  []string{"a@0s"},
			cause: []uint64{1},
		},
		{
			name: "asked for while it runs, a key runs once more afterwards", takes: time.Second,
			do: func(q *queue) {
				q.add(a, at(1, rankSpec), time.Now())
				time.Sleep(100 * time.Millisecond)
				q.add(a, at(2, rankStatus), time.Now())
				q.add(a, at(3, rankStatus), time.Now())
				q.add(b, at(4, rankStatus), time.Now())
			},
			want: []string{"a@0s", "b@100ms", "a@1s"}, cause: []uint64{1, 4, 3},
		},
		{
			name: "failures back off",
			do:   func(q *queue) { q.add(a, at(1, rankSpec), time.Now()) },
			ends: func(run int) verdict { return verdict{retry: run < 5} },
			want: []string{"a@0s", "a@5ms", "a@15ms", "a@35ms", "a@75ms"}, cause: []uint64{1, 1, 1, 1, 1},
		},
		{
			name: "a time to look again, which an event comes before",
			do: func(q *queue) {
				q.add(a, at(1, rankSpec), time.Now())
				time.Sleep(time.Second)
				q.add(a, at(2, rankStatus), time.Now())
			},
			ends: func(run int) verdict {
				if run < 3 {
					return verdict{again: time.Now().Add(time.Minute)}
				}
				return verdict{}
			},
			want: []string{"a@0s", "a@1s", "a@1m1s"}, cause: []uint64{1, 2, 2},
		},
		{
			name: "settling holds events back, and does not run by itself",
			do: func(q *queue) {
				q.add(a, at(1, rankSpec), time.Now())
				for range 19 {
					time.Sleep(100 * time.Millisecond)
					q.add(a, at(2, rankStatus), time.Now())
				}
			},
			ends: func(int) verdict { return verdict{settle: time.Second} },
			want: []string{"a@0s", "a@1s", "a@2s"}, cause: []uint64{1, 2, 2},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &recordedRuns{start: time.Now(), takes: c.takes, answer: c.ends}
				q := newQueue(2, r.process)
				ctx, cancel := context.WithCancel(t.Context())
				var done sync.WaitGroup
				done.Go(func() { q.run(ctx) })
				c.do(q)
				time.Sleep(time.Hour)
				synctest.Wait()
				if !slices.Equal(r.runs, c.want) {
					t.Errorf("runs %v, want %v", r.runs, c.want)
				}
				if c.cause != nil && !slices.Equal(r.causes, c.cause) {
					t.Errorf("causes %v, want %v", r.causes, c.cause)
				}
				if len(q.items) != 0 || q.timers.Len() != 0 {
					t.Errorf("%d keys and %d timers are kept for nothing", len(q.items), q.timers.Len())
				}
				cancel()
				done.Wait()
			})
		})
	}
}

func TestWorkersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recordedRuns{start: time.Now(), takes: time.Second}
		q := newQueue(3, r.process)
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { q.run(ctx) })
		for i := range 10 {
			q.add(Key{Name: fmt.Sprint(i)}, trigger{}, time.Now())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if r.most != 3 || len(r.runs) != 10 {
			t.Errorf("%d at once, %d runs; want 3 and 10", r.most, len(r.runs))
		}
		cancel()
		done.Wait()
	})
}
