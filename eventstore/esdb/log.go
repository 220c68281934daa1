// Package esdb keeps a log in an EventStoreDB or KurrentDB cluster, through the official client. Any server that speaks the
// protocol will do, package protocol's too.
//
// What the client leaves to its user is done here: every call has a deadline, a client whose connection is lost for good is
// replaced, appends are repeated with the same ids until they are answered, reads and subscriptions go on where they broke.
package esdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// Options of a log. The zero value is ready to use.
type Options struct {
	// Timeout bounds a call, with all its repetitions, unless the context ends it earlier. Default 10 s.
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
	config     esdb.Configuration
	opts       Options
	log        *slog.Logger
	boundaries *boundaries

	mu      sync.Mutex
	current *connection
	closed  bool
	closing chan struct{}
}

var _ eventstore.Log = (*Log)(nil)

// Open connects to a cluster, given as in "esdb://admin:changeit@host1:2113,host2:2113?tlsCAFile=/ca.pem" or, for a server
// without TLS, "esdb://host:2113?tls=false". It returns ErrUnavailable when the cluster does not answer in time.
func Open(ctx context.Context, connectionString string, opts Options) (*Log, error) {
	config, err := esdb.ParseConnectionString(connectionString)
	if err != nil {
		return nil, fmt.Errorf("reading the event store's address: %w", err)
	}
	if config.DisableTLS && config.Username != "" {
		return nil, errors.New("reading the event store's address: it holds a password, which would not be sent without TLS: remove tls=false or the password")
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
	l := &Log{opts: opts, boundaries: known, log: opts.Logger.With("eventstore", config.Address), closing: make(chan struct{})}
	config.Logger = func(level esdb.LogLevel, format string, args ...any) {
		// The client reports as errors what is then handled here.
		l.log.Debug("event store client: "+fmt.Sprintf(format, args...), "level", level)
	}
	// One round a client: how long to go on trying is decided here, where the caller's context is known.
	config.MaxDiscoverAttempts = 1
	config.GossipTimeout = max(1, int(opts.Timeout/time.Second)/2)
	l.config = *config
	if _, err := l.Head(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to the event store: %w", err), l.Close())
	}
	return l, nil
}

// Close ends all calls and subscriptions.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.closing)
	l.dropLocked(l.current)
	return nil
}

// connection is a client and how many calls run on it. The client should not be closed while one does: it would send on a
// closed channel.
type connection struct {
	*esdb.Client
	calls   int
	dropped chan struct{} // closed when the client is given up
	once    sync.Once
}

func (c *connection) isDropped() bool {
	select {
	case <-c.dropped:
		return true
	default:
		return false
	}
}

// close ends the client.
func (c *connection) close(log *slog.Logger) {
	c.once.Do(func() {
		if err := c.Client.Close(); err != nil {
			log.Debug("closing a client", "error", err)
		}
	})
}

// freeStuckAfter is when a client that was given up is closed although calls still run on it: they are stuck, and closing it
// makes them panic, which is caught.
const freeStuckAfter = 30 * time.Second

// borrow returns the client in use. It has to be given back.
func (l *Log) borrow() (*connection, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, eventstore.ErrClosed
	}
	if l.current == nil {
		config := l.config
		client, err := esdb.NewClient(&config)
		if err != nil {
			return nil, err
		}
		l.current = &connection{Client: client, dropped: make(chan struct{})}
	}
	l.current.calls++
	return l.current, nil
}

func (l *Log) giveBack(c *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.calls--; c.calls == 0 && c.isDropped() {
		c.close(l.log)
	}
}

// replace gives up a client that is of no more use. Calls that still run on it fail, and are tried again on the next.
func (l *Log) replace(broken *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(broken)
}

func (l *Log) dropLocked(c *connection) {
	if c == nil || c.isDropped() {
		return
	}
	close(c.dropped)
	if l.current == c {
		l.current = nil
	}
	if c.calls == 0 {
		c.close(l.log)
		return
	}
	time.AfterFunc(freeStuckAfter, func() { c.close(l.log) })
}

// firstBackoff is the pause before the first repetition; each further one is twice as long.
const firstBackoff = 20 * time.Millisecond

// within bounds a call.
func (l *Log) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, l.opts.Timeout)
}

// do makes a call until it is answered or the context ends.
func do[T any](ctx context.Context, l *Log, call func(context.Context, *esdb.Client) (T, error)) (T, error) {
	outer := ctx
	ctx, cancel := l.within(ctx)
	defer cancel()
	if err := ctx.Err(); err != nil {
		var none T
		return none, err
	}
	backoff := firstBackoff
	for {
		result, err := once(ctx, l, call)
		if err == nil || !errors.Is(err, eventstore.ErrUnavailable) {
			if err != nil && outer.Err() == nil && ctx.Err() != nil {
				err = fmt.Errorf("%w: no answer within %s", eventstore.ErrUnavailable, l.opts.Timeout)
			}
			return result, err
		}
		select {
		case <-time.After(backoff):
			backoff = min(2*backoff, time.Second)
		case <-l.closing:
			return result, eventstore.ErrClosed
		case <-ctx.Done():
			if outer.Err() != nil {
				return result, outer.Err()
			}
			return result, err
		}
	}
}

// once makes a call once. The client can block for ever or panic where its connection is gone, so the call runs in a
// goroutine of its own, which is left behind when the context ends first.
func once[T any](ctx context.Context, l *Log, call func(context.Context, *esdb.Client) (T, error)) (T, error) {
	type answer struct {
		result T
		err    error
	}
	var none T
	client, err := l.borrow()
	if err != nil {
		return none, err
	}
	answers := make(chan answer, 1)
	go func() {
		var a answer
		defer func() {
			if r := recover(); r != nil {
				a.err = fmt.Errorf("%w: the client panicked: %v", errBroken, r)
			}
			l.giveBack(client)
			answers <- a
		}()
		a.result, a.err = call(ctx, client.Client)
	}()
	select {
	case a := <-answers:
		err := l.kindOf(ctx, a.err)
		if errors.Is(err, errBroken) {
			l.replace(client)
		}
		return a.result, err
	case <-client.dropped: // somebody else found it broken, and it may never answer
		return none, errBroken
	case <-l.closing:
		return none, eventstore.ErrClosed
	case <-ctx.Done():
		l.replaceIfStuck(client)
		return none, ctx.Err()
	}
}

// replaceIfStuck gives up a client that does not even answer about its own connection.
func (l *Log) replaceIfStuck(client *connection) {
	answered := make(chan struct{})
	l.mu.Lock()
	client.calls++
	l.mu.Unlock()
	go func() {
		defer func() {
			_ = recover() // there is nothing to tell: nobody uses the client any more
			l.giveBack(client)
			close(answered)
		}()
		_, _ = client.GetServerVersion()
	}()
	select {
	case <-answered:
	case <-time.After(100 * time.Millisecond):
		l.replace(client)
	}
}

// errBroken marks an ErrUnavailable after which the client is of no more use.
var errBroken = fmt.Errorf("%w: the connection is lost", eventstore.ErrUnavailable)

// kindOf gives an error of the client the kind that the contract knows.
func (l *Log) kindOf(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	select {
	case <-l.closing:
		return eventstore.ErrClosed
	default:
	}
	var known *esdb.Error
	if !errors.As(err, &known) {
		return err
	}
	switch known.Code() {
	case esdb.ErrorCodeStreamDeleted:
		return eventstore.ErrStreamDeleted
	case esdb.ErrorCodeResourceNotFound:
		return eventstore.ErrStreamNotFound
	case esdb.ErrorCodeConnectionClosed:
		return fmt.Errorf("%w: %w", errBroken, err)
	case esdb.ErrorCodeNotLeader, esdb.ErrorUnavailable, esdb.ErrorAborted, esdb.ErrorCodeDeadlineExceeded:
		return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	switch text := err.Error(); {
	case strings.Contains(text, "Maximum Append Size"), strings.Contains(text, "ResourceExhausted"):
		return fmt.Errorf("%w: %w", eventstore.ErrTooLarge, err)
	case strings.Contains(text, "DataLoss"):
		return fmt.Errorf("%w: %w", eventstore.ErrCorrupt, err)
	case strings.Contains(text, "code = Canceled"), strings.Contains(text, "EOF"), strings.Contains(text, "transport"):
		// Closing a broken client cancels the calls of others; they are free to try again.
		return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	return err
}

// withID gives an event its id here, so that repeating the append repeats the id.
func withID(e eventstore.Proposed) eventstore.Proposed {
	if e.ID == uuid.Nil {
		e.ID = uuid.New()
	}
	return e
}
