package protocol

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Member is a node of a cluster, as gossip tells clients of it.
type Member struct {
	Address string // host:port
	State   gossip.MemberInfo_VNodeState
	Alive   bool
}

// featuresServer tells clients which methods there are.
type featuresServer struct {
	serverfeatures.UnimplementedServerFeaturesServer
	server *grpc.Server
}

func (f *featuresServer) GetSupportedMethods(context.Context, *shared.Empty) (*serverfeatures.SupportedMethods, error) {
	return &serverfeatures.SupportedMethods{EventStoreServerVersion: Version, Methods: supportedMethods(f.server.GetServiceInfo())}, nil
}

// gossipServer tells clients who is in the cluster: this one node, unless there are others.
type gossipServer struct {
	gossip.UnimplementedGossipServer
	id        uuid.UUID
	advertise string
	members   func() []Member
	now       func() time.Time
}

func (g *gossipServer) Read(ctx context.Context, _ *shared.Empty) (*gossip.ClusterInfo, error) {
	var members []Member
	if g.members != nil {
		members = g.members()
	} else {
		address := g.advertise
		if p, ok := peer.FromContext(ctx); address == "" && ok && p.LocalAddr != nil {
			address = p.LocalAddr.String()
		}
		members = []Member{{Address: address, State: gossip.MemberInfo_Leader, Alive: true}}
	}
	info := &gossip.ClusterInfo{}
	for _, m := range members {
		endpoint, err := parseEndpoint(m.Address)
		if err != nil {
			return nil, fmt.Errorf("telling clients where to connect: %w", err)
		}
		id := g.id
		if g.members != nil {
			id = uuid.NewSHA1(g.id, []byte(m.Address))
		}
		info.Members = append(info.Members, &gossip.MemberInfo{
			InstanceId: toUUID(id, false), TimeStamp: ticksOf(g.now()), State: m.State, IsAlive: m.Alive, HttpEndPoint: endpoint,
		})
	}
	return info, nil
}

// leadership sends those to the leader whose calls a follower does not take.
type leadership struct {
	advertise string
	members   func() []Member
}

func (l *leadership) check(ctx context.Context, fullMethod string) error {
	if l.members == nil || !needsLeader(ctx, fullMethod) {
		return nil
	}
	for _, m := range l.members() {
		if m.State != gossip.MemberInfo_Leader || !m.Alive {
			continue
		}
		if m.Address == l.advertise {
			return nil
		}
		host, port, err := net.SplitHostPort(m.Address)
		if err != nil {
			return fmt.Errorf("telling a client where the leader is: %w", err)
		}
		return notLeader(host, port)
	}
	return status.Error(codes.Unavailable, "Server Is Not Ready: there is no leader")
}

// needsLeader says whether a call changes something, or asks for the leader in its headers.
func needsLeader(ctx context.Context, fullMethod string) bool {
	switch service, method := service(fullMethod); {
	case service == "PersistentSubscriptions":
		return true
	case service == "Streams" && method != "Read":
		return true
	default:
		md, _ := metadata.FromIncomingContext(ctx)
		asked := md.Get("requires-leader")
		return service == "Streams" && len(asked) > 0 && asked[0] == "true"
	}
}
