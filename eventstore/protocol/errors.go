package protocol

import (
	"context"
	"errors"
	"fmt"
	"strconv"

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

// trailed is an error that travels with trailers. They are sent by the interceptors.
type trailed struct {
	error
	trailers metadata.MD
}

func (t *trailed) Unwrap() error              { return t.error }
func (t *trailed) GRPCStatus() *status.Status { return status.Convert(t.error) }

// told makes an error whose kind clients find in its trailers, given as keys and values after the kind.
func told(code codes.Code, exception, message string, pairs ...string) error {
	return &trailed{status.Error(code, message), metadata.Pairs(append([]string{trailerException, exception}, pairs...)...)}
}

func missingMetadata(key string) error {
	return told(codes.InvalidArgument, "missing-required-metadata-property", fmt.Sprintf("Required Metadata Property '%s' is missing", key),
		trailerRequired, metaType+","+metaContentType)
}

// accessDenied is what EventStoreDB answers to somebody who may not.
func accessDenied() error { return told(codes.PermissionDenied, "access-denied", "Access Denied") }

// notLeader sends a client to the leader.
func notLeader(host, port string) error {
	return told(codes.NotFound, "not-leader", "Leader info available", "leader-endpoint-host", host, "leader-endpoint-port", port)
}

func tooLarge(limit int) error {
	return told(codes.InvalidArgument, "maximum-append-size-exceeded", fmt.Sprintf("Maximum Append Size of %d Exceeded.", limit),
		trailerMaxAppend, strconv.Itoa(limit))
}

// toStatus makes of an error of the log what EventStoreDB would have answered to an operation on a stream. limit is the most
// that an append may have.
func toStatus(err error, operation, stream string, limit int) error {
	if err == nil {
		return nil
	}
	var t *trailed
	if errors.As(err, &t) {
		return t
	}
	var wrong *eventstore.WrongExpectedRevisionError
	switch {
	case errors.As(err, &wrong):
		return told(codes.FailedPrecondition, "wrong-expected-version",
			fmt.Sprintf("%s failed due to WrongExpectedVersion. Stream: %s, Expected version: %d, Actual version: %d", operation, wrong.Stream, wrong.Expected, wrong.Actual),
			trailerStream, wrong.Stream, trailerExpected, strconv.FormatInt(int64(wrong.Expected), 10), trailerActual, strconv.FormatInt(int64(wrong.Actual), 10))
	case errors.Is(err, eventstore.ErrStreamDeleted):
		return told(codes.FailedPrecondition, "stream-deleted", fmt.Sprintf("Event stream '%s' is deleted.", stream), trailerStream, stream)
	case errors.Is(err, eventstore.ErrStreamNotFound):
		return told(codes.NotFound, "stream-not-found", fmt.Sprintf("Event stream '%s' is not found.", stream), trailerStream, stream)
	case errors.Is(err, eventstore.ErrTooLarge):
		return tooLarge(limit)
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
