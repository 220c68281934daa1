package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"

	"github.com/shiplog/shiplog/eventstore"
)

// streamsServer is the protocol's main service.
type streamsServer struct {
	streams.UnimplementedStreamsServer
	log  eventstore.Log
	opts Options
	gate *gate
	over *shutdown
}

// expectation is how Append, Delete and Tombstone say what they expect.
type expectation interface {
	GetStreamIdentifier() *shared.StreamIdentifier
	GetRevision() uint64
	GetNoStream() *shared.Empty
	GetAny() *shared.Empty
	GetStreamExists() *shared.Empty
}

func expected(e expectation, isRevision bool) (eventstore.Expected, error) {
	switch {
	case isRevision && int64(e.GetRevision()) >= 0:
		return eventstore.Exact(e.GetRevision()), nil
	case isRevision:
		return 0, invalid("revision %d is out of range", e.GetRevision())
	case e.GetNoStream() != nil:
		return eventstore.NoStream, nil
	case e.GetStreamExists() != nil:
		return eventstore.StreamExists, nil
	default:
		return eventstore.Any, nil
	}
}

// Append collects what the client sends and appends it once the client has sent all of it.
func (s *streamsServer) Append(call streams.Streams_AppendServer) error {
	first, err := call.Recv()
	if err != nil {
		return err
	}
	options := first.GetOptions()
	if options == nil {
		return invalid("the first message of an append holds its options")
	}
	stream, err := streamName(options.GetStreamIdentifier())
	if err == nil {
		err = s.gate.stream(call.Context(), mayWrite, stream)
	}
	events, refused := s.receive(call, err)
	_, isRevision := options.GetExpectedStreamRevision().(*streams.AppendReq_Options_Revision)
	want, err := expected(options, isRevision)
	if err = errors.Join(refused, err); err != nil {
		return s.status(err, "Append", stream)
	}
	result, err := s.log.Append(call.Context(), stream, want, events...)
	var wrong *eventstore.WrongExpectedRevisionError
	if errors.As(err, &wrong) {
		return call.SendAndClose(wrongVersion(wrong))
	}
	if err != nil {
		return s.status(err, "Append", stream)
	}
	return call.SendAndClose(&streams.AppendResp{Result: &streams.AppendResp_Success_{Success: &streams.AppendResp_Success{
		CurrentRevisionOption: &streams.AppendResp_Success_CurrentRevision{CurrentRevision: result.Revision},
		PositionOption: &streams.AppendResp_Success_Position{Position: &streams.AppendResp_Position{
			CommitPosition: uint64(result.Position), PreparePosition: uint64(result.Position),
		}},
	}}})
}

// status is toStatus with the server's limit.
func (s *streamsServer) status(err error, operation, stream string) error {
	return toStatus(err, operation, stream, s.opts.MaxAppendBytes)
}

func streamName(id *shared.StreamIdentifier) (string, error) {
	if len(id.GetStreamName()) == 0 {
		return "", invalid("the request names no stream")
	}
	return string(id.GetStreamName()), nil
}

// receive returns the events that the client proposes. It goes on receiving when they are refused, from the beginning or
// underway, because a client whose message is not taken never learns why.
func (s *streamsServer) receive(call streams.Streams_AppendServer, refused error) (events []eventstore.Proposed, _ error) {
	size := 0
	for {
		req, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return events, refused
		}
		if err != nil {
			return nil, err
		}
		if refused != nil {
			continue
		}
		event, err := toProposed(req.GetProposedMessage())
		if err != nil {
			events, refused = nil, err
			continue
		}
		if size += sizeOf(event); size > s.opts.MaxAppendBytes {
			events, refused = nil, fmt.Errorf("%w: the append has more than %d bytes", eventstore.ErrTooLarge, s.opts.MaxAppendBytes)
			continue
		}
		events = append(events, event)
	}
}

// wrongVersion is an answer, not an error, and is told twice: to clients of today and to those from before 20.6.1.
func wrongVersion(e *eventstore.WrongExpectedRevisionError) *streams.AppendResp {
	w := &streams.AppendResp_WrongExpectedVersion{}
	if e.Actual >= 0 {
		w.CurrentRevisionOption = &streams.AppendResp_WrongExpectedVersion_CurrentRevision{CurrentRevision: uint64(e.Actual)}
		w.CurrentRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_CurrentRevision_20_6_0{CurrentRevision_20_6_0: uint64(e.Actual)}
	} else {
		w.CurrentRevisionOption = &streams.AppendResp_WrongExpectedVersion_CurrentNoStream{CurrentNoStream: &shared.Empty{}}
		w.CurrentRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_NoStream_20_6_0{NoStream_20_6_0: &shared.Empty{}}
	}
	switch e.Expected {
	case eventstore.Any:
		w.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedAny{ExpectedAny: &shared.Empty{}}
		w.ExpectedRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_Any_20_6_0{Any_20_6_0: &shared.Empty{}}
	case eventstore.StreamExists:
		w.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedStreamExists{ExpectedStreamExists: &shared.Empty{}}
		w.ExpectedRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_StreamExists_20_6_0{StreamExists_20_6_0: &shared.Empty{}}
	case eventstore.NoStream:
		w.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedNoStream{ExpectedNoStream: &shared.Empty{}}
	default:
		w.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedRevision{ExpectedRevision: uint64(e.Expected)}
		w.ExpectedRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_ExpectedRevision_20_6_0{ExpectedRevision_20_6_0: uint64(e.Expected)}
	}
	return &streams.AppendResp{Result: &streams.AppendResp_WrongExpectedVersion_{WrongExpectedVersion: w}}
}

// Delete soft-deletes a stream.
func (s *streamsServer) Delete(ctx context.Context, req *streams.DeleteReq) (*streams.DeleteResp, error) {
	options := req.GetOptions()
	_, isRevision := options.GetExpectedStreamRevision().(*streams.DeleteReq_Options_Revision)
	head, err := s.remove(ctx, "Delete", s.log.Delete, options, isRevision)
	if err != nil {
		return nil, err
	}
	return &streams.DeleteResp{PositionOption: &streams.DeleteResp_Position_{Position: &streams.DeleteResp_Position{
		CommitPosition: head, PreparePosition: head,
	}}}, nil
}

// Tombstone deletes a stream for good.
func (s *streamsServer) Tombstone(ctx context.Context, req *streams.TombstoneReq) (*streams.TombstoneResp, error) {
	options := req.GetOptions()
	_, isRevision := options.GetExpectedStreamRevision().(*streams.TombstoneReq_Options_Revision)
	head, err := s.remove(ctx, "Tombstone", s.log.Tombstone, options, isRevision)
	if err != nil {
		return nil, err
	}
	return &streams.TombstoneResp{PositionOption: &streams.TombstoneResp_Position_{Position: &streams.TombstoneResp_Position{
		CommitPosition: head, PreparePosition: head,
	}}}, nil
}

// remove returns a position at or after that of the deletion.
func (s *streamsServer) remove(
	ctx context.Context, operation string, remove func(context.Context, string, eventstore.Expected) error, options expectation, isRevision bool,
) (uint64, error) {
	stream, err := streamName(options.GetStreamIdentifier())
	if err != nil {
		return 0, err
	}
	if err := s.gate.stream(ctx, mayDelete, stream); err != nil {
		return 0, s.status(err, operation, stream)
	}
	want, err := expected(options, isRevision)
	var head eventstore.Position
	if err == nil {
		err = remove(ctx, stream, want)
	}
	if err == nil {
		head, err = s.log.Head(ctx)
	}
	return uint64(head), s.status(err, operation, stream)
}
