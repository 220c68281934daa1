package protocol_test

import (
	"net"
	"sync/atomic"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/shiplog/shiplog/eventstore/protocol"
	"github.com/shiplog/shiplog/internal/servetest"
)

// Two nodes that serve one log, of which one leads.
func TestFollowersSendWritersToTheLeader(t *testing.T) {
	ctx := patient(t)
	log := servetest.OpenLog(t)
	var listeners [2]net.Listener
	var leader atomic.Int32
	for i := range listeners {
		var err error
		if listeners[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	members := func() []protocol.Member {
		var out []protocol.Member
		for i, l := range listeners {
			m := protocol.Member{Address: l.Addr().String(), State: gossip.MemberInfo_Follower, Alive: true}
			if int(leader.Load()) == i {
				m.State = gossip.MemberInfo_Leader
			}
			out = append(out, m)
		}
		return out
	}
	for _, l := range listeners {
		startAt(t, l, log, protocol.Options{Advertise: l.Addr().String(), Members: members})
	}
	first, second := listeners[0].Addr().String(), listeners[1].Addr().String()

	// The client that prefers followers finds one by gossip, is sent to the leader by its first append, and stays there.
	client := servetest.Connect(t, "esdb://"+first+","+second+"?tls=false&nodePreference=follower")
	if _, err := client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{}, event()); kindOf(err) != "not leader" {
		t.Errorf("an append at a follower got %v", err)
	}
	if _, err := client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{}, event()); err != nil {
		t.Errorf("an append after having been sent to the leader got %v", err)
	}
	// The leadership moves on.
	leader.Store(1)
	if _, err := client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{}, event()); kindOf(err) != "not leader" {
		t.Errorf("an append at the old leader got %v", err)
	}
	if _, err := client.DeleteStream(ctx, "s", esdb.DeleteStreamOptions{}); err != nil {
		t.Errorf("a deletion at the new leader got %v", err)
	}
	// Reads are served by followers, unless the client says that it wants the leader.
	follower := streams.NewStreamsClient(dial(t, first))
	req := &streams.ReadReq{Options: &streams.ReadReq_Options{
		StreamOption: &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{AllOption: &streams.ReadReq_Options_AllOptions_Start{Start: &shared.Empty{}}}},
		CountOption:  &streams.ReadReq_Options_Count{Count: 1},
	}}
	call, err := follower.Read(ctx, req)
	if err == nil {
		_, err = call.Recv()
	}
	if err != nil {
		t.Errorf("a read at a follower got %v", err)
	}
	call, err = follower.Read(metadata.AppendToOutgoingContext(ctx, "requires-leader", "true"), req)
	if err == nil {
		_, err = call.Recv()
	}
	if status.Code(err) != codes.NotFound || call.Trailer().Get("leader-endpoint-port")[0] != second[len("127.0.0.1:"):] {
		t.Errorf("a read that wants the leader got %v with %v", err, call.Trailer())
	}
	// Without a leader nobody can write.
	leader.Store(-1)
	if _, err := client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{}, event()); kindOf(err) != "unavailable" {
		t.Errorf("an append without a leader got %v", err)
	}
}
