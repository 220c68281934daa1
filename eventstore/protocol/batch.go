package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"google.golang.org/genproto/googleapis/rpc/code"
	protostatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/shiplog/shiplog/eventstore"
)

// batchesInFlight is how many appends of one BatchAppend call run at a time.
const batchesInFlight = 256

// batch is an append that the client sends in parts.
type batch struct {
	id      *shared.UUID
	options *streams.BatchAppendReq_Options
	stream  string
	events  []eventstore.Proposed
	bytes   int
	refused error
	// deadline is when the client no longer waits; the zero time is never.
	deadline time.Time
}

// BatchAppend takes any number of appends over one call. Appends to one stream are made in the order in which they were
// finished, those to different streams at the same time.
func (s *streamsServer) BatchAppend(call streams.Streams_BatchAppendServer) error {
	ctx, cancel := context.WithCancel(call.Context())
	defer cancel()
	var (
		running  sync.WaitGroup
		sending  sync.Mutex
		slots    = make(chan struct{}, batchesInFlight)
		open     = make(map[string]*batch)
		previous = make(map[string]chan struct{}) // of each stream, the append begun last
	)
	defer running.Wait()
	for {
		req, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			cancel()
			return err
		}
		key := req.GetCorrelationId().String()
		b := open[key]
		if b == nil {
			if req.GetOptions() == nil {
				continue // the rest of one that was refused
			}
			b = s.newBatch(ctx, req)
			open[key] = b
		}
		b.add(req.GetProposedMessages(), s.opts.MaxAppendBytes)
		// One that is refused is answered at once: it would only take up memory.
		if !req.GetIsFinal() && b.refused == nil {
			continue
		}
		delete(open, key)
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		before, done := previous[b.stream], make(chan struct{})
		previous[b.stream] = done
		running.Go(func() {
			defer func() { close(done); <-slots }()
			if before != nil {
				<-before
			}
			resp := s.appendBatch(ctx, b)
			sending.Lock()
			defer sending.Unlock()
			if err := call.Send(resp); err != nil {
				cancel() // the client is gone
			}
		})
		for stream, done := range previous { // forget those that are done
			select {
			case <-done:
				delete(previous, stream)
			default:
			}
			if len(previous) <= batchesInFlight {
				break
			}
		}
	}
}

// newBatch begins an append. Its deadline runs from here on.
func (s *streamsServer) newBatch(ctx context.Context, req *streams.BatchAppendReq) *batch {
	b := &batch{id: req.GetCorrelationId(), options: req.GetOptions()}
	if b.stream, b.refused = streamName(b.options.GetStreamIdentifier()); b.refused == nil {
		b.refused = s.gate.stream(ctx, mayWrite, b.stream)
	}
	switch d := b.options.GetDeadlineOption().(type) {
	case *streams.BatchAppendReq_Options_Deadline:
		b.deadline = time.Now().Add(d.Deadline.AsDuration())
	case *streams.BatchAppendReq_Options_Deadline_21_10_0:
		b.deadline = d.Deadline_21_10_0.AsTime()
	}
	return b
}

func (b *batch) add(messages []*streams.BatchAppendReq_ProposedMessage, limit int) {
	for _, m := range messages {
		if b.refused != nil {
			return
		}
		event, err := toProposed(m)
		if err != nil {
			b.events, b.refused = nil, err
			return
		}
		if b.bytes += sizeOf(event); b.bytes > limit {
			b.events, b.refused = nil, fmt.Errorf("%w: the append has more than %d bytes", eventstore.ErrTooLarge, limit)
			return
		}
		b.events = append(b.events, event)
	}
}

func (b *batch) expected() eventstore.Expected {
	switch o := b.options.GetExpectedStreamPosition().(type) {
	case *streams.BatchAppendReq_Options_StreamPosition:
		return eventstore.Exact(o.StreamPosition)
	case *streams.BatchAppendReq_Options_NoStream:
		return eventstore.NoStream
	case *streams.BatchAppendReq_Options_StreamExists:
		return eventstore.StreamExists
	default:
		return eventstore.Any
	}
}

func (s *streamsServer) appendBatch(ctx context.Context, b *batch) *streams.BatchAppendResp {
	resp := &streams.BatchAppendResp{CorrelationId: b.id, StreamIdentifier: b.options.GetStreamIdentifier()}
	switch o := b.options.GetExpectedStreamPosition().(type) {
	case *streams.BatchAppendReq_Options_StreamPosition:
		resp.ExpectedStreamPosition = &streams.BatchAppendResp_StreamPosition{StreamPosition: o.StreamPosition}
	case *streams.BatchAppendReq_Options_NoStream:
		resp.ExpectedStreamPosition = &streams.BatchAppendResp_NoStream{NoStream: &emptypb.Empty{}}
	case *streams.BatchAppendReq_Options_StreamExists:
		resp.ExpectedStreamPosition = &streams.BatchAppendResp_StreamExists{StreamExists: &emptypb.Empty{}}
	default:
		resp.ExpectedStreamPosition = &streams.BatchAppendResp_Any{Any: &emptypb.Empty{}}
	}
	var result eventstore.Appended
	err := b.refused
	if err == nil && int64(b.options.GetStreamPosition()) < 0 {
		err = invalid("revision %d is out of range", b.options.GetStreamPosition())
	}
	if err == nil {
		if !b.deadline.IsZero() {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, b.deadline)
			defer cancel()
		}
		result, err = s.log.Append(ctx, b.stream, b.expected(), b.events...)
	}
	if err != nil {
		resp.Result = &streams.BatchAppendResp_Error{Error: s.batchError(err, b.stream)}
		return resp
	}
	resp.Result = &streams.BatchAppendResp_Success_{Success: &streams.BatchAppendResp_Success{
		CurrentRevisionOption: &streams.BatchAppendResp_Success_CurrentRevision{CurrentRevision: result.Revision},
		PositionOption: &streams.BatchAppendResp_Success_Position{Position: &shared.AllStreamPosition{
			CommitPosition: uint64(result.Position), PreparePosition: uint64(result.Position),
		}},
	}}
	return resp
}

// batchError puts an error into a message, with the details that clients tell its kind by.
func (s *streamsServer) batchError(err error, stream string) *protostatus.Status {
	var detail proto.Message
	kind := code.Code_UNKNOWN
	var wrong *eventstore.WrongExpectedRevisionError
	switch {
	case status.Code(err) == codes.PermissionDenied:
		kind, detail = code.Code_PERMISSION_DENIED, &shared.AccessDenied{}
	case errors.As(err, &wrong):
		kind, detail = code.Code_ALREADY_EXISTS, wrongVersionDetail(wrong)
	case errors.Is(err, eventstore.ErrStreamDeleted):
		kind, detail = code.Code_NOT_FOUND, &shared.StreamDeleted{StreamIdentifier: identifier(stream)}
	case errors.Is(err, eventstore.ErrTooLarge):
		kind, detail = code.Code_INVALID_ARGUMENT, &shared.MaximumAppendSizeExceeded{MaxAppendSize: uint32(s.opts.MaxAppendBytes)}
	case errors.Is(err, context.DeadlineExceeded):
		kind, detail = code.Code_DEADLINE_EXCEEDED, &shared.Timeout{}
	case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrClosed):
		kind, detail = code.Code_UNAVAILABLE, &shared.Unknown{}
	default:
		kind, detail = code.Code_INVALID_ARGUMENT, &shared.BadRequest{Message: err.Error()}
	}
	out := &protostatus.Status{Code: int32(kind), Message: err.Error()}
	if packed, err := anypb.New(detail); err == nil {
		out.Details = []*anypb.Any{packed}
	}
	return out
}

func wrongVersionDetail(e *eventstore.WrongExpectedRevisionError) *shared.WrongExpectedVersion {
	w := &shared.WrongExpectedVersion{}
	if e.Actual >= 0 {
		w.CurrentStreamRevisionOption = &shared.WrongExpectedVersion_CurrentStreamRevision{CurrentStreamRevision: uint64(e.Actual)}
	} else {
		w.CurrentStreamRevisionOption = &shared.WrongExpectedVersion_CurrentNoStream{CurrentNoStream: &emptypb.Empty{}}
	}
	switch e.Expected {
	case eventstore.Any:
		w.ExpectedStreamPositionOption = &shared.WrongExpectedVersion_ExpectedAny{ExpectedAny: &emptypb.Empty{}}
	case eventstore.StreamExists:
		w.ExpectedStreamPositionOption = &shared.WrongExpectedVersion_ExpectedStreamExists{ExpectedStreamExists: &emptypb.Empty{}}
	case eventstore.NoStream:
		w.ExpectedStreamPositionOption = &shared.WrongExpectedVersion_ExpectedNoStream{ExpectedNoStream: &emptypb.Empty{}}
	default:
		w.ExpectedStreamPositionOption = &shared.WrongExpectedVersion_ExpectedStreamPosition{ExpectedStreamPosition: uint64(e.Expected)}
	}
	return w
}
