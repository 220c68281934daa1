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
	models *readModels
	log    eventstore.Log
}

var _ projections.History = fresh{}

// reach waits until the models reflect a position, and returns them; 0 means the log's head.
func (f fresh) reach(ctx context.Context, position uint64) (*postgres.Models, error) {
	if position == 0 {
		head, err := f.log.Head(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w: the log does not answer: %w", projections.ErrUnavailable, err)
		}
		position = uint64(head)
	}
	waiting, cancel := context.WithTimeout(ctx, catchUpWithin)
	defer cancel()
	models, err := f.models.get(waiting)
	if err != nil {
		return nil, err
	}
	err = models.WaitFor(waiting, position)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = fmt.Errorf("%w: the read models have not caught up with the log; is Postgres there? (the cluster itself runs on, and they catch up by themselves)", projections.ErrUnavailable)
	}
	return models, err
}

func (f fresh) Position(ctx context.Context) (uint64, error) {
	models, err := f.reach(ctx, 0)
	if err != nil {
		return 0, err
	}
	return models.Position(ctx)
}

func (f fresh) PositionAt(ctx context.Context, t time.Time) (uint64, error) {
	models, err := f.reach(ctx, 0)
	if err != nil {
		return 0, err
	}
	return models.PositionAt(ctx, t)
}

// within refuses positions beyond the head and waits for the others.
func (f fresh) within(ctx context.Context, position uint64) (*postgres.Models, error) {
	head, err := f.log.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: the log does not answer: %w", projections.ErrUnavailable, err)
	}
	if position > uint64(head) {
		return nil, fmt.Errorf("%w: %d; the log stands at %d", projections.ErrFuture, position, head)
	}
	return f.reach(ctx, position)
}

func (f fresh) GetAt(ctx context.Context, ref domain.Ref, position uint64) (*projections.Object, error) {
	models, err := f.within(ctx, position)
	if err != nil {
		return nil, err
	}
	return models.GetAt(ctx, ref, position)
}

func (f fresh) ListAt(ctx context.Context, gr domain.Resource, namespace string, position uint64) ([]*projections.Object, error) {
	models, err := f.within(ctx, position)
	if err != nil {
		return nil, err
	}
	return models.ListAt(ctx, gr, namespace, position)
}

func (f fresh) Events(ctx context.Context, q projections.EventQuery) ([]domain.Event, error) {
	models, err := f.reach(ctx, 0)
	if err != nil {
		return nil, err
	}
	return models.Events(ctx, q)
}

func (f fresh) Event(ctx context.Context, position uint64, id string) (domain.Event, error) {
	models, err := f.reach(ctx, position)
	if err != nil {
		return domain.Event{}, err
	}
	return models.Event(ctx, position, id)
}
