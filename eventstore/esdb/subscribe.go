package esdb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"github.com/shiplog/shiplog/eventstore"
)

// bufferedEvents is how many messages of a subscription are received ahead of the receiver.
const bufferedEvents = 256

// subscription follows the server, and subscribes again where it stands when the connection breaks: the client never does.
type subscription struct {
	l        *Log
	opts     eventstore.Subscribe
	ctx      context.Context
	cancel   context.CancelCauseFunc
	messages chan message

	mu      sync.Mutex
	at      place
	current *link
}

// place is how far a subscription has come: what to resume it from.
type place struct {
	after    eventstore.Position
	revision *uint64 // of a subscription to one stream
}

// message is what the pump hands to Next.
type message struct {
	event      *eventstore.Recorded // nil: only a checkpoint
	checkpoint eventstore.Position
	caughtUp   bool
}

// Subscribe follows the log, or one stream. When the connection breaks the subscription goes on by itself, on whichever server
// is found, with the first event that it has not delivered. Next returns ErrDropped only when the subscription was closed, its
// stream is deleted for good, or the server refuses it.
func (l *Log) Subscribe(ctx context.Context, opts eventstore.Subscribe) (eventstore.Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &subscription{
		l: l, opts: opts, messages: make(chan message, bufferedEvents), at: place{after: opts.After, revision: opts.AfterRevision},
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	first, err := s.connect()
	if err != nil && !errors.Is(err, eventstore.ErrUnavailable) {
		s.cancel(err)
		return nil, fmt.Errorf("subscribing: %w", err)
	}
	go s.pump(first)
	return s, nil
}

// Close ends the subscription.
func (s *subscription) Close() error {
	s.cancel(errors.New("it was closed"))
	return nil
}

// link is one of the server's subscriptions.
type link struct {
	*esdb.Subscription
	end func()
}

// connect opens a subscription of the server's after what has been delivered.
func (s *subscription) connect() (*link, error) {
	pool := s.l.subscribers
	waiting := newPatience(s.ctx, s.l.opts.Timeout) // for the connecting only
	defer waiting.stop()
	k, err := once(waiting, s.l, pool, func(connecting context.Context, c *connection, _ func()) (*link, error) {
		lasting, cancel := context.WithCancel(pool.outgoing(s.ctx))
		context.AfterFunc(c.life, cancel)
		abandoned := context.AfterFunc(connecting, cancel)
		sub, err := s.open(lasting, c)
		if !abandoned() && err == nil {
			err = connecting.Err() // nobody waits for it any more
		}
		if err != nil {
			cancel()
			return nil, err
		}
		c.hold()
		k := &link{Subscription: sub, end: sync.OnceFunc(func() { cancel(); c.giveBack() })}
		s.take(k)
		return k, nil
	})
	if errors.Is(err, errSilent) {
		err = fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	return k, err
}

// take makes a link the one in use, and ends the one before, if there is one: at most one is open.
func (s *subscription) take(k *link) {
	s.mu.Lock()
	before := s.current
	s.current = k
	s.mu.Unlock()
	if before != nil {
		before.end()
	}
}

func (s *subscription) place() place {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

func (s *subscription) open(ctx context.Context, c *connection) (*esdb.Subscription, error) {
	from := s.place()
	if s.opts.Stream != "" {
		var start esdb.StreamPosition = esdb.Start{}
		if from.revision != nil {
			start = esdb.Revision(*from.revision)
		}
		return c.SubscribeToStream(ctx, s.opts.Stream, esdb.SubscribeToStreamOptions{From: start})
	}
	var start esdb.AllPosition = esdb.Start{}
	if from.after > 0 {
		start = esdb.Position{Commit: uint64(from.after), Prepare: uint64(from.after)}
	}
	return c.SubscribeToAll(ctx, esdb.SubscribeToAllOptions{From: start, Filter: serverFilter(s.opts.Filter)})
}

// serverFilter is as much of a filter as the server can apply, which is one list of prefixes. Without any, nothing is left to
// it, so that every event, admitted or not, tells how current the subscription is.
func serverFilter(f eventstore.Filter) *esdb.SubscriptionFilter {
	switch {
	case len(f.StreamPrefixes) > 0:
		return &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: f.StreamPrefixes}
	case len(f.TypePrefixes) > 0:
		return &esdb.SubscriptionFilter{Type: esdb.EventFilterType, Prefixes: f.TypePrefixes}
	default:
		return nil
	}
}

// pump receives from the server until the subscription is over.
func (s *subscription) pump(current *link) {
	defer s.take(nil)
	defer s.cancel(eventstore.ErrClosed)
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		if current != nil {
			if s.receive(current) {
				backoff = firstBackoff
			}
			current.end()
		}
		select {
		case <-time.After(backoff):
		case <-s.ctx.Done():
			return
		case <-s.l.closing:
			return
		}
		next, err := s.connect()
		if err != nil && !errors.Is(err, eventstore.ErrUnavailable) {
			s.cancel(err)
			return
		}
		if current = next; current != nil {
			s.l.log.Info("subscribed to the event store again", "stream", s.opts.Stream, "after", s.place().after)
		}
	}
}

// receive passes on what a server's subscription delivers, until it drops. It says whether there was anything.
func (s *subscription) receive(k *link) (any bool) {
	over := make(chan struct{})
	defer close(over)
	go s.watch(k, over)
	for {
		got := k.Recv()
		if dropped := got.SubscriptionDropped; dropped != nil {
			if dropped.Error != nil && strings.Contains(dropped.Error.Error(), "is deleted") {
				s.cancel(eventstore.ErrStreamDeleted)
			}
			return any
		}
		m, ok := s.accept(got)
		if !ok {
			continue
		}
		any = true
		select {
		case s.messages <- m:
		case <-s.ctx.Done():
			return any
		case <-s.l.closing:
			return any
		}
	}
}

// accept makes of what the server says what the receiver is to learn, and moves on. Events that were delivered before are left out.
func (s *subscription) accept(got *esdb.SubscriptionEvent) (m message, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case got.CheckPointReached != nil:
		s.at.after = max(s.at.after, eventstore.Position(got.CheckPointReached.Commit))
	case got.CaughtUp != nil:
		m.caughtUp = true
	case got.EventAppeared != nil && got.EventAppeared.OriginalEvent() != nil:
		e := s.l.recorded(got.EventAppeared.OriginalEvent())
		if s.opts.Stream == "" && e.Position <= s.at.after || s.opts.Stream != "" && s.at.revision != nil && e.Revision <= *s.at.revision {
			return m, false
		}
		s.at.after = max(s.at.after, e.Position)
		if s.opts.Stream != "" {
			s.at.revision = &e.Revision
		}
		if s.admits(&e) {
			m.event = &e
		}
	default:
		return m, false
	}
	m.checkpoint = s.at.after
	return m, true
}

func (s *subscription) admits(e *eventstore.Recorded) bool {
	if s.opts.Stream != "" {
		f := s.opts.Filter
		f.System = true // a system stream is asked for by its name
		return f.Admits(e.Stream, e.Type)
	}
	return s.opts.Filter.Admits(e.Stream, e.Type)
}

// watch ends a link over which events do not come although there are some: its server leads no more and does not know it, or
// something on the way keeps the connection open without passing anything on. Where the server filters, nobody can tell.
func (s *subscription) watch(k *link, over <-chan struct{}) {
	if s.opts.Stream != "" || serverFilter(s.opts.Filter) != nil {
		return
	}
	ticker := time.NewTicker(2 * s.l.opts.Timeout)
	defer ticker.Stop()
	var last, there eventstore.Position // where the subscription and the log were at the last look
	for {
		select {
		case <-ticker.C:
		case <-over:
			return
		}
		at := s.place().after
		switch {
		case at != last || len(s.messages) > 0: // it moves, or its receiver takes its time
			last, there = at, 0
		case there > at:
			s.l.log.Warn("the event store has events that a subscription does not bring: subscribing again", "after", at, "head", there)
			k.end()
			return
		default:
			if head, err := s.l.Head(s.ctx); err == nil {
				there = head
			}
		}
	}
}

// Next blocks for the next batch: what has been received so far.
func (s *subscription) Next(ctx context.Context) (eventstore.Batch, error) {
	var b eventstore.Batch
	if err := s.ended(); err != nil {
		return b, err
	}
	select {
	case m := <-s.messages:
		m.addTo(&b)
	case <-ctx.Done():
		return b, ctx.Err()
	case <-s.ctx.Done():
		return b, s.ended()
	case <-s.l.closing:
		return b, s.ended()
	}
	for len(b.Events) < bufferedEvents && !b.CaughtUp {
		select {
		case m := <-s.messages:
			m.addTo(&b)
		default:
			return b, nil
		}
	}
	return b, nil
}

func (m message) addTo(b *eventstore.Batch) {
	if m.event != nil {
		b.Events = append(b.Events, *m.event)
	}
	b.Checkpoint, b.CaughtUp = m.checkpoint, m.caughtUp
}

// ended says why the subscription is over, nil while it is not.
func (s *subscription) ended() error {
	select {
	case <-s.l.closing:
		return fmt.Errorf("%w: %w", eventstore.ErrDropped, eventstore.ErrClosed)
	case <-s.ctx.Done():
		return fmt.Errorf("%w: %w", eventstore.ErrDropped, context.Cause(s.ctx))
	default:
		return nil
	}
}
