package esdb

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
}

// message is what the pump hands to Next.
type message struct {
	event      *eventstore.Recorded // nil: only a checkpoint
	checkpoint eventstore.Position
	caughtUp   bool
}

// Subscribe follows the log, or one stream.
func (l *Log) Subscribe(ctx context.Context, opts eventstore.Subscribe) (eventstore.Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &subscription{l: l, opts: opts, messages: make(chan message, bufferedEvents)}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	first, err := s.connect(opts.After, opts.AfterRevision)
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

// connect opens the server's subscription.
func (s *subscription) connect(after eventstore.Position, afterRevision *uint64) (*esdb.Subscription, error) {
	ctx, cancel := s.l.within(s.ctx) // bounds the connecting only
	defer cancel()
	sub, err := once(ctx, s.l, func(_ context.Context, c *esdb.Client) (*esdb.Subscription, error) {
		sub, err := s.open(c, after, afterRevision)
		if err == nil && ctx.Err() != nil { // nobody waits for it any more
			_ = sub.Close()
			return nil, ctx.Err()
		}
		return sub, err
	})
	if errors.Is(err, context.DeadlineExceeded) && s.ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	return sub, err
}

func (s *subscription) open(c *esdb.Client, after eventstore.Position, afterRevision *uint64) (*esdb.Subscription, error) {
	if s.opts.Stream != "" {
		var from esdb.StreamPosition = esdb.Start{}
		if afterRevision != nil {
			from = esdb.Revision(*afterRevision)
		}
		return c.SubscribeToStream(s.ctx, s.opts.Stream, esdb.SubscribeToStreamOptions{From: from})
	}
	var from esdb.AllPosition = esdb.Start{}
	if after > 0 {
		from = esdb.Position{Commit: uint64(after), Prepare: uint64(after)}
	}
	return c.SubscribeToAll(s.ctx, esdb.SubscribeToAllOptions{From: from, Filter: serverFilter(s.opts.Filter)})
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
func (s *subscription) pump(current *esdb.Subscription) {
	defer s.cancel(eventstore.ErrClosed)
	after, revision := s.opts.After, s.opts.AfterRevision
	backoff := firstBackoff
	for {
		if current != nil {
			if s.receive(current, &after, &revision) {
				backoff = firstBackoff
			}
			_ = current.Close() // it only cancels a context
		}
		select {
		case <-time.After(backoff):
			backoff = min(2*backoff, 2*time.Second)
		case <-s.ctx.Done():
			return
		case <-s.l.closing:
			return
		}
		next, err := s.connect(after, revision)
		if err != nil && !errors.Is(err, eventstore.ErrUnavailable) {
			s.cancel(err)
			return
		}
		if current = next; current != nil {
			s.l.log.Info("subscribed to the event store again", "stream", s.opts.Stream, "after", after)
		}
	}
}

// receive passes on what a server's subscription delivers, until it drops. It says whether there was anything.
func (s *subscription) receive(sub *esdb.Subscription, after *eventstore.Position, revision **uint64) (any bool) {
	for {
		got := sub.Recv()
		var m message
		switch {
		case got.SubscriptionDropped != nil:
			if err := got.SubscriptionDropped.Error; err != nil && strings.Contains(err.Error(), "is deleted") {
				s.cancel(eventstore.ErrStreamDeleted)
			}
			return any
		case got.CheckPointReached != nil:
			*after = max(*after, eventstore.Position(got.CheckPointReached.Commit))
			m.checkpoint = *after
		case got.CaughtUp != nil:
			m.checkpoint, m.caughtUp = *after, true
		case got.EventAppeared != nil && got.EventAppeared.OriginalEvent() != nil:
			e := s.l.recorded(got.EventAppeared.OriginalEvent())
			if s.opts.Stream == "" && e.Position <= *after {
				continue
			}
			*after = max(*after, e.Position)
			if s.opts.Stream != "" {
				*revision = &e.Revision
			}
			if m.checkpoint = *after; s.admits(&e) {
				m.event = &e
			}
		default:
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

func (s *subscription) admits(e *eventstore.Recorded) bool {
	if s.opts.Stream != "" {
		f := s.opts.Filter
		f.System = true // a system stream is asked for by its name
		return f.Admits(e.Stream, e.Type)
	}
	return s.opts.Filter.Admits(e.Stream, e.Type)
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
