package controllers

import "context"

// Leader lets one of several processes act.
type Leader interface {
	// Lead calls run whenever this process is the leader, one call at a time, with a context that ends when it no longer is,
	// and the position in the log at which it became so: all that an earlier leader wrote stands before it. Lead returns when
	// its context has ended, after run has returned.
	Lead(ctx context.Context, run func(ctx context.Context, since uint64)) error
}

// Always leads: for a cluster of one control plane.
type Always struct{}

// Lead calls run once.
func (Always) Lead(ctx context.Context, run func(ctx context.Context, since uint64)) error {
	run(ctx, 0)
	return ctx.Err()
}
