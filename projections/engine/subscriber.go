package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/shiplog/shiplog/eventstore"
)

// SubscriberConfig says how a Subscriber reads a log.
type SubscriberConfig struct {
	Log eventstore.Log
	// Filter turns a topic into what to read of the log; default: everything.
	Filter func(topic string) eventstore.Filter
	// After gives the position after which a subscription to a topic starts; default: 0.
	After func(ctx context.Context, topic string) (eventstore.Position, error)
	// Message makes a message of a batch, or nil when there is nothing to tell; default: BatchMessage, from which BatchOf gets
	// the batch back.
	Message func(Batch) (*message.Message, error)

	// MaxEvents and MaxBytes bound a batch. Defaults: 2,000 events, 8 MiB of data. One event is always delivered.
	MaxEvents int
	MaxBytes  int
	// Linger is how long to wait for more once there is something, so that a trickle of events does not cost a transaction
	// each. A batch that is full does not wait. Default: none.
	Linger time.Duration
	Logger *slog.Logger
}

// Subscriber is a watermill message.Subscriber over a log. Each subscription is its own catch-up subscription: all of them get
// all events. The order of the log is kept by withholding each message until the one before has been acked; one that is nacked
// is sent again.
type Subscriber struct {
	cfg     SubscriberConfig
	mu      sync.Mutex
	closed  bool
	urgent  eventstore.Position
	pending []*pending
	closing chan struct{}
	running sync.WaitGroup
}

var _ message.Subscriber = (*Subscriber)(nil)

// ErrSubscriberClosed says that a subscriber was used after Close.
var ErrSubscriberClosed = errors.New("subscriber closed")

// NewSubscriber returns a subscriber to a log.
func NewSubscriber(cfg SubscriberConfig) *Subscriber {
	if cfg.Filter == nil {
		cfg.Filter = func(string) eventstore.Filter { return eventstore.Filter{} }
	}
	if cfg.After == nil {
		cfg.After = func(context.Context, string) (eventstore.Position, error) { return 0, nil }
	}
	if cfg.Message == nil {
		cfg.Message = BatchMessage
	}
	if cfg.MaxEvents <= 0 {
		cfg.MaxEvents = 2000
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 8 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Subscriber{cfg: cfg, closing: make(chan struct{})}
}

// Subscribe implements message.Subscriber. The channel is closed when the context ends, the subscriber is closed, or the log is.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrSubscriberClosed
	}
	after, err := s.cfg.After(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("subscribing to %q: %w", topic, err)
	}
	out := make(chan *message.Message)
	subCtx, cancel := context.WithCancel(ctx)
	p := newPending(s.cfg.MaxEvents, s.cfg.MaxBytes)
	p.taken = after
	p.hurry(s.urgent)
	s.pending = append(s.pending, p)
	s.running.Go(func() {
		<-subCtx.Done()
		p.end()
	})
	s.running.Go(func() {
		select {
		case <-s.closing:
			cancel()
		case <-subCtx.Done():
		}
	})
	s.running.Go(func() {
		defer cancel()
		s.read(subCtx, topic, after, p)
	})
	s.running.Go(func() {
		defer close(out)
		defer cancel()
		s.deliver(subCtx, after, p, out)
	})
	return out, nil
}

// Hurry says that somebody waits for a position: events up to it do not linger.
func (s *Subscriber) Hurry(position eventstore.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.urgent = max(s.urgent, position)
	for _, p := range s.pending {
		p.hurry(position)
	}
}

// Close implements message.Subscriber: it ends all subscriptions and waits until they have ended.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	s.running.Wait()
	return nil
}

// read fills pending from the log, subscribing again after the last event when the subscription is over.
func (s *Subscriber) read(ctx context.Context, topic string, after eventstore.Position, p *pending) {
	const minWait, maxWait = 5 * time.Millisecond, 5 * time.Second
	wait := minWait
	for ctx.Err() == nil {
		reached, err := s.readOnce(ctx, topic, after, p)
		if reached > after {
			wait = minWait
		}
		after = reached
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, eventstore.ErrClosed), errors.Is(err, eventstore.ErrCorrupt), errors.Is(err, eventstore.ErrVersion):
			s.cfg.Logger.Error("the log cannot be read any more", "topic", topic, "after", after, "error", err)
			return
		case !errors.Is(err, eventstore.ErrDropped):
			s.cfg.Logger.Warn("the log cannot be read: trying again", "topic", topic, "after", after, "wait", wait, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, maxWait)
	}
}

func (s *Subscriber) readOnce(ctx context.Context, topic string, after eventstore.Position, p *pending) (eventstore.Position, error) {
	sub, err := s.cfg.Log.Subscribe(ctx, eventstore.Subscribe{After: after, Filter: s.cfg.Filter(topic)})
	if err != nil {
		return after, err
	}
	defer sub.Close()
	for {
		b, err := sub.Next(ctx)
		if err != nil {
			return after, err
		}
		events := b.Events
		for len(events) > 0 && events[0].Position <= after { // seen before the subscription was made again
			events = events[1:]
		}
		if n := len(events); n > 0 {
			b.Checkpoint = max(b.Checkpoint, events[n-1].Position)
		}
		if !p.add(events, b.Checkpoint, b.CaughtUp) {
			return after, ctx.Err()
		}
		after = max(after, b.Checkpoint)
	}
}

// deliver sends one message after another.
func (s *Subscriber) deliver(ctx context.Context, after eventstore.Position, p *pending, out chan<- *message.Message) {
	for {
		b, ok := p.take(s.cfg.Linger)
		if !ok {
			return
		}
		b.After = after
		if !s.send(ctx, b, out) {
			return
		}
		after = b.Through
	}
}

// send sends a batch until it is acked; false when the subscription is over.
func (s *Subscriber) send(ctx context.Context, b Batch, out chan<- *message.Message) bool {
	for {
		msg, err := s.cfg.Message(b)
		if err != nil {
			s.cfg.Logger.Error("a batch cannot be made a message", "after", b.After, "error", err)
			return false
		}
		if msg == nil {
			return true
		}
		msgCtx, cancel := context.WithCancel(ctx)
		msg.SetContext(withBatch(msgCtx, b))
		select {
		case out <- msg:
		case <-ctx.Done():
			cancel()
			return false
		}
		select {
		case <-msg.Acked():
			cancel()
			return true
		case <-msg.Nacked():
			cancel()
		case <-ctx.Done():
			cancel()
			return false
		}
	}
}

// BatchMessage makes a message that tells what the batch is; the batch itself travels in its context.
func BatchMessage(b Batch) (*message.Message, error) {
	msg := message.NewMessage(watermill.NewUUID(), nil)
	msg.Metadata.Set("after", fmt.Sprint(b.After))
	msg.Metadata.Set("through", fmt.Sprint(b.Through))
	msg.Metadata.Set("events", fmt.Sprint(len(b.Records)))
	return msg, nil
}
