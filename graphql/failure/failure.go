// Package failure tells clients what went wrong, with a code that programs can test.
package failure

import (
	"context"
	"errors"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/graphql/view"
	"github.com/shiplog/shiplog/projections"
)

// codes are the kinds of error that a client can do something about.
var codes = []struct {
	err  error
	code string
}{
	{view.ErrForbidden, "FORBIDDEN"},
	{view.ErrUnknownKind, "UNKNOWN_KIND"},
	{view.ErrBadRequest, "BAD_REQUEST"},
	{domain.ErrBadPath, "BAD_REQUEST"},
	{projections.ErrFuture, "FUTURE"},
	{projections.ErrTooOld, "TOO_OLD"},
	{projections.ErrUnavailable, "UNAVAILABLE"},
	{projections.ErrNotFound, "NOT_FOUND"},
	{eventstore.ErrUnavailable, "UNAVAILABLE"},
	{eventstore.ErrClosed, "UNAVAILABLE"},
	{context.DeadlineExceeded, "TIMEOUT"},
	{context.Canceled, "CANCELED"},
}

// Present makes of an error what the client sees: its text, where in the query it happened, and a code under extensions.
func Present(ctx context.Context, err error) *gqlerror.Error {
	out := graphql.DefaultErrorPresenter(ctx, err)
	if out.Extensions["code"] != nil {
		return out
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			if out.Extensions == nil {
				out.Extensions = map[string]any{}
			}
			out.Extensions["code"] = c.code
			break
		}
	}
	return out
}
