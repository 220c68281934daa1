package protocol

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
)

// before is what happens with every call before its handler sees it, and with its error afterwards.
type before struct {
	gate   *gate
	leader *leadership
	logger *slog.Logger
	calls  *calls
}

// enter finds out who calls, and sends those elsewhere who need the leader.
func (b *before) enter(ctx context.Context, method string) (context.Context, error) {
	switch name, _ := service(method); name {
	case "Gossip", "ServerFeatures", "Health":
		return ctx, nil // whoever wants to connect asks these first, and some ask without credentials
	}
	ctx, err := b.gate.identify(ctx)
	if err != nil {
		return nil, err
	}
	return ctx, b.leader.check(ctx, method)
}

func (b *before) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	done := b.calls.begin(info.FullMethod)
	entered, err := b.enter(ctx, info.FullMethod)
	var resp any
	if err == nil {
		resp, err = next(entered, req)
	}
	err = b.leave(err, func(md metadata.MD) error { return grpc.SetTrailer(ctx, md) })
	done(err)
	return resp, err
}

func (b *before) stream(srv any, call grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	done := b.calls.begin(info.FullMethod)
	ctx, err := b.enter(call.Context(), info.FullMethod)
	switch {
	case err == nil:
		err = next(srv, &entered{call, ctx})
	case info.IsClientStream && !info.IsServerStream:
		drain(call)
	}
	err = b.leave(err, func(md metadata.MD) error { call.SetTrailer(md); return nil })
	done(err)
	return err
}

// drain takes what a client sends of a call that is refused: one whose message is not taken never learns why.
func drain(call grpc.ServerStream) {
	for call.RecvMsg(&emptypb.Empty{}) == nil {
		continue
	}
}

// leave sends an error's trailers.
func (b *before) leave(err error, setTrailer func(metadata.MD) error) error {
	var t *trailed
	if !errors.As(err, &t) {
		return err
	}
	if err := setTrailer(t.trailers); err != nil {
		b.logger.Debug("sending trailers", "error", err)
	}
	return t.error
}

// entered is a call with what was found out about it.
type entered struct {
	grpc.ServerStream
	ctx context.Context
}

func (e *entered) Context() context.Context { return e.ctx }

// service returns the last word of a method's service, and the method: "Streams", "Read".
func service(fullMethod string) (service, method string) {
	service, method, _ = strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	return service[strings.LastIndexByte(service, '.')+1:], method
}
