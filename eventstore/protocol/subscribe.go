package protocol

import (
	"context"
	"errors"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// subscribe confirms a subscription and then sends what the log delivers. A client that reads slowly blocks Send, which
// holds up nobody: the log's subscription is a cursor.
func (s *streamsServer) subscribe(options *streams.ReadReq_Options, filter *filter, call readCall) error {
	ctx, cancel := s.over.with(call.Context())
	defer cancel(nil)
	opts, err := s.subscription(options, filter, call)
	if err != nil {
		return err
	}
	sub, err := s.log.Subscribe(ctx, opts)
	if err != nil {
		return err
	}
	defer sub.Close()
	err = call.Send(&streams.ReadResp{Content: &streams.ReadResp_Confirmation{Confirmation: &streams.ReadResp_SubscriptionConfirmation{
		SubscriptionId: uuid.NewString(),
	}}})
	if err != nil {
		return err
	}
	told, live := opts.After, false // told: up to where the client knows that it has everything
	for {
		b, err := sub.Next(ctx)
		if err != nil && call.Context().Err() == nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		for i := range b.Events {
			e := &b.Events[i]
			if !filter.admits(e) {
				continue
			}
			resp, err := s.response(ctx, e, options)
			if err != nil {
				return err
			}
			if err := call.Send(resp); err != nil {
				return err
			}
			told = e.Position
		}
		// The original sends a checkpoint after so many events considered, and at the end of catching up. Here the client
		// also learns at once when the log has moved on without it; otherwise it could not tell how current it is.
		live = live || b.CaughtUp
		if filter != nil && b.Checkpoint > told && (live || uint64(b.Checkpoint-told) >= filter.interval) {
			if err := call.Send(checkpoint(b.Checkpoint)); err != nil {
				return err
			}
			told = b.Checkpoint
		}
		if b.CaughtUp {
			if err := call.Send(&streams.ReadResp{Content: &streams.ReadResp_CaughtUp_{CaughtUp: &streams.ReadResp_CaughtUp{}}}); err != nil {
				return err
			}
		}
	}
}

func checkpoint(p eventstore.Position) *streams.ReadResp {
	return &streams.ReadResp{Content: &streams.ReadResp_Checkpoint_{Checkpoint: &streams.ReadResp_Checkpoint{
		CommitPosition: uint64(p), PreparePosition: uint64(p),
	}}}
}

// subscription says where the client wants to begin.
func (s *streamsServer) subscription(options *streams.ReadReq_Options, filter *filter, call readCall) (eventstore.Subscribe, error) {
	ctx := call.Context()
	if st := options.GetStream(); st != nil {
		opts := eventstore.Subscribe{Stream: string(st.GetStreamIdentifier().GetStreamName())}
		switch o := st.GetRevisionOption().(type) {
		case *streams.ReadReq_Options_StreamOptions_Revision:
			opts.AfterRevision = &o.Revision
		case *streams.ReadReq_Options_StreamOptions_End:
			last := eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true, Limit: 1}
			for e, err := range s.log.ReadStream(ctx, opts.Stream, last) {
				if errors.Is(err, eventstore.ErrStreamNotFound) {
					break
				}
				if err != nil {
					return opts, err
				}
				opts.AfterRevision = &e.Revision
			}
		}
		return opts, nil
	}
	opts := eventstore.Subscribe{Filter: filter.forLog()}
	switch o := options.GetAll().GetAllOption().(type) {
	case *streams.ReadReq_Options_AllOptions_Position:
		opts.After = eventstore.Position(o.Position.GetCommitPosition())
	case *streams.ReadReq_Options_AllOptions_End:
		head, err := s.log.Head(ctx)
		if err != nil {
			return opts, err
		}
		opts.After = head
	}
	return opts, nil
}
