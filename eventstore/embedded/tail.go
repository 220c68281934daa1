package embedded

import (
	"sort"
	"sync"

	"github.com/shiplog/shiplog/eventstore"
)

// tail holds the most recent events, so that a subscriber that is caught up never costs the disk a read, and tells
// subscribers of new ones. It holds nothing for any single subscriber: one that stalls finds, when it comes back, that
// the tail has moved past it, and reads from disk.
type tail struct {
	mu      sync.RWMutex
	head    eventstore.Position // of the last durable event
	from    eventstore.Position // everything after it is in events
	events  []eventstore.Recorded
	bytes   int
	dropped int           // events still in the array below the slice
	wake    chan struct{} // closed when head moves; nil while nobody waits

	maxEvents, maxBytes int
}

// sizeOf is about what an event costs in memory.
func sizeOf(e *eventstore.Recorded) int { return 200 + len(e.Data) + len(e.Metadata) }

// push adds events and moves the head, which is the position of the last of them or, after scavenged ones, beyond. It returns the
// channel to close to wake those who wait, nil if there are none.
func (t *tail) push(events []eventstore.Recorded, head eventstore.Position) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.head = head
	t.events = append(t.events, events...)
	for i := range events {
		t.bytes += sizeOf(&events[i])
	}
	for len(t.events) > t.maxEvents || t.bytes > t.maxBytes {
		t.drop()
	}
	// Subscribers read the slice without a lock, so what is dropped stays in the array. From time to time the rest moves out.
	if t.dropped > len(t.events)+64 {
		t.events, t.dropped = append(make([]eventstore.Recorded, 0, 2*len(t.events)+64), t.events...), 0
	}
	wake := t.wake
	t.wake = nil
	return wake
}

// forget drops the events up to a position: some of them are no longer on disk.
func (t *tail) forget(upTo eventstore.Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.events) > 0 && t.events[0].Position <= upTo {
		t.drop()
	}
	t.from = max(t.from, upTo)
}

// start says where the log stands when it is opened.
func (t *tail) start(head eventstore.Position) { t.head, t.from = head, head }

// drop forgets the oldest event.
func (t *tail) drop() {
	t.from = t.events[0].Position
	t.bytes -= sizeOf(&t.events[0])
	t.events = t.events[1:]
	t.dropped++
}

// after returns up to limit events after a position, and whether the tail reaches back that far. The events are shared.
// When there are none yet, it returns a channel that is closed as soon as there are.
func (t *tail) after(position eventstore.Position, limit int) (events []eventstore.Recorded, head eventstore.Position, reaches bool, wake <-chan struct{}) {
	t.mu.RLock()
	if position < t.head {
		defer t.mu.RUnlock()
		if position < t.from {
			return nil, t.head, false, nil
		}
		from := sort.Search(len(t.events), func(i int) bool { return t.events[i].Position > position })
		if from == len(t.events) {
			return nil, t.head, false, nil // nothing but scavenged events up to the head: that is for the disk to say
		}
		to := min(from+limit, len(t.events))
		return t.events[from:to:to], t.head, true, nil
	}
	if t.wake != nil {
		defer t.mu.RUnlock()
		return nil, t.head, true, t.wake
	}
	t.mu.RUnlock()

	t.mu.Lock()
	moved := position < t.head
	if !moved && t.wake == nil {
		t.wake = make(chan struct{})
	}
	head, channel := t.head, t.wake
	t.mu.Unlock()
	if moved {
		return t.after(position, limit)
	}
	return nil, head, true, channel
}

// current returns the position of the last durable event.
func (t *tail) current() eventstore.Position {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.head
}
