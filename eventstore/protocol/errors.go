package protocol

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/shiplog/shiplog/eventstore"
)

// Trailers in which EventStoreDB tells what kind of error it was, since the status alone does not.
const (
	trailerException = "exception"
	trailerStream    = "stream-name"
	trailerExpected  = "expected-version"
	trailerActual    = "actual-version"
	trailerMaxAppend = "maximum-append-size"
	trailerRequired  = "required-metadata-properties"
)

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// trailed is an error that travels with trailers.
type trailed struct {
	error
	trailers metadata.MD
}

func (t *trailed) Unwrap() error              { return t.error }
func (t *trailed) GRPCStatus() *status.Status { return status.Convert(t.error) }

func missingMetadata(key string) error {
	return &trailed{invalid("Required Metadata Property '%s' is missing", key), metadata.Pairs(
		trailerException, "missing-required-metadata-property", trailerRequired, key)}
}

// toStatus makes of an error of the log what EventStoreDB would have answered. setTrailer sends its trailers.
func toStatus(err error, stream string, setTrailer func(metadata.MD)) error {
	if err == nil {
		return nil
	}
	var t *trailed
	if errors.As(err, &t) {
		setTrailer(t.trailers)
		return t.error
	}
	var wrong *eventstore.WrongExpectedRevisionError
	switch {
	case errors.As(err, &wrong):
		setTrailer(metadata.Pairs(trailerException, "wrong-expected-version", trailerStream, wrong.Stream,
			trailerExpected, strconv.FormatInt(int64(wrong.Expected), 10), trailerActual, strconv.FormatInt(int64(wrong.Actual), 10)))
		return status.Error(codes.FailedPrecondition, wrongVersionText(wrong))
	case errors.Is(err, eventstore.ErrStreamDeleted):
		setTrailer(metadata.Pairs(trailerException, "stream-deleted", trailerStream, stream))
		return status.Errorf(codes.FailedPrecondition, "Event stream '%s' is deleted.", stream)
	case errors.Is(err, eventstore.ErrStreamNotFound):
		setTrailer(metadata.Pairs(trailerException, "stream-not-found", trailerStream, stream))
		return status.Errorf(codes.NotFound, "Event stream '%s' is not found.", stream)
	case errors.Is(err, eventstore.ErrTooLarge):
		setTrailer(metadata.Pairs(trailerException, "maximum-append-size-exceeded", trailerMaxAppend, "0"))
		return status.Errorf(codes.InvalidArgument, "Maximum Append Size Exceeded: %v", err)
	case errors.Is(err, eventstore.ErrReadOnly):
		return status.Error(codes.PermissionDenied, err.Error())
	case errors.Is(err, eventstore.ErrCorrupt), errors.Is(err, eventstore.ErrVersion):
		return status.Error(codes.DataLoss, err.Error())
	case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrClosed), errors.Is(err, eventstore.ErrNotLeader),
		errors.Is(err, eventstore.ErrDropped):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unknown, err.Error())
}

func wrongVersionText(e *eventstore.WrongExpectedRevisionError) string {
	return fmt.Sprintf("Append failed due to WrongExpectedVersion. Stream: %s, Expected version: %d, Actual version: %d", e.Stream, e.Expected, e.Actual)
}

// streamTrailers sends trailers of a streaming call.
func streamTrailers(s grpc.ServerStream) func(metadata.MD) { return s.SetTrailer }

// unaryTrailers sends trailers of a plain call.
func unaryTrailers(ctx context.Context, log func(error)) func(metadata.MD) {
	return func(md metadata.MD) {
		if err := grpc.SetTrailer(ctx, md); err != nil {
			log(err)
		}
	}
}
