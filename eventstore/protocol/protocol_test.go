package protocol_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/protocol"
)

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func fill(ctx context.Context, t *testing.T, log eventstore.Log, stream string, n int) {
	t.Helper()
	for i := range n {
		e := eventstore.Proposed{ID: uuid.New(), Type: []string{"Even", "Odd"}[i%2], Data: []byte(fmt.Sprint(i))}
		if _, err := log.Append(ctx, stream, eventstore.Any, e); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFeaturesAndGossip(t *testing.T) {
	ctx := patient(t)
	_, address := serve(t)
	conn := dial(t, address)
	features, err := serverfeatures.NewServerFeaturesClient(conn).GetSupportedMethods(ctx, &shared.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	if features.EventStoreServerVersion != protocol.Version {
		t.Errorf("version %q", features.EventStoreServerVersion)
	}
	methods := make(map[string]bool)
	for _, m := range features.Methods {
		methods[m.ServiceName+"/"+m.MethodName] = true
	}
	for _, want := range []string{"read", "append", "batchappend", "delete", "tombstone"} {
		if !methods["event_store.client.streams.streams/"+want] {
			t.Errorf("%s is not among the methods %v", want, methods)
		}
	}
	cluster, err := gossip.NewGossipClient(conn).Read(ctx, &shared.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	if len(cluster.Members) != 1 {
		t.Fatalf("got %v", cluster)
	}
	m := cluster.Members[0]
	if got := fmt.Sprintf("%s:%d", m.HttpEndPoint.Address, m.HttpEndPoint.Port); got != address || m.State != gossip.MemberInfo_Leader || !m.IsAlive {
		t.Errorf("got %v, want a leader at %s", m, address)
	}
}

// What the official client does with metadata, and what our log makes of it.
func TestOfficialMetadata(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	client := official(t, address)
	fill(ctx, t, log, "s", 10)
	var m esdb.StreamMetadata
	m.SetMaxCount(3)
	m.SetMaxAge(time.Hour)
	m.SetTruncateBefore(2)
	m.SetCacheControl(15 * time.Second)
	m.AddCustomProperty("owner", "me")
	if _, err := client.SetStreamMetadata(ctx, "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}, m); err != nil {
		t.Fatal(err)
	}
	ours, _, err := log.Metadata(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	want := eventstore.Metadata{MaxCount: 3, MaxAge: time.Hour, TruncateBefore: 2, Custom: map[string]any{"$cacheControl": 15.0, "owner": "me"}}
	if diff := cmp.Diff(want, ours); diff != "" {
		t.Errorf("metadata differs (-set +read):\n%s", diff)
	}
	theirs, err := client.GetStreamMetadata(ctx, "s", esdb.ReadStreamOptions{From: esdb.End{}, Direction: esdb.Backwards})
	if err != nil {
		t.Fatal(err)
	}
	if *theirs.MaxCount() != 3 || *theirs.MaxAge() != time.Hour || *theirs.TruncateBefore() != 2 || theirs.CustomProperty("owner") != "me" {
		t.Errorf("the client reads %+v", theirs)
	}
	if got := readStream(ctx, t, client, "s", esdb.ReadStreamOptions{}); fmt.Sprint(got) != "[7 8 9]" {
		t.Errorf("the stream holds %v", got)
	}
}

func readStream(ctx context.Context, t *testing.T, client *esdb.Client, stream string, opts esdb.ReadStreamOptions) []uint64 {
	t.Helper()
	read, err := client.ReadStream(ctx, stream, opts, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return received(t, read, number)
}

// Forwards a position includes its event, backwards it does not.
func TestReadsFromAPosition(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	client := official(t, address)
	fill(ctx, t, log, "s", 5)
	for _, c := range []struct {
		direction esdb.Direction
		from      esdb.AllPosition
		want      string
	}{
		{esdb.Forwards, esdb.Start{}, "[1 2 3 4 5]"},
		{esdb.Forwards, esdb.Position{Commit: 3, Prepare: 3}, "[3 4 5]"},
		{esdb.Forwards, esdb.End{}, "[]"},
		{esdb.Backwards, esdb.End{}, "[5 4 3 2 1]"},
		{esdb.Backwards, esdb.Position{Commit: 3, Prepare: 3}, "[2 1]"},
		{esdb.Backwards, esdb.Position{Commit: 1, Prepare: 1}, "[]"},
		{esdb.Backwards, esdb.Start{}, "[]"},
	} {
		read, err := client.ReadAll(ctx, esdb.ReadAllOptions{Direction: c.direction, From: c.from}, 100)
		if err != nil {
			t.Fatal(err)
		}
		if got := received(t, read, position); fmt.Sprint(got) != c.want {
			t.Errorf("direction %d from %v: got %v, want %s", c.direction, c.from, got, c.want)
		}
	}
}

// A filtered subscription gets what it asked for, checkpoints for what it did not, and learns when it has caught up.
func TestFilteredSubscriptions(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	client := official(t, address)
	fill(ctx, t, log, "s-1", 100)
	fill(ctx, t, log, "t-1", 100)
	if err := log.SetMetadata(ctx, "s-1", eventstore.Any, eventstore.Metadata{MaxCount: 1000}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		filter *esdb.SubscriptionFilter
		want   int
	}{
		"stream prefix": {&esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{"s-"}}, 100},
		"type prefix":   {&esdb.SubscriptionFilter{Type: esdb.EventFilterType, Prefixes: []string{"Odd", "None"}}, 100},
		"stream regex":  {&esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Regex: "^.-1$"}, 200},
		"type regex":    {&esdb.SubscriptionFilter{Type: esdb.EventFilterType, Regex: "d+$"}, 100},
		"no system":     {esdb.ExcludeSystemEventsFilter(), 200},
		"nothing":       {&esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{"x"}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			sub, err := client.SubscribeToAll(ctx, esdb.SubscribeToAllOptions{From: esdb.Start{}, Filter: c.filter})
			if err != nil {
				t.Fatal(err)
			}
			defer sub.Close()
			got, last := 0, uint64(0)
			for caughtUp := false; !caughtUp; {
				switch e := sub.Recv(); {
				case e.EventAppeared != nil:
					p := e.EventAppeared.OriginalEvent().Position.Commit
					if p <= last {
						t.Fatalf("position %d after %d", p, last)
					}
					got, last = got+1, p
				case e.CheckPointReached != nil:
					if e.CheckPointReached.Commit < last {
						t.Fatalf("checkpoint %d after %d", e.CheckPointReached.Commit, last)
					}
					last = e.CheckPointReached.Commit
				case e.SubscriptionDropped != nil:
					t.Fatal(e.SubscriptionDropped.Error)
				default:
					caughtUp = e.CaughtUp != nil
				}
			}
			if got != c.want || last != 201 {
				t.Errorf("got %d events up to %d, want %d up to 201", got, last, c.want)
			}
		})
	}
}

func TestSubscriptionsFromTheEnd(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	client := official(t, address)
	fill(ctx, t, log, "s", 10)
	all, err := client.SubscribeToAll(ctx, esdb.SubscribeToAllOptions{From: esdb.End{}})
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	stream, err := client.SubscribeToStream(ctx, "s", esdb.SubscribeToStreamOptions{From: esdb.End{}})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	fill(ctx, t, log, "s", 1)
	for _, sub := range []*esdb.Subscription{all, stream} {
		e := sub.Recv()
		for e.CaughtUp != nil {
			e = sub.Recv()
		}
		if e.EventAppeared == nil || e.EventAppeared.OriginalEvent().EventNumber != 10 {
			t.Errorf("got %+v, want revision 10", e)
		}
	}
}

func TestDeletionsTellConflictsInTrailers(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	fill(ctx, t, log, "s", 3)
	client := streams.NewStreamsClient(dial(t, address))
	var trailers metadata.MD
	_, err := client.Delete(ctx, &streams.DeleteReq{Options: &streams.DeleteReq_Options{
		StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte("s")}, ExpectedStreamRevision: &streams.DeleteReq_Options_Revision{Revision: 7},
	}}, grpc.Trailer(&trailers))
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("got %v", err)
	}
	for key, want := range map[string]string{"exception": "wrong-expected-version", "stream-name": "s", "expected-version": "7", "actual-version": "2"} {
		if got := trailers.Get(key); len(got) != 1 || got[0] != want {
			t.Errorf("trailer %s: got %v, want %s", key, got, want)
		}
	}
	deleted, err := client.Tombstone(ctx, &streams.TombstoneReq{Options: &streams.TombstoneReq_Options{
		StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte("s")}, ExpectedStreamRevision: &streams.TombstoneReq_Options_Any{Any: &shared.Empty{}},
	}})
	if err != nil || deleted.GetPosition().GetCommitPosition() != 4 {
		t.Errorf("got %v, %v", deleted, err)
	}
}

func proposed(id uuid.UUID, typ string) *streams.BatchAppendReq_ProposedMessage {
	return &streams.BatchAppendReq_ProposedMessage{
		Id: &shared.UUID{Value: &shared.UUID_String_{String_: id.String()}}, Metadata: map[string]string{"type": typ, "content-type": "application/json"},
		Data: []byte(`{}`),
	}
}

func TestBatchAppend(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	call, err := streams.NewStreamsClient(dial(t, address)).BatchAppend(ctx)
	if err != nil {
		t.Fatal(err)
	}
	correlation := func(i int) *shared.UUID {
		return &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{LeastSignificantBits: int64(i)}}}
	}
	options := func(stream string) *streams.BatchAppendReq_Options {
		return &streams.BatchAppendReq_Options{
			StreamIdentifier:       &shared.StreamIdentifier{StreamName: []byte(stream)},
			ExpectedStreamPosition: &streams.BatchAppendReq_Options_Any{Any: &emptypb.Empty{}},
		}
	}
	send := func(req *streams.BatchAppendReq) {
		t.Helper()
		if err := call.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	// Appends to one stream keep their order, whatever else is on the way.
	const n = 100
	for i := range n {
		send(&streams.BatchAppendReq{CorrelationId: correlation(i), Options: options("s"), ProposedMessages: []*streams.BatchAppendReq_ProposedMessage{proposed(uuid.New(), fmt.Sprint("T", i))}})
		send(&streams.BatchAppendReq{CorrelationId: correlation(i), ProposedMessages: []*streams.BatchAppendReq_ProposedMessage{proposed(uuid.New(), "Second")}, IsFinal: true})
		send(&streams.BatchAppendReq{CorrelationId: correlation(1000 + i), Options: options(fmt.Sprint("other-", i)), ProposedMessages: []*streams.BatchAppendReq_ProposedMessage{proposed(uuid.New(), "T")}, IsFinal: true})
	}
	conflicting := options("s")
	conflicting.ExpectedStreamPosition = &streams.BatchAppendReq_Options_NoStream{NoStream: &emptypb.Empty{}}
	send(&streams.BatchAppendReq{CorrelationId: correlation(5000), Options: conflicting, ProposedMessages: []*streams.BatchAppendReq_ProposedMessage{proposed(uuid.New(), "T")}, IsFinal: true})
	untyped := proposed(uuid.New(), "")
	send(&streams.BatchAppendReq{CorrelationId: correlation(5001), Options: options("s"), ProposedMessages: []*streams.BatchAppendReq_ProposedMessage{untyped}, IsFinal: true})
	for range 2*n + 2 {
		resp, err := call.Recv()
		if err != nil {
			t.Fatal(err)
		}
		switch id := resp.GetCorrelationId().GetStructured().GetLeastSignificantBits(); {
		case id == 5000:
			var wrong shared.WrongExpectedVersion
			if resp.GetError().GetCode() != int32(code.Code_ALREADY_EXISTS) || resp.GetError().GetDetails()[0].UnmarshalTo(&wrong) != nil || wrong.GetCurrentStreamRevision() != 2*n-1 {
				t.Errorf("a conflict got %v", resp)
			}
		case id == 5001:
			if resp.GetError().GetCode() != int32(code.Code_INVALID_ARGUMENT) {
				t.Errorf("an event without type got %v", resp)
			}
		case id < n:
			if got := resp.GetSuccess().GetCurrentRevision(); got != uint64(2*id+1) {
				t.Errorf("append %d got %v", id, resp)
			}
		default:
			if resp.GetSuccess() == nil {
				t.Errorf("append %d got %v", id, resp)
			}
		}
	}
	i := 0
	for e, err := range log.ReadStream(ctx, "s", eventstore.ReadStream{}) {
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{fmt.Sprint("T", i/2), "Second"}[i%2]; e.Type != want {
			t.Errorf("event %d is a %s, want %s", i, e.Type, want)
		}
		i++
	}
}

// What a client cannot mean is refused with a sentence.
func TestBadRequests(t *testing.T) {
	ctx := patient(t)
	_, address := serve(t)
	client := streams.NewStreamsClient(dial(t, address))
	for name, req := range map[string]*streams.ReadReq{
		"nothing": {},
		"a regex that does not compile": {Options: &streams.ReadReq_Options{
			StreamOption: &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{}},
			FilterOption: &streams.ReadReq_Options_Filter{Filter: &streams.ReadReq_Options_FilterOptions{
				Filter: &streams.ReadReq_Options_FilterOptions_EventType{EventType: &streams.ReadReq_Options_FilterOptions_Expression{Regex: "("}},
			}},
		}},
		"a subscription backwards": {Options: &streams.ReadReq_Options{
			StreamOption: &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{}}, ReadDirection: streams.ReadReq_Options_Backwards,
			CountOption: &streams.ReadReq_Options_Subscription{Subscription: &streams.ReadReq_Options_SubscriptionOptions{}},
		}},
	} {
		call, err := client.Read(ctx, req)
		if err == nil {
			_, err = call.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v", name, err)
		}
	}
	call, err := client.Append(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*streams.AppendReq{
		{Content: &streams.AppendReq_Options_{Options: &streams.AppendReq_Options{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte("s")}}}},
		{Content: &streams.AppendReq_ProposedMessage_{ProposedMessage: &streams.AppendReq_ProposedMessage{
			Id: &shared.UUID{Value: &shared.UUID_String_{String_: uuid.NewString()}}, Metadata: map[string]string{"content-type": "application/json"},
		}}},
	} {
		if err := call.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	_, err = call.CloseAndRecv()
	if status.Code(err) != codes.InvalidArgument || call.Trailer().Get("exception")[0] != "missing-required-metadata-property" {
		t.Errorf("an event without type got %v with %v", err, call.Trailer())
	}
}
