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
	pb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/protocol/persistent"
	"github.com/shiplog/shiplog/eventstore/protocol/users"
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
	// Members tells who is in the cluster; nil: this node alone. Advertise is then this node's address in it. A node that is not
	// the leader sends writers to the one that is.
	Members func() []Member
	// Users tells who may speak to the server, and makes access lists count. nil: everything is open to everybody.
	Users func() *users.Set
	// NoAnonymous refuses everybody who does not say who they are, whatever access lists say. It needs Users.
	NoAnonymous bool
	// Metrics gets counters of calls; nil: none are kept.
	Metrics prometheus.Registerer
	// Writable says to which streams clients may write at all, whoever they are. nil: to all.
	Writable func(stream string) bool
	// MaxAppendBytes bounds the events of one append, which are held in memory until the client has sent all of them.
	// Default 32 MiB.
	MaxAppendBytes int
}

// Server serves one log. It does not close it.
type Server struct {
	opts   Options
	log    *slog.Logger
	grpc   *grpc.Server
	groups *persistent.Service
	over   *shutdown
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
	first := &before{
		gate:   &gate{log: log, users: opts.Users, known: opts.NoAnonymous, writable: opts.Writable},
		leader: &leadership{advertise: opts.Advertise, members: opts.Members}, logger: opts.Logger, calls: newCalls(opts.Metrics),
	}
	config = append(config, grpc.ChainUnaryInterceptor(first.unary), grpc.ChainStreamInterceptor(first.stream))
	if opts.TLS != nil {
		config = append(config, grpc.Creds(credentials.NewTLS(opts.TLS)))
	}
	s := &Server{opts: opts, log: opts.Logger, grpc: grpc.NewServer(config...), groups: persistent.New(log, opts.Logger), over: newShutdown()}
	pb.RegisterPersistentSubscriptionsServer(s.grpc, &persistentServer{groups: s.groups, gate: first.gate, over: s.over})
	streams.RegisterStreamsServer(s.grpc, &streamsServer{log: log, opts: opts, gate: first.gate, over: s.over})
	serverfeatures.RegisterServerFeaturesServer(s.grpc, &featuresServer{server: s.grpc})
	healthpb.RegisterHealthServer(s.grpc, health.NewServer())
	gossip.RegisterGossipServer(s.grpc, &gossipServer{id: uuid.New(), advertise: opts.Advertise, members: opts.Members, now: time.Now})
	return s
}

// Serve accepts connections until Stop or Drain is called; then it returns nil. Persistent subscriptions run while it does.
func (s *Server) Serve(l net.Listener) error {
	access := "open to everybody"
	if s.opts.Users != nil {
		access = fmt.Sprintf("by users, of whom there are %d", s.opts.Users().Len())
	}
	s.log.Info("serving the event store's protocol", "address", l.Addr().String(), "tls", s.opts.TLS != nil, "access", access)
	loading, cancel := context.WithCancel(context.Background())
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		// It is tried again with the first call that needs it.
		if err := s.groups.Load(loading); err != nil && loading.Err() == nil {
			s.log.Error("persistent subscriptions do not run", "error", err)
		}
	}()
	err := s.grpc.Serve(l)
	cancel()
	<-loaded
	if errors.Is(err, grpc.ErrServerStopped) {
		err = nil
	}
	closing, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	if err := s.groups.Close(closing); err != nil {
		s.log.Warn("some events will be handed out again by persistent subscriptions", "error", err)
	}
	if err != nil {
		return fmt.Errorf("serving the event store's protocol on %s: %w", l.Addr(), err)
	}
	return nil
}

// closeWithin bounds the writing of last checkpoints.
const closeWithin = 5 * time.Second

// Stop ends all calls at once, and Serve.
func (s *Server) Stop() { s.grpc.Stop() }

// Drain takes no more calls, ends subscriptions, and waits for other calls until the context ends; then it ends them too. Serve
// returns.
func (s *Server) Drain(ctx context.Context) {
	s.over.begin()
	stop := context.AfterFunc(ctx, s.grpc.Stop)
	defer stop()
	s.grpc.GracefulStop()
}
