// Package esdb keeps a log in an EventStoreDB or KurrentDB cluster, through the official client. Any server that speaks the
// protocol will do, package protocol's too.
//
// What the client leaves to its user is done here: every call has a deadline, a client whose connection is lost for good is
// replaced, appends are repeated with the same ids until they are answered, reads and subscriptions go on where they broke.
// README.md of the room draws it.
package esdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"github.com/shiplog/shiplog/eventstore"
)

// Options of a log. The zero value is ready to use.
type Options struct {
	// Timeout is how long a call goes on, with all its repetitions, without the server getting anywhere with it; the context may
	// end it earlier. A read that keeps bringing events may take any time. Default 10 s.
	Timeout time.Duration
	// Logger gets what an operator should know. Default slog.Default().
	Logger *slog.Logger
	// MaxEventBytes bounds an event's data, metadata and type together; larger ones get ErrTooLarge without being sent. The
	// server has a bound of its own (EventStoreDB: 1 MiB an append by default). Default 4 MiB.
	MaxEventBytes int
}

// Log is a log in a cluster. It is safe for use by any number of goroutines. Its positions are the server's commit
// positions. EventStoreDB gives position 0 to an event only if it is the very first of the cluster, which is one of the
// server's own; so no event of ours stands at 0, where the contract has none.
type Log struct {
	opts       Options
	log        *slog.Logger
	boundaries *boundaries

	// leader carries appends and reads, which promise to be current. subscribers carries subscriptions, which promise order
	// and completeness only, and may be on another node (nodePreference); it is the same pool when the leader is preferred.
	leader, subscribers *pool

	closing   chan struct{}
	closeOnce sync.Once
}

var _ eventstore.Log = (*Log)(nil)

// Open connects to a cluster, given as in "esdb://admin:changeit@host1:2113,host2:2113?tlsCAFile=/ca.pem" or, for a server
// without TLS, "esdb://host:2113?tls=false". It returns ErrUnavailable when the cluster does not answer in time.
func Open(ctx context.Context, connectionString string, opts Options) (*Log, error) {
	a, err := parseAddress(connectionString)
	if err != nil {
		return nil, fmt.Errorf("reading the event store's address: %w", err)
	}
	if opts.Timeout == 0 {
		opts.Timeout = 10 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.MaxEventBytes == 0 {
		opts.MaxEventBytes = 4 << 20
	}
	known, err := newBoundaries()
	if err != nil {
		return nil, err
	}
	l := &Log{opts: opts, boundaries: known, log: opts.Logger.With("eventstore", a.hosts), closing: make(chan struct{})}
	config := a.config
	config.Logger = func(level esdb.LogLevel, format string, args ...any) {
		// The client reports as errors what is then handled here.
		l.log.Debug("event store client: "+fmt.Sprintf(format, args...), "level", level)
	}
	config.NodePreference = esdb.NodePreferenceLeader
	l.leader = newPool(config, opts.Timeout, l.log)
	l.subscribers = l.leader
	if a.config.NodePreference != esdb.NodePreferenceLeader {
		config.NodePreference = a.config.NodePreference
		l.subscribers = newPool(config, opts.Timeout, l.log)
	}
	if _, err := l.Head(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to the event store: %w", err), l.Close())
	}
	return l, nil
}

// Close ends all calls and subscriptions.
func (l *Log) Close() error {
	l.closeOnce.Do(func() {
		close(l.closing)
		l.leader.close()
		l.subscribers.close()
	})
	return nil
}
