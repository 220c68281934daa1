// Package protocol serves a log over EventStoreDB's gRPC protocol, so that EventStoreDB's clients and tools can read, write
// and follow it. Knowledge of the protocol is taken from the client's protobuf files and from how its generated code and
// the official servers behave; README.md of the room lists what differs.
package protocol

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/shiplog/shiplog/eventstore"
)

// Version is the version of the server whose protocol is spoken. Clients want three plain integers.
const Version = "23.10.0"

// Options of a server. The zero value serves without TLS.
type Options struct {
	// TLS is the server's certificate and what it wants of clients; nil serves without TLS.
	TLS *tls.Config
	// Advertise is the host and port that clients in cluster mode are told to connect to. Default: the address at which
	// the client reached the server.
	Advertise string
	// Logger gets what an operator should know. Default slog.Default().
	Logger *slog.Logger
	// MaxAppendBytes bounds the events of one append, which are held in memory until the client has sent all of them.
	// Default 32 MiB.
	MaxAppendBytes int
}

// Server serves one log. It does not close it.
type Server struct {
	opts Options
	log  *slog.Logger
	grpc *grpc.Server
}

// NewServer makes a server of a log. Call Serve to begin.
func NewServer(log eventstore.Log, opts Options) *Server {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.MaxAppendBytes == 0 {
		opts.MaxAppendBytes = 32 << 20
	}
	config := []grpc.ServerOption{
		// Clients ping every 10 s, with or without a call in flight; grpc-go's default would hang up on them.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.MaxRecvMsgSize(opts.MaxAppendBytes + 1<<20),
		grpc.MaxConcurrentStreams(16 << 10), // each subscription is one
	}
	if opts.TLS != nil {
		config = append(config, grpc.Creds(credentials.NewTLS(opts.TLS)))
	}
	s := &Server{opts: opts, log: opts.Logger, grpc: grpc.NewServer(config...)}
	streams.RegisterStreamsServer(s.grpc, &streamsServer{log: log, opts: opts, logger: opts.Logger})
	serverfeatures.RegisterServerFeaturesServer(s.grpc, &featuresServer{server: s.grpc})
	gossip.RegisterGossipServer(s.grpc, &gossipServer{id: uuid.New(), advertise: opts.Advertise})
	return s
}

// Serve accepts connections until Stop is called; then it returns nil.
func (s *Server) Serve(l net.Listener) error {
	s.log.Info("serving the event store's protocol", "address", l.Addr().String(), "tls", s.opts.TLS != nil)
	if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serving the event store's protocol on %s: %w", l.Addr(), err)
	}
	return nil
}

// Stop ends all calls, and Serve.
func (s *Server) Stop() { s.grpc.Stop() }

// featuresServer tells clients which methods there are.
type featuresServer struct {
	serverfeatures.UnimplementedServerFeaturesServer
	server *grpc.Server
}

func (f *featuresServer) GetSupportedMethods(context.Context, *shared.Empty) (*serverfeatures.SupportedMethods, error) {
	return &serverfeatures.SupportedMethods{EventStoreServerVersion: Version, Methods: supportedMethods(f.server.GetServiceInfo())}, nil
}

// gossipServer tells clients that this one node is the whole cluster.
type gossipServer struct {
	gossip.UnimplementedGossipServer
	id        uuid.UUID
	advertise string
}

func (g *gossipServer) Read(ctx context.Context, _ *shared.Empty) (*gossip.ClusterInfo, error) {
	address := g.advertise
	if p, ok := peer.FromContext(ctx); address == "" && ok && p.LocalAddr != nil {
		address = p.LocalAddr.String()
	}
	endpoint, err := parseEndpoint(address)
	if err != nil {
		return nil, fmt.Errorf("telling clients where to connect: %w", err)
	}
	return &gossip.ClusterInfo{Members: []*gossip.MemberInfo{{
		InstanceId: toUUID(g.id, false), TimeStamp: ticksOf(time.Now()), State: gossip.MemberInfo_Leader, IsAlive: true,
		HttpEndPoint: endpoint,
	}}}, nil
}
