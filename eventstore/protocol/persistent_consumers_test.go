package protocol_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	pb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A consumer gets no more than it has room for, until it answers.
func TestConsumersGetWhatTheyHaveRoomFor(t *testing.T) {
	for name, answer := range map[string]func(*esdb.PersistentSubscription, *esdb.ResolvedEvent) error{
		"ack": func(s *esdb.PersistentSubscription, e *esdb.ResolvedEvent) error { return s.Ack(e) },
		"park": func(s *esdb.PersistentSubscription, e *esdb.ResolvedEvent) error {
			return s.Nack("why", esdb.NackActionPark, e)
		},
		"skip": func(s *esdb.PersistentSubscription, e *esdb.ResolvedEvent) error {
			return s.Nack("why", esdb.NackActionSkip, e)
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := patient(t)
			log, address := serve(t)
			client := official(t, address)
			fill(ctx, t, log, "s", 3)
			createGroup(ctx, t, client, "s", esdb.Start{}, nil)
			sub := join(ctx, t, client, "s", 2)
			first := next(t, sub)
			next(t, sub)
			i := info(ctx, t, client, "s", "all is read", func(i *esdb.PersistentSubscriptionInfo) bool { return i.Stats.ReadBufferCount == 1 })
			if i.Stats.TotalInFlightMessages != 2 || len(i.Connections) != 1 || i.Connections[0].AvailableSlots != 0 {
				t.Errorf("two of three are out: %+v", i.Stats)
			}
			if err := answer(sub, first.Event); err != nil {
				t.Fatal(err)
			}
			if got := next(t, sub).Event.OriginalEvent().EventNumber; got != 2 {
				t.Errorf("after an answer: revision %d", got)
			}
		})
	}
}

// Consumers share what there is, and the rest goes on when one of them leaves.
func TestConsumersShare(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	client := official(t, address)
	settings := esdb.SubscriptionSettingsDefault()
	settings.MaxSubscriberCount, settings.ExtraStatistics = 2, true
	createGroup(ctx, t, client, "s", esdb.Start{}, &settings)
	a, b := join(ctx, t, client, "s", 3), join(ctx, t, client, "s", 3)
	if _, err := client.SubscribeToPersistentSubscription(ctx, "s", "g", esdb.SubscribeToPersistentSubscriptionOptions{}); !strings.Contains(fmt.Sprint(err), "Maximum subscriptions reached") {
		t.Errorf("a third of two subscribers got %v", err)
	}
	fill(ctx, t, log, "s", 6)
	held := map[uint64]bool{}
	for range 3 {
		held[next(t, a).Event.OriginalEvent().EventNumber] = true
		e := next(t, b).Event
		if err := b.Ack(e); err != nil {
			t.Fatal(err)
		}
	}
	i := info(ctx, t, client, "s", "b answered", func(i *esdb.PersistentSubscriptionInfo) bool { return i.Stats.OutstandingMessagesCount == 3 })
	if len(i.Connections) != 2 || i.Connections[0].TotalItemsProcessed != 3 || i.Connections[0].Username != "anonymous" || i.Status != "Live" {
		t.Errorf("got %+v", i)
	}
	if m := slices.Concat(i.Connections[0].ExtraStatistics, i.Connections[1].ExtraStatistics); len(m) == 0 || m[0].Key != "Mean" {
		t.Errorf("measured %v", m)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		e := next(t, b)
		if n := e.Event.OriginalEvent().EventNumber; !held[n] || e.RetryCount != 1 {
			t.Errorf("b got revision %d, tried again %d times", n, e.RetryCount)
		}
	}
	// A retry comes at once; a consumer that stops is dropped.
	first := esdb.ResolvedEvent{}
	fill(ctx, t, log, "s", 1)
	c := join(ctx, t, client, "s", 3)
	first = *next(t, c).Event
	if err := c.Nack("once more", esdb.NackActionRetry, &first); err != nil {
		t.Fatal(err)
	}
	if e := next(t, c); e.Event.OriginalEvent().EventID != first.OriginalEvent().EventID || e.RetryCount != 1 {
		t.Errorf("a retry got %+v", e)
	}
	if err := c.Nack("enough", esdb.NackActionStop, &first); err != nil {
		t.Fatal(err)
	}
	if e := c.Recv(); e.SubscriptionDropped == nil || status.Code(e.SubscriptionDropped.Error) != codes.Canceled {
		t.Errorf("a consumer that stopped got %+v", e)
	}
}

// Changing, restarting and deleting a group drops its consumers, each with its reason.
func TestConsumersAreDropped(t *testing.T) {
	ctx := patient(t)
	_, address := serve(t)
	client := official(t, address)
	createGroup(ctx, t, client, "s", esdb.Start{}, nil)
	for _, c := range []struct {
		what string
		do   func() error
		want codes.Code
	}{
		{"update", func() error {
			return client.UpdatePersistentSubscription(ctx, "s", "g", esdb.PersistentStreamSubscriptionOptions{})
		}, codes.Canceled},
		{"restart", func() error {
			return client.RestartPersistentSubscriptionSubsystem(ctx, esdb.RestartPersistentSubscriptionSubsystemOptions{})
		}, codes.Canceled},
		{"delete", func() error {
			return client.DeletePersistentSubscription(ctx, "s", "g", esdb.DeletePersistentSubscriptionOptions{})
		}, codes.NotFound},
	} {
		sub := join(ctx, t, client, "s", 1)
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if e := sub.Recv(); e.SubscriptionDropped == nil || status.Code(e.SubscriptionDropped.Error) != c.want {
			t.Errorf("%s: got %+v", c.what, e)
		}
	}
}

// What a consumer cannot mean ends its call.
func TestBadConsumers(t *testing.T) {
	ctx := patient(t)
	_, address := serve(t)
	createGroup(ctx, t, official(t, address), "s", esdb.Start{}, nil)
	groups := pb.NewPersistentSubscriptionsClient(dial(t, address))
	options := func(slots int32) *pb.ReadReq {
		return &pb.ReadReq{Content: &pb.ReadReq_Options_{Options: &pb.ReadReq_Options{
			StreamOption: &pb.ReadReq_Options_StreamIdentifier{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte("s")}}, GroupName: "g", BufferSize: slots,
		}}}
	}
	ack := &pb.ReadReq{Content: &pb.ReadReq_Ack_{Ack: &pb.ReadReq_Ack{Ids: []*shared.UUID{{}}}}}
	for name, c := range map[string]struct {
		send []*pb.ReadReq
		want codes.Code
	}{
		"an answer first":        {[]*pb.ReadReq{ack}, codes.InvalidArgument},
		"no room":                {[]*pb.ReadReq{options(0)}, codes.Internal},
		"options twice":          {[]*pb.ReadReq{options(1), options(1)}, codes.InvalidArgument},
		"an answer to no event":  {[]*pb.ReadReq{options(1), ack}, codes.InvalidArgument},
		"no stream":              {[]*pb.ReadReq{{Content: &pb.ReadReq_Options_{Options: &pb.ReadReq_Options{BufferSize: 1}}}}, codes.InvalidArgument},
		"a message with nothing": {[]*pb.ReadReq{options(1), {}}, codes.InvalidArgument},
	} {
		call, err := groups.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.send {
			if err := call.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		for err == nil {
			_, err = call.Recv()
		}
		if status.Code(err) != c.want {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
