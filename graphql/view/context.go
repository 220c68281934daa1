package view

import "context"

type contextKey struct{}

// WithSet puts what a request reads into its context.
func WithSet(ctx context.Context, s *Set) context.Context {
	return context.WithValue(ctx, contextKey{}, s)
}

// FromContext returns what WithSet put there, or begins a request.
func FromContext(ctx context.Context, s Source) *Set {
	if set, ok := ctx.Value(contextKey{}).(*Set); ok {
		return set
	}
	return NewSet(s)
}
