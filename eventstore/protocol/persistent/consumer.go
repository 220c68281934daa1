package persistent

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// Client says who consumes.
type Client struct {
	Slots int // how many events it takes before it answers
	User  string
	From  string // its address
	Name  string // of its connection
}

// Delivery is an event for a consumer.
type Delivery struct {
	Event *eventstore.Recorded
	// Link is what the event was found by, if it was parked. Its id is the one to answer with.
	Link    *eventstore.Recorded
	Retries int
}

// Consumer is a subscription to a group. Its methods are safe for use by two goroutines, one that calls Next and one that answers.
type Consumer struct {
	Client
	group *group
	core  *consumer
	wake  chan struct{}

	// guarded by the group
	queue   []*message
	dropped error
	counted int64 // events, at the last measurement
}

func (g *group) connect(c Client) (*Consumer, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil {
		return nil, ErrClosed
	}
	inner, err := g.core.connect(c.Slots)
	if err != nil {
		return nil, err
	}
	joined := &Consumer{Client: c, group: g, core: inner, wake: make(chan struct{}, 1)}
	g.members[inner] = joined
	g.settleLocked()
	return joined, nil
}

// Next blocks for the next event. It returns an error that is ErrDropped when the consumer was dropped, and ErrNotFound too when
// that is because the group was deleted.
func (c *Consumer) Next(ctx context.Context) (Delivery, error) {
	for {
		c.group.mu.Lock()
		if c.dropped != nil {
			defer c.group.mu.Unlock()
			return Delivery{}, c.dropped
		}
		if len(c.queue) > 0 {
			m := c.queue[0]
			c.queue = c.queue[1:]
			c.group.mu.Unlock()
			return Delivery{Event: &m.event, Link: m.link, Retries: m.retries}, nil
		}
		c.group.mu.Unlock()
		select {
		case <-c.wake:
		case <-ctx.Done():
			return Delivery{}, ctx.Err()
		}
	}
}

// Ack says that events were dealt with.
func (c *Consumer) Ack(ids ...uuid.UUID) {
	g := c.group
	g.mu.Lock()
	defer g.mu.Unlock()
	g.core.ack(ids, now())
	g.settleLocked()
}

// Nack says that the consumer could not deal with events.
func (c *Consumer) Nack(action Action, reason string, ids ...uuid.UUID) {
	g := c.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.dropped == nil {
		g.core.nack(c.core, ids, action, reason)
		g.settleLocked()
	}
}

// Close gives back what the consumer holds.
func (c *Consumer) Close() {
	g := c.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.dropped == nil {
		g.dropLocked(c.core, c, ErrDropped)
		g.settleLocked()
	}
}

// dropLocked ends a subscription.
func (g *group) dropLocked(inner *consumer, c *Consumer, reason error) {
	g.core.disconnect(inner)
	delete(g.members, inner)
	c.queue, c.dropped = nil, reason
	signal(c.wake)
}

// withdrawLocked takes back what the consumer has not fetched.
func (c *Consumer) withdrawLocked(m *message) {
	c.queue = slices.DeleteFunc(c.queue, func(queued *message) bool { return queued == m })
}
