// Package resolvers answers the root fields of the GraphQL schema. What hangs on the answers is in package model.
package resolvers

import (
	"context"
	"log/slog"

	"github.com/shiplog/shiplog/graphql/generated"
	"github.com/shiplog/shiplog/graphql/model"
	"github.com/shiplog/shiplog/graphql/view"
)

// Root is the root of all resolvers.
type Root struct {
	Source view.Source
	Logger *slog.Logger
}

// Query returns the resolver of queries.
func (r *Root) Query() generated.QueryResolver { return &query{r} }

// Subscription returns the resolver of subscriptions.
func (r *Root) Subscription() generated.SubscriptionResolver { return &subscription{r} }

// at is the view that a root field is about.
func (r *Root) at(ctx context.Context, asOf *model.AsOf) (*view.View, error) {
	moment := ""
	if asOf != nil {
		moment = string(*asOf)
	}
	return view.FromContext(ctx, r.Source).Of(ctx, moment)
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
