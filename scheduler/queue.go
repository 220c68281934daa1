package scheduler

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/internal/due"
)

// entryState is what a pod in the queue waits for.
type entryState int

const (
	ready    entryState = iota // the next round
	waiting                    // a change that may help it
	resting                    // its back-off to end
	binding                    // the answer to its binding
	finished                   // nothing: it left the queue
)

// Back-off after the first refusal; doubled with each, up to the last.
const (
	firstBackOff = time.Second
	lastBackOff  = 10 * time.Second
)

// entry is a pod that waits for a node.
type entry struct {
	due.Place   // among those that rest
	pending     Pending
	correlation string
	cause       *domain.Cause // the event that made the pod pending or, after a refusal, the one that gave it another chance
	state       entryState
	attempts    int
	notBefore   time.Time
	reasons     Reasons // of the last refusal
	saying      bool    // its condition is being written
	said        string  // the last message of an Event, and when
	saidAt      time.Time
}

func (e *entry) refusedBy(filters []Filter) bool {
	if len(filters) == 0 || len(e.reasons.Refused) == 0 {
		return true
	}
	for _, r := range e.reasons.Refused {
		for _, f := range filters {
			if r.Filter == f {
				return true
			}
		}
	}
	return false
}

// queue holds the pods that wait for a node.
type queue struct {
	entries map[types.NamespacedName]*entry
	ready   []*entry
	waiting map[*entry]struct{}
	resting due.Heap[*entry]
}

func newQueue() *queue {
	return &queue{entries: map[types.NamespacedName]*entry{}, waiting: map[*entry]struct{}{}}
}

func (q *queue) add(e *entry) {
	q.entries[podKey(e.pending.Pod())] = e
	q.makeReady(e)
}

func (q *queue) get(key types.NamespacedName) *entry { return q.entries[key] }

// has tells whether an entry is still the one of its name.
func (q *queue) has(key types.NamespacedName, e *entry) bool { return q.entries[key] == e }

func (q *queue) remove(key types.NamespacedName, e *entry) {
	if !q.has(key, e) {
		return
	}
	q.leave(e)
	e.state = finished
	delete(q.entries, key)
}

// leave takes an entry out of where it waits.
func (q *queue) leave(e *entry) {
	switch e.state {
	case waiting:
		delete(q.waiting, e)
	case resting:
		q.resting.Remove(e)
	case ready: // takeReady skips those that are no longer ready
	case binding, finished:
	}
}

func (q *queue) makeReady(e *entry) {
	e.state = ready
	q.ready = append(q.ready, e)
}

func (q *queue) takeReady() []*entry {
	list := q.ready[:0]
	for _, e := range q.ready {
		if e.state == ready {
			list = append(list, e)
		}
	}
	q.ready = nil
	return list
}

// wait puts an entry that no node took aside until a change may help it.
func (q *queue) wait(e *entry, now time.Time, reasons Reasons) {
	e.reasons = reasons
	e.state = waiting
	q.waiting[e] = struct{}{}
	e.delay(now)
}

func (e *entry) delay(now time.Time) {
	d := firstBackOff << min(e.attempts, 10)
	e.notBefore = now.Add(min(d, lastBackOff))
	e.attempts++
}

// backOff tries an entry again after its back-off.
func (q *queue) backOff(e *entry, now time.Time) {
	q.leave(e)
	e.delay(now)
	q.rest(e)
}

func (q *queue) rest(e *entry) {
	e.state = resting
	q.resting.Set(e, e.notBefore)
}

// wakeFor gives those that wait because of one of the filters (none: all) another chance, for a cause (nil: the one they have).
func (q *queue) wakeFor(now time.Time, cause *domain.Cause, filters ...Filter) {
	for e := range q.waiting {
		if !e.refusedBy(filters) {
			continue
		}
		if cause != nil {
			e.cause = cause
		}
		delete(q.waiting, e)
		// Room that is made for a pod must not stay empty while the pod rests.
		if e.notBefore.After(now) && e.pending.nominated == "" {
			q.rest(e)
		} else {
			q.makeReady(e)
		}
	}
}

// wake makes those ready whose back-off has ended.
func (q *queue) wake(now time.Time) {
	for e, ok := q.resting.Pop(now); ok; e, ok = q.resting.Pop(now) {
		q.makeReady(e)
	}
}

// next is when the first back-off ends.
func (q *queue) next() (time.Time, bool) { return q.resting.Next() }
