package protocol

import (
	"context"
	"errors"
	"iter"
	"math"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/protocol/persistent"
)

type readCall = streams.Streams_ReadServer

// Read serves finite reads and subscriptions.
func (s *streamsServer) Read(req *streams.ReadReq, call readCall) error {
	options := req.GetOptions()
	filter, err := parseFilter(options.GetFilter())
	if err != nil {
		return err
	}
	stream := string(options.GetStream().GetStreamIdentifier().GetStreamName())
	if options.GetStream() == nil && options.GetAll() == nil {
		return invalid("a read names a stream, or all")
	}
	if options.GetStream() != nil && options.GetFilter() != nil {
		return invalid("only reads of all streams take a filter")
	}
	if options.GetStream() == nil {
		stream = allStream
	} else if stream == "" {
		return invalid("the request names no stream")
	}
	if err := s.gate.stream(call.Context(), mayRead, stream); err != nil {
		return s.status(err, "Read", stream)
	}
	if options.GetSubscription() != nil {
		if options.GetReadDirection() != streams.ReadReq_Options_Forwards {
			return invalid("subscriptions run forwards")
		}
		err = s.subscribe(options, filter, call)
	} else {
		err = s.read(options, filter, call)
	}
	return s.status(err, "Read", stream)
}

// read sends events, or that there is no stream: clients cannot take anything else here.
func (s *streamsServer) read(options *streams.ReadReq_Options, filter *filter, call readCall) error {
	count := int(min(options.GetCount(), math.MaxInt))
	if count == 0 {
		return nil
	}
	var events iter.Seq2[eventstore.Recorded, error]
	if st := options.GetStream(); st != nil {
		events = s.log.ReadStream(call.Context(), string(st.GetStreamIdentifier().GetStreamName()), streamRead(options, count))
	} else {
		opts := allRead(options, filter)
		if opts.Direction == eventstore.Backwards && opts.From == 0 && !opts.FromEnd {
			return nil
		}
		if filter == nil || filter.regex == nil {
			opts.Limit = count
		}
		events = s.log.ReadAll(call.Context(), opts)
	}
	for e, err := range events {
		if errors.Is(err, eventstore.ErrStreamNotFound) {
			return call.Send(&streams.ReadResp{Content: &streams.ReadResp_StreamNotFound_{StreamNotFound: &streams.ReadResp_StreamNotFound{
				StreamIdentifier: options.GetStream().GetStreamIdentifier(),
			}}})
		}
		if err != nil {
			return err
		}
		if !filter.admits(&e) {
			continue
		}
		resp, err := s.response(call.Context(), &e, options)
		if err != nil {
			return err
		}
		if err := call.Send(resp); err != nil {
			return err
		}
		if count--; count == 0 {
			return nil
		}
	}
	return nil
}

// response is an event as clients get it, with what it leads to if it is a link that they want to be followed. One that leads to
// nothing, or to what they may not read, comes alone.
func (s *streamsServer) response(ctx context.Context, e *eventstore.Recorded, options *streams.ReadReq_Options) (*streams.ReadResp, error) {
	stringIDs := options.GetUuidOption().GetString_() != nil
	resp := &streams.ReadResp_ReadEvent{Position: &streams.ReadResp_ReadEvent_CommitPosition{CommitPosition: uint64(e.Position)}}
	if options.GetResolveLinks() && e.Type == persistent.LinkType {
		to, err := persistent.Resolve(ctx, s.log, e, func(stream string) bool { return s.gate.stream(ctx, mayRead, stream) == nil })
		if err != nil {
			return nil, err
		}
		if resp.Link = fromRecorded(e, stringIDs); to != nil {
			resp.Event = fromRecorded(to, stringIDs)
		}
	} else {
		resp.Event = fromRecorded(e, stringIDs)
	}
	return &streams.ReadResp{Content: &streams.ReadResp_Event{Event: resp}}, nil
}

func streamRead(options *streams.ReadReq_Options, count int) eventstore.ReadStream {
	opts := eventstore.ReadStream{Limit: count}
	if options.GetReadDirection() == streams.ReadReq_Options_Backwards {
		opts.Direction = eventstore.Backwards
	}
	switch o := options.GetStream().GetRevisionOption().(type) {
	case *streams.ReadReq_Options_StreamOptions_Revision:
		opts.From = o.Revision
	case *streams.ReadReq_Options_StreamOptions_End:
		opts.FromEnd = true
	}
	return opts
}

// allRead reads from a position on, inclusive forwards and exclusive backwards, as EventStoreDB does: there, a position is the
// point before its event.
func allRead(options *streams.ReadReq_Options, filter *filter) eventstore.ReadAll {
	opts := eventstore.ReadAll{Filter: filter.forLog()}
	if options.GetReadDirection() == streams.ReadReq_Options_Backwards {
		opts.Direction = eventstore.Backwards
	}
	switch o := options.GetAll().GetAllOption().(type) {
	case *streams.ReadReq_Options_AllOptions_Position:
		opts.From = eventstore.Position(o.Position.GetCommitPosition())
		if opts.Direction == eventstore.Backwards && opts.From > 0 {
			opts.From--
		}
	case *streams.ReadReq_Options_AllOptions_End:
		opts.FromEnd = true
	}
	return opts
}
