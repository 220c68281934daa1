package resolvers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/99designs/gqlgen/graphql/handler/transport"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/graphql/failure"
	"github.com/shiplog/shiplog/graphql/model"
	"github.com/shiplog/shiplog/graphql/view"
	"github.com/shiplog/shiplog/projections"
)

type subscription struct{ *Root }

// Events delivers the events of the log after a position, each once and in order, and goes on with those that come.
func (s *subscription) Events(ctx context.Context, after *model.Position, filter *model.EventFilter) (<-chan *model.LogEvent, error) {
	set := view.NewSet(s.Source)
	f, err := eventFilter(set, filter)
	if err != nil {
		return nil, err
	}
	for _, k := range f.Kinds {
		if err := set.Allow(ctx, k, f.Namespace, "watch"); err != nil {
			return nil, err
		}
	}
	from, err := s.start(ctx, after)
	if err != nil {
		return nil, err
	}
	out := make(chan *model.LogEvent)
	go func() {
		defer close(out)
		err := s.follow(ctx, from, f.LogFilter(), func(set *view.Set, e domain.Event) error {
			if !f.Matches(e) || errors.Is(set.AllowEvent(ctx, e), view.ErrForbidden) {
				return nil
			}
			return send(ctx, out, model.NewLogEvent(set, e))
		})
		s.end(ctx, err)
	}()
	return out, nil
}

// start is the position after which a subscription begins; by default where the log stands.
func (s *subscription) start(ctx context.Context, after *model.Position) (uint64, error) {
	head, err := s.Source.Log.Head(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking where the log stands: %w", err)
	}
	if after == nil {
		return uint64(head), nil
	}
	if uint64(*after) > uint64(head) {
		return 0, fmt.Errorf("after: %w: the log is at %d", projections.ErrFuture, head)
	}
	return uint64(*after), nil
}

// send hands a value to the transport, however slow it is.
func send[T any](ctx context.Context, out chan<- T, v T) error {
	select {
	case out <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end tells the client why its subscription is over, unless the client itself ended it.
func (s *subscription) end(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	s.Logger.WarnContext(ctx, "a subscription ended", "error", err)
	defer func() {
		// Only the WebSocket transport can pass an error on; over server-sent events the stream just ends, and the client
		// resumes from the last position that it saw.
		_ = recover()
	}()
	transport.AddSubscriptionError(ctx, failure.Present(ctx, err))
}

// Pauses while following.
const (
	// catchUp is how long an event is held back for the live view to reach it, so that what hangs on it can be answered.
	catchUp = 2 * time.Second
	// dropped is the pause before subscribing again.
	dropped = 100 * time.Millisecond
)

// follow calls each for every event after a position that the filter admits, until the context ends or each fails. Dropped
// subscriptions are taken up again.
func (s *subscription) follow(ctx context.Context, after uint64, filter eventstore.Filter, each func(*view.Set, domain.Event) error) error {
	for {
		err := s.followOnce(ctx, &after, filter, each)
		if !errors.Is(err, eventstore.ErrDropped) {
			return err
		}
		select {
		case <-time.After(dropped):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *subscription) followOnce(ctx context.Context, after *uint64, filter eventstore.Filter, each func(*view.Set, domain.Event) error) (err error) {
	sub, err := s.Source.Log.Subscribe(ctx, eventstore.Subscribe{After: eventstore.Position(*after), Filter: filter})
	if err != nil {
		return fmt.Errorf("subscribing to the log: %w", err)
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	for {
		batch, err := sub.Next(ctx)
		if err != nil {
			return fmt.Errorf("following the log: %w", err)
		}
		if n := len(batch.Events); n > 0 {
			s.await(ctx, uint64(batch.Events[n-1].Position))
		}
		set := view.NewSet(s.Source)
		for _, r := range batch.Events {
			e, ok, err := projections.EventOf(r)
			if err != nil {
				return fmt.Errorf("following the log: %w", err)
			}
			if ok {
				if err := each(set, e); err != nil {
					return err
				}
			}
			*after = uint64(r.Position)
		}
		*after = max(*after, uint64(batch.Checkpoint))
	}
}

// await gives the live view some time to reach a position.
func (s *subscription) await(ctx context.Context, position uint64) {
	waiting, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	if err := s.Source.Live.WaitFor(waiting, position); err != nil && ctx.Err() == nil {
		s.Logger.WarnContext(ctx, "the live view is behind the log", "position", position, "error", err)
	}
}
