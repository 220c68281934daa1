package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/postgres"
)

// catchUpWithin is how long a question about the past waits for the read models to reach what it asks about.
const catchUpWithin = 10 * time.Second

// fresh is the past as the read models know it, but never behind what has been committed when it is asked: a client that wrote
// sees its write in the history too.
type fresh struct {
	models *postgres.Models
	log    eventstore.Log
}

var _ projections.History = fresh{}

// reach waits until the models reflect a position; 0 means the log's head.
func (f fresh) reach(ctx context.Context, position uint64) error {
	if position == 0 {
		head, err := f.log.Head(ctx)
		if err != nil {
			return fmt.Errorf("%w: the log does not answer: %w", projections.ErrUnavailable, err)
		}
		position = uint64(head)
	}
	waiting, cancel := context.WithTimeout(ctx, catchUpWithin)
	defer cancel()
	err := f.models.WaitFor(waiting, position)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("%w: the read models have not caught up with the log; is Postgres there? (the cluster itself runs on, and they catch up by themselves)", projections.ErrUnavailable)
	}
	return err
}

func (f fresh) Position(ctx context.Context) (uint64, error) {
	if err := f.reach(ctx, 0); err != nil {
		return 0, err
	}
	return f.models.Position(ctx)
}

func (f fresh) PositionAt(ctx context.Context, t time.Time) (uint64, error) {
	if err := f.reach(ctx, 0); err != nil {
		return 0, err
	}
	return f.models.PositionAt(ctx, t)
}

// within refuses positions beyond the head and waits for the others.
func (f fresh) within(ctx context.Context, position uint64) error {
	head, err := f.log.Head(ctx)
	if err != nil {
		return fmt.Errorf("%w: the log does not answer: %w", projections.ErrUnavailable, err)
	}
	if position > uint64(head) {
		return fmt.Errorf("%w: %d; the log stands at %d", projections.ErrFuture, position, head)
	}
	return f.reach(ctx, position)
}

func (f fresh) GetAt(ctx context.Context, ref domain.Ref, position uint64) (*projections.Object, error) {
	if err := f.within(ctx, position); err != nil {
		return nil, err
	}
	return f.models.GetAt(ctx, ref, position)
}

func (f fresh) ListAt(ctx context.Context, gr domain.Resource, namespace string, position uint64) ([]*projections.Object, error) {
	if err := f.within(ctx, position); err != nil {
		return nil, err
	}
	return f.models.ListAt(ctx, gr, namespace, position)
}

func (f fresh) Events(ctx context.Context, q projections.EventQuery) ([]domain.Event, error) {
	if err := f.reach(ctx, 0); err != nil {
		return nil, err
	}
	return f.models.Events(ctx, q)
}

func (f fresh) Event(ctx context.Context, position uint64, id string) (domain.Event, error) {
	if err := f.reach(ctx, position); err != nil {
		return domain.Event{}, err
	}
	return f.models.Event(ctx, position, id)
}
