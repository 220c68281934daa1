package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	pb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/protocol/persistent"
)

const trailerGroup = "group-name"

// persistentServer is the protocol's side of persistent subscriptions; package persistent does the work.
type persistentServer struct {
	pb.UnimplementedPersistentSubscriptionsServer
	groups *persistent.Service
	gate   *gate
	over   *shutdown
}

// groupStatus makes of an error what EventStoreDB would have answered about a group.
func groupStatus(err error, stream, group string) error {
	about := func(code codes.Code, exception, format string, pairs ...string) error {
		pairs = append([]string{trailerStream, stream, trailerGroup, group}, pairs...)
		return told(code, exception, fmt.Sprintf(format, group, stream), pairs...)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, persistent.ErrNotFound):
		return about(codes.NotFound, "persistent-subscription-does-not-exist", "Subscription group %s on stream %s does not exist.")
	case errors.Is(err, persistent.ErrExists):
		return about(codes.AlreadyExists, "persistent-subscription-exists", "Subscription group %s on stream %s exists.")
	case errors.Is(err, persistent.ErrMaxSubscribers):
		return about(codes.FailedPrecondition, "maximum-subscribers-reached", "Maximum subscriptions reached for subscription group %s on stream %s.")
	case errors.Is(err, persistent.ErrDropped):
		return about(codes.Canceled, "persistent-subscription-dropped", "Subscription group %s on stream %s was dropped.")
	case errors.Is(err, persistent.ErrSettings):
		return about(codes.Internal, "persistent-subscription-failed", "Subscription group %s on stream %s failed: '"+err.Error()+"'", "reason", err.Error())
	case errors.Is(err, persistent.ErrClosed):
		err = fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	return toStatus(err, "PersistentSubscription", stream, 0)
}

// source is how requests name what a group reads.
type source interface {
	GetStreamIdentifier() *shared.StreamIdentifier
	GetAll() *shared.Empty
}

func sourceOf(s source) (string, error) {
	if s.GetAll() != nil {
		return persistent.All, nil
	}
	return streamName(s.GetStreamIdentifier())
}

// settings is what creating and updating a group have in common.
type settings interface {
	GetResolveLinks() bool
	GetExtraStatistics() bool
	GetMaxRetryCount() int32
	GetMinCheckpointCount() int32
	GetMaxCheckpointCount() int32
	GetMaxSubscriberCount() int32
	GetLiveBufferSize() int32
	GetReadBatchSize() int32
	GetHistoryBufferSize() int32
	GetMessageTimeoutMs() int32
	GetMessageTimeoutTicks() int64
	GetCheckpointAfterMs() int32
	GetCheckpointAfterTicks() int64
}

func toSettings(s settings, start persistent.Start, strategy string) persistent.Settings {
	const tick = 100 * time.Nanosecond
	return persistent.Settings{
		Start: start, ResolveLinks: s.GetResolveLinks(), ExtraStatistics: s.GetExtraStatistics(), MaxRetries: int(s.GetMaxRetryCount()),
		MessageTimeout:  time.Duration(s.GetMessageTimeoutMs())*time.Millisecond + time.Duration(s.GetMessageTimeoutTicks())*tick,
		CheckpointAfter: time.Duration(s.GetCheckpointAfterMs())*time.Millisecond + time.Duration(s.GetCheckpointAfterTicks())*tick,
		MinCheckpoint:   int(s.GetMinCheckpointCount()), MaxCheckpoint: int(s.GetMaxCheckpointCount()), MaxSubscribers: int(s.GetMaxSubscriberCount()),
		HistoryBuffer: int(s.GetHistoryBufferSize()), LiveBuffer: int(s.GetLiveBufferSize()), ReadBatch: int(s.GetReadBatchSize()), Strategy: strategy,
	}
}

// Create makes a group.
func (s *persistentServer) Create(ctx context.Context, req *pb.CreateReq) (*pb.CreateResp, error) {
	o := req.GetOptions()
	d := persistent.Definition{Group: o.GetGroupName()}
	var start persistent.Start
	switch {
	case o.GetAll() != nil:
		d.Stream, start = persistent.All, allStart(o.GetAll(), o.GetAll().GetPosition().GetCommitPosition())
		d.Filter = toGroupFilter(o.GetAll().GetFilter())
	case o.GetStream() != nil:
		d.Stream, start = string(o.GetStream().GetStreamIdentifier().GetStreamName()), streamStart(o.GetStream())
	default: // a client from before there was another source
		//lint:ignore SA1019 old clients use it
		d.Stream, start = string(o.GetStreamIdentifier().GetStreamName()), oldStart(o.GetSettings().GetRevision())
	}
	if err := s.mayManage(ctx, d.Stream); err != nil {
		return nil, err
	}
	strategy := o.GetSettings().GetConsumerStrategy()
	if strategy == "" {
		//lint:ignore SA1019 the Go client uses it
		strategy = o.GetSettings().GetNamedConsumerStrategy().String()
	}
	d.Settings = toSettings(o.GetSettings(), start, strategy)
	return &pb.CreateResp{}, groupStatus(s.groups.Create(ctx, d, userOf(ctx).Name), d.Stream, d.Group)
}

// mayManage refuses requests that name no stream, and users who do not run the event store.
func (s *persistentServer) mayManage(ctx context.Context, stream string) error {
	if stream == "" {
		return invalid("the request names no stream")
	}
	return s.gate.operator(ctx)
}

func streamStart(s interface {
	GetRevision() uint64
	GetEnd() *shared.Empty
},
) persistent.Start {
	return persistent.Start{FromEnd: s.GetEnd() != nil, At: s.GetRevision()}
}

func allStart(a interface{ GetEnd() *shared.Empty }, position uint64) persistent.Start {
	return persistent.Start{FromEnd: a.GetEnd() != nil, At: position}
}

// oldStart reads a revision of old clients, of which the highest is the end.
func oldStart(revision uint64) persistent.Start {
	if revision == math.MaxUint64 {
		return persistent.Start{FromEnd: true}
	}
	return persistent.Start{At: revision}
}

func toGroupFilter(f *pb.CreateReq_AllOptions_FilterOptions) *persistent.Filter {
	if f == nil {
		return nil
	}
	out := &persistent.Filter{ByType: f.GetEventType() != nil}
	expression := f.GetStreamIdentifier()
	if out.ByType {
		expression = f.GetEventType()
	}
	if out.Prefixes = expression.GetPrefix(); len(out.Prefixes) == 0 {
		out.Regex = expression.GetRegex()
	}
	return out
}

// Update changes a group.
func (s *persistentServer) Update(ctx context.Context, req *pb.UpdateReq) (*pb.UpdateResp, error) {
	o := req.GetOptions()
	d := persistent.Definition{Group: o.GetGroupName()}
	var start persistent.Start
	switch {
	case o.GetAll() != nil:
		d.Stream, start = persistent.All, allStart(o.GetAll(), o.GetAll().GetPosition().GetCommitPosition())
	case o.GetStream() != nil:
		d.Stream, start = string(o.GetStream().GetStreamIdentifier().GetStreamName()), streamStart(o.GetStream())
	default:
		//lint:ignore SA1019 old clients use it
		d.Stream, start = string(o.GetStreamIdentifier().GetStreamName()), oldStart(o.GetSettings().GetRevision())
	}
	if err := s.mayManage(ctx, d.Stream); err != nil {
		return nil, err
	}
	d.Settings = toSettings(o.GetSettings(), start, o.GetSettings().GetNamedConsumerStrategy().String())
	return &pb.UpdateResp{}, groupStatus(s.groups.Update(ctx, d, userOf(ctx).Name), d.Stream, d.Group)
}

// Delete ends a group.
func (s *persistentServer) Delete(ctx context.Context, req *pb.DeleteReq) (*pb.DeleteResp, error) {
	stream, err := sourceOf(req.GetOptions())
	if err != nil {
		return nil, err
	}
	if err := s.gate.operator(ctx); err != nil {
		return nil, err
	}
	group := req.GetOptions().GetGroupName()
	return &pb.DeleteResp{}, groupStatus(s.groups.Delete(ctx, stream, group, userOf(ctx).Name), stream, group)
}

// ReplayParked hands out parked events again.
func (s *persistentServer) ReplayParked(ctx context.Context, req *pb.ReplayParkedReq) (*pb.ReplayParkedResp, error) {
	stream, err := sourceOf(req.GetOptions())
	if err != nil {
		return nil, err
	}
	if err := s.gate.operator(ctx); err != nil {
		return nil, err
	}
	var stopAt *uint64
	if o, ok := req.GetOptions().GetStopAtOption().(*pb.ReplayParkedReq_Options_StopAt); ok {
		if o.StopAt < 0 {
			return nil, invalid("stopping at %d: give a number that is not negative", o.StopAt)
		}
		n := uint64(o.StopAt)
		stopAt = &n
	}
	group := req.GetOptions().GetGroupName()
	return &pb.ReplayParkedResp{}, groupStatus(s.groups.Replay(ctx, stream, group, stopAt), stream, group)
}

// RestartSubsystem ends all groups and starts them again.
func (s *persistentServer) RestartSubsystem(ctx context.Context, _ *shared.Empty) (*shared.Empty, error) {
	if err := s.gate.operator(ctx); err != nil {
		return nil, err
	}
	return &shared.Empty{}, groupStatus(s.groups.Restart(ctx), "", "")
}

// GetInfo tells about a group.
func (s *persistentServer) GetInfo(ctx context.Context, req *pb.GetInfoReq) (*pb.GetInfoResp, error) {
	stream, err := sourceOf(req.GetOptions())
	if err != nil {
		return nil, err
	}
	if err := s.gate.somebody(ctx); err != nil {
		return nil, err
	}
	group := req.GetOptions().GetGroupName()
	info, err := s.groups.Info(ctx, stream, group)
	if err != nil {
		return nil, groupStatus(err, stream, group)
	}
	return &pb.GetInfoResp{SubscriptionInfo: fromInfo(&info)}, nil
}

// List tells about all groups, or those of a stream.
func (s *persistentServer) List(ctx context.Context, req *pb.ListReq) (*pb.ListResp, error) {
	stream := ""
	if of := req.GetOptions().GetListForStream(); of != nil {
		stream = string(of.GetStream().GetStreamName())
		if of.GetAll() != nil {
			stream = persistent.All
		}
	}
	if err := s.gate.somebody(ctx); err != nil {
		return nil, err
	}
	infos, err := s.groups.List(ctx, stream)
	if err != nil {
		return nil, groupStatus(err, stream, "")
	}
	resp := &pb.ListResp{}
	for i := range infos {
		resp.Subscriptions = append(resp.Subscriptions, fromInfo(&infos[i]))
	}
	return resp, nil
}

func fromInfo(i *persistent.Info) *pb.SubscriptionInfo {
	out := &pb.SubscriptionInfo{
		EventSource: i.Stream, GroupName: i.Group, Status: i.Status, AveragePerSecond: int32(i.PerSecond), TotalItems: i.Total,
		CountSinceLastMeasurement: i.Measured, LastCheckpointedEventPosition: i.Checkpoint, LastKnownEventPosition: i.Known, ResolveLinkTos: i.ResolveLinks,
		StartFrom: i.StartFrom, MessageTimeoutMilliseconds: int32(i.MessageTimeout.Milliseconds()), ExtraStatistics: i.ExtraStatistics,
		MaxRetryCount: int32(i.MaxRetries), LiveBufferSize: int32(i.LiveBuffer), BufferSize: int32(i.HistoryBuffer), ReadBatchSize: int32(i.ReadBatch),
		CheckPointAfterMilliseconds: int32(i.CheckpointAfter.Milliseconds()), MinCheckPointCount: int32(i.MinCheckpoint), MaxCheckPointCount: int32(i.MaxCheckpoint),
		ReadBufferCount: int32(i.ReadBuffer), RetryBufferCount: int32(i.RetryBuffer), TotalInFlightMessages: int32(i.InFlight),
		OutstandingMessagesCount: int32(i.Outstanding), NamedConsumerStrategy: i.Strategy, MaxSubscriberCount: int32(i.MaxSubscribers), ParkedMessageCount: i.Parked,
	}
	for _, c := range i.Connections {
		conn := &pb.SubscriptionInfo_ConnectionInfo{
			From: c.From, Username: c.User, AverageItemsPerSecond: int32(c.PerSecond), TotalItems: c.Total, CountSinceLastMeasurement: c.Measured,
			AvailableSlots: int32(c.Available), InFlightMessages: int32(c.InFlight), ConnectionName: c.Name,
		}
		for _, m := range c.Measurements {
			conn.ObservedMeasurements = append(conn.ObservedMeasurements, &pb.SubscriptionInfo_Measurement{Key: m.Key, Value: m.Value})
		}
		out.Connections = append(out.Connections, conn)
	}
	return out
}

// Read subscribes to a group: the client says which, and then answers for what it gets.
func (s *persistentServer) Read(call pb.PersistentSubscriptions_ReadServer) error {
	first, err := call.Recv()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	o := first.GetOptions()
	if o == nil {
		return invalid("the first message of a subscription holds its options")
	}
	stream, err := sourceOf(o)
	if err != nil {
		return err
	}
	ctx, cancel := s.over.with(call.Context())
	defer cancel(nil)
	if err := errors.Join(s.gate.somebody(ctx), s.gate.stream(ctx, mayRead, stream)); err != nil {
		return groupStatus(err, stream, o.GetGroupName())
	}
	consumer, err := s.groups.Connect(ctx, stream, o.GetGroupName(), clientOf(ctx, int(o.GetBufferSize())))
	if err != nil {
		return groupStatus(err, stream, o.GetGroupName())
	}
	defer consumer.Close()
	err = call.Send(&pb.ReadResp{Content: &pb.ReadResp_SubscriptionConfirmation_{SubscriptionConfirmation: &pb.ReadResp_SubscriptionConfirmation{
		SubscriptionId: persistent.Key(stream, o.GetGroupName()),
	}}})
	if err != nil {
		return err
	}
	go func() { cancel(answers(call, consumer)) }()
	stringIDs := o.GetUuidOption().GetString_() != nil
	for {
		d, err := consumer.Next(ctx)
		if err != nil {
			if ctx.Err() != nil && call.Context().Err() == nil {
				err = context.Cause(ctx)
			}
			return groupStatus(err, stream, o.GetGroupName())
		}
		if err := call.Send(fromDelivery(&d, stringIDs)); err != nil {
			return err
		}
	}
}

func clientOf(ctx context.Context, slots int) persistent.Client {
	c := persistent.Client{Slots: slots, User: userOf(ctx).Name, Name: "<unknown>"}
	if c.User == "" {
		c.User = "anonymous"
	}
	if p, ok := peer.FromContext(ctx); ok {
		c.From = p.Addr.String()
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if name := md.Get("connection-name"); len(name) > 0 {
		c.Name = name[0]
	}
	return c
}

// answers takes what a client says about the events that it got, until it has nothing more to say. It returns when the call is over,
// or the client said what it cannot mean.
func answers(call pb.PersistentSubscriptions_ReadServer, consumer *persistent.Consumer) error {
	for {
		req, err := call.Recv()
		if errors.Is(err, io.EOF) {
			<-call.Context().Done() // it may go on listening
			return nil
		}
		if err != nil {
			return err
		}
		switch m := req.GetContent().(type) {
		case *pb.ReadReq_Ack_:
			ids, err := fromUUIDs(m.Ack.GetIds())
			if err != nil {
				return err
			}
			consumer.Ack(ids...)
		case *pb.ReadReq_Nack_:
			ids, err := fromUUIDs(m.Nack.GetIds())
			if err != nil {
				return err
			}
			consumer.Nack(toAction(m.Nack.GetAction()), m.Nack.GetReason(), ids...)
		default:
			return invalid("a subscription takes acknowledgements, not another message")
		}
	}
}

func fromUUIDs(ids []*shared.UUID) ([]uuid.UUID, error) {
	out := make([]uuid.UUID, 0, len(ids))
	for _, id := range ids {
		parsed, err := fromUUID(id)
		if err != nil {
			return nil, invalid("an acknowledgement: %v", err)
		}
		out = append(out, parsed)
	}
	return out, nil
}

func toAction(a pb.ReadReq_Nack_Action) persistent.Action {
	switch a {
	case pb.ReadReq_Nack_Park:
		return persistent.Park
	case pb.ReadReq_Nack_Skip:
		return persistent.Skip
	case pb.ReadReq_Nack_Stop:
		return persistent.Stop
	default: // a client that does not know what to do, too
		return persistent.Retry
	}
}

func fromDelivery(d *persistent.Delivery, stringIDs bool) *pb.ReadResp {
	e := &pb.ReadResp_ReadEvent{
		Event:    fromGroupEvent(d.Event, stringIDs),
		Position: &pb.ReadResp_ReadEvent_CommitPosition{CommitPosition: uint64(d.Event.Position)},
		Count:    &pb.ReadResp_ReadEvent_RetryCount{RetryCount: int32(d.Retries)},
	}
	if d.Link != nil {
		e.Link = fromGroupEvent(d.Link, stringIDs)
	}
	return &pb.ReadResp{Content: &pb.ReadResp_Event{Event: e}}
}

func fromGroupEvent(e *eventstore.Recorded, stringIDs bool) *pb.ReadResp_ReadEvent_RecordedEvent {
	return &pb.ReadResp_ReadEvent_RecordedEvent{
		Id: toUUID(e.ID, stringIDs), StreamIdentifier: identifier(e.Stream), StreamRevision: e.Revision,
		PreparePosition: uint64(e.Position), CommitPosition: uint64(e.Position),
		Metadata: map[string]string{
			metaType: e.Type, metaContentType: e.ContentType, metaCreated: strconv.FormatInt(ticksOf(e.Created), 10),
		},
		CustomMetadata: e.Metadata, Data: e.Data,
	}
}
