package persistent

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// Action is what is to become of an event that a consumer could not deal with.
type Action int

// Actions.
const (
	Retry Action = iota // hand it out again
	Park                // put it aside
	Skip                // forget it
	Stop                // drop the consumer, and hand it out again
)

// message is an event on its way to a consumer.
type message struct {
	event   eventstore.Recorded
	link    *eventstore.Recorded // what the event was found by, if it was
	place   uint64               // in the source; of a replayed one, in the stream of parked events
	retries int
	// replayed says that the event was parked, and comes from there.
	replayed bool
}

// id is what consumers call the message.
func (m *message) id() uuid.UUID {
	if m.link != nil {
		return m.link.ID
	}
	return m.event.ID
}

// consumer is one of those who share a group's events.
type consumer struct {
	serial uint64 // consumers are numbered as they come
	slots  int    // how many events it holds at a time
	held   map[uuid.UUID]*holding
	total  int64
	delays latencies
}

func (c *consumer) free() int { return c.slots - len(c.held) }

// holding is a message that was handed out, or that is being parked, which nobody holds.
type holding struct {
	*message
	by    *consumer
	since time.Time
}

// delivery is a message for a consumer, or one that it should no longer get.
type delivery struct {
	to *consumer
	*message
}

// parking is a message to be put aside.
type parking struct {
	*message
	reason string
}

// outcome is what has to be done.
type outcome struct {
	deliver  []delivery
	withdraw []delivery
	park     []parking
	drop     []*consumer
}

// core decides. It is not safe for concurrent use.
type core struct {
	settings  Settings
	consumers []*consumer
	serial    uint64
	picker    picker

	fresh []*message // in order, not handed out yet
	again []*message // to be handed out again: by place, replayed ones after the others
	out   map[uuid.UUID]*holding
	// expiring are handed-out messages in the order in which they run out of time, those too that have been dealt with since.
	expiring []*holding

	source progress // how far the group has come in what it reads
	parked progress // and in the parked events that were replayed
	marked time.Time
	total  int64
	todo   outcome
}

func newCore(s Settings, now time.Time) *core {
	return &core{settings: s, picker: newPicker(s.Strategy), out: make(map[uuid.UUID]*holding), marked: now}
}

// take returns what has to be done, once.
func (c *core) take() outcome {
	todo := c.todo
	c.todo = outcome{}
	return todo
}

// room says whether more should be read.
func (c *core) room() bool { return len(c.fresh)+len(c.again) < c.settings.HistoryBuffer }

// add takes a message that was read.
func (c *core) add(m *message) {
	c.source.begin(m.place)
	c.fresh = append(c.fresh, m)
}

// replay takes a message that was parked.
func (c *core) replay(m *message) {
	c.parked.begin(m.place)
	c.again = append(c.again, m)
}

// connect adds a consumer.
func (c *core) connect(slots int) (*consumer, error) {
	if limit := c.settings.MaxSubscribers; limit > 0 && len(c.consumers) >= limit {
		return nil, ErrMaxSubscribers
	}
	c.serial++
	joined := &consumer{serial: c.serial, slots: slots, held: make(map[uuid.UUID]*holding)}
	c.consumers = append(c.consumers, joined)
	return joined, nil
}

// disconnect removes a consumer. What it held is handed out again: that counts as a retry, because it may be what broke the consumer.
func (c *core) disconnect(gone *consumer) {
	i := slices.Index(c.consumers, gone)
	if i < 0 {
		return
	}
	c.consumers = slices.Delete(c.consumers, i, i+1)
	left := make([]*holding, 0, len(gone.held))
	for _, h := range gone.held {
		left = append(left, h)
	}
	slices.SortFunc(left, func(a, b *holding) int { return compare(a.message, b.message) })
	for _, h := range left {
		c.failed(h)
	}
}

// ack says that events were dealt with, whoever holds them by now.
func (c *core) ack(ids []uuid.UUID, now time.Time) {
	for _, id := range ids {
		if h := c.out[id]; h != nil && h.by != nil {
			if c.settings.ExtraStatistics {
				h.by.delays.add(now.Sub(h.since))
			}
			c.finish(h)
		}
	}
}

// nack says that a consumer could not deal with events.
func (c *core) nack(from *consumer, ids []uuid.UUID, action Action, reason string) {
	for _, id := range ids {
		h := c.out[id]
		if h == nil || h.by == nil {
			continue
		}
		switch action {
		case Park:
			c.park(h, "Client explicitly NAK'ed message.\n"+reason)
		case Skip:
			c.finish(h)
		case Retry:
			c.failed(h)
		}
	}
	if action == Stop {
		c.disconnect(from)
		c.todo.drop = append(c.todo.drop, from)
	}
}

// expire takes back what consumers have held for too long.
func (c *core) expire(now time.Time) {
	for len(c.expiring) > 0 {
		h := c.expiring[0]
		current := c.out[h.id()] == h && h.by != nil
		if current && now.Before(h.since.Add(c.settings.MessageTimeout)) {
			return
		}
		c.expiring = c.expiring[1:]
		if current {
			c.todo.withdraw = append(c.todo.withdraw, delivery{h.by, h.message})
			c.failed(h)
		}
	}
}

// failed hands a message out again, or parks it when that was tried often enough.
func (c *core) failed(h *holding) {
	if h.retries >= c.settings.MaxRetries {
		c.park(h, fmt.Sprintf("Reached retry count of %d", c.settings.MaxRetries))
		return
	}
	c.release(h)
	m := *h.message // what was delivered keeps its count
	m.retries++
	i, _ := slices.BinarySearchFunc(c.again, &m, func(a, b *message) int {
		if compare(a, b) <= 0 {
			return -1
		}
		return 1
	})
	c.again = slices.Insert(c.again, i, &m)
}

// compare orders messages to be handed out again.
func compare(a, b *message) int {
	switch {
	case a.replayed != b.replayed:
		if b.replayed {
			return -1
		}
		return 1
	case a.place < b.place:
		return -1
	case a.place > b.place:
		return 1
	default:
		return 0
	}
}

// park takes a message from its consumer. It is finished only when it is safely aside.
func (c *core) park(h *holding, reason string) {
	if h.by != nil {
		delete(h.by.held, h.id())
		h.by = nil
	}
	c.todo.park = append(c.todo.park, parking{h.message, reason})
}

// isParked says that a message is safely aside.
func (c *core) isParked(m *message) {
	if h := c.out[m.id()]; h != nil && h.message == m {
		c.finish(h)
	}
}

// release takes a message from whoever holds it.
func (c *core) release(h *holding) {
	if h.by != nil {
		delete(h.by.held, h.id())
	}
	delete(c.out, h.id())
}

func (c *core) finish(h *holding) {
	c.release(h)
	if h.replayed {
		c.parked.finish(h.place)
	} else {
		c.source.finish(h.place)
	}
}

// handOut gives consumers what they have room for.
func (c *core) handOut(now time.Time) {
	var full bool
	if c.again, full = c.handFrom(c.again, now); !full {
		c.fresh, _ = c.handFrom(c.fresh, now)
	}
}

// handFrom hands out messages of a queue and returns the rest.
func (c *core) handFrom(queue []*message, now time.Time) (rest []*message, full bool) {
	if len(c.consumers) == 0 {
		return queue, true
	}
	for i, m := range queue {
		// Two events can have one id. The second waits, for consumers tell events apart by it.
		if c.out[m.id()] == nil {
			to, full := c.picker.pick(c.consumers, m)
			if full && len(rest) == 0 {
				return queue[i:], true
			}
			if full {
				return append(rest, queue[i:]...), true
			}
			if to != nil {
				c.hand(m, to, now)
				continue
			}
		}
		rest = append(rest, m)
	}
	return rest, false
}

func (c *core) hand(m *message, to *consumer, now time.Time) {
	h := &holding{message: m, by: to, since: now}
	c.out[m.id()], to.held[m.id()] = h, h
	if c.settings.MessageTimeout > 0 {
		c.expiring = append(c.expiring, h)
	}
	to.total++
	c.total++
	c.todo.deliver = append(c.todo.deliver, delivery{to, m})
}

// wake returns when something will have to be done although nothing happens; false: never. It says nothing of a checkpoint
// while one is being written.
func (c *core) wake(writing bool) (time.Time, bool) {
	var at time.Time
	if len(c.expiring) > 0 {
		at = c.expiring[0].since.Add(c.settings.MessageTimeout)
	}
	if since := c.source.since(); !writing && since > 0 && since >= c.settings.MinCheckpoint {
		if due := c.marked.Add(c.settings.CheckpointAfter); at.IsZero() || due.Before(at) {
			at = due
		}
	}
	return at, !at.IsZero()
}

// checkpoint returns the place to be remembered, if it is time.
func (c *core) checkpoint(now time.Time) (uint64, bool) {
	since := c.source.since()
	inTime := since >= c.settings.MinCheckpoint && !now.Before(c.marked.Add(c.settings.CheckpointAfter))
	if since == 0 || !inTime && since < max(c.settings.MaxCheckpoint, 1) {
		return 0, false
	}
	c.source.mark()
	c.marked = now
	return c.source.reached, true
}
