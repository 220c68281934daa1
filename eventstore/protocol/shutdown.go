package protocol

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// shutdown ends what would never end by itself when the server wants to stop.
type shutdown struct {
	ctx   context.Context
	begin context.CancelFunc
}

func newShutdown() *shutdown {
	s := &shutdown{}
	s.ctx, s.begin = context.WithCancel(context.Background())
	return s
}

// with returns a context that ends with the server too; its cause is then what the client is told.
func (s *shutdown) with(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() {
		cancel(status.Error(codes.Unavailable, "Server Is Not Ready: it is shutting down"))
	})
	return ctx, func(cause error) {
		stop()
		cancel(cause)
	}
}
