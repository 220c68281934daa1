package esdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"google.golang.org/grpc/metadata"

	"github.com/shiplog/shiplog/eventstore"
)

// pool holds the connection in use, and those that were given up until the last of their users has left.
type pool struct {
	config  esdb.Configuration
	timeout time.Duration
	log     *slog.Logger

	mu      sync.Mutex
	current *connection
	alive   map[*connection]struct{} // all that are not closed yet
	closed  bool
}

func newPool(config esdb.Configuration, timeout time.Duration, log *slog.Logger) *pool {
	return &pool{config: config, timeout: timeout, log: log, alive: make(map[*connection]struct{})}
}

// outgoing is the context of a call on a connection of this pool.
func (p *pool) outgoing(ctx context.Context) context.Context {
	if p.config.NodePreference != esdb.NodePreferenceLeader {
		return ctx
	}
	// A node that leads no more has to say so instead of answering from what it has. The client means to say this itself, and does
	// not: it puts it where the metadata of calls that come in would be.
	return metadata.AppendToOutgoingContext(ctx, "requires-leader", "true")
}

// connection is a client and how many calls and subscriptions run on it. The client is closed when the last has left, since
// it would send on a closed channel otherwise.
type connection struct {
	*esdb.Client
	pool *pool
	// connected is closed when the first discovery is over; failed is its error. Calls wait for it here, where they can leave,
	// and not in the client, where those that wait for a discovery that fails are never answered.
	connected chan struct{}
	failed    error

	// life ends when those who use it have to leave.
	life context.Context
	end  context.CancelFunc

	users   int
	retired bool // nobody new gets it
	closed  bool
	probing bool
}

// lingerFor is when a client that was cut is closed although calls still run on it. They are stuck inside it; closing it makes
// them panic, which is caught.
const lingerFor = 10 * time.Second

// borrow returns the connection in use, connected. It has to be given back.
func (p *pool) borrow(ctx context.Context) (*connection, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, eventstore.ErrClosed
	}
	if p.current == nil {
		c, err := p.connectLocked()
		if err != nil {
			p.mu.Unlock()
			return nil, err
		}
		p.current = c
	}
	c := p.current
	c.users++
	p.mu.Unlock()
	var err error
	select {
	case <-c.connected:
		err = c.failed
	case <-c.life.Done():
		err = errBroken
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		c.giveBack()
		return nil, err
	}
	return c, nil
}

// connectLocked begins to connect.
func (p *pool) connectLocked() (*connection, error) {
	config := p.config
	client, err := esdb.NewClient(&config)
	if err != nil {
		return nil, err
	}
	c := &connection{Client: client, pool: p, connected: make(chan struct{}), users: 1}
	c.life, c.end = context.WithCancel(context.Background())
	p.alive[c] = struct{}{}
	go func() {
		defer c.giveBack()
		if _, err := client.GetServerVersion(); err != nil {
			c.failed = fmt.Errorf("%w: %w", discoveryError(err), err)
			c.retire()
		}
		close(c.connected)
	}()
	return c, nil
}

// discoveryError is the kind of a failed discovery: being refused is not cured by trying again.
func discoveryError(err error) error {
	if kind := kindOfCode(err); errors.Is(kind, eventstore.ErrDenied) {
		return kind
	}
	return errBroken
}

// hold makes one more user of those who have it already.
func (c *connection) hold() {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	c.users++
}

func (c *connection) giveBack() {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	c.users--
	c.closeIfIdleLocked()
}

func (c *connection) closeIfIdleLocked() {
	if c.users == 0 && c.retired {
		c.closeLocked()
	}
}

func (c *connection) closeLocked() {
	if c.closed {
		return
	}
	c.closed = true
	delete(c.pool.alive, c)
	c.end()
	if err := c.Client.Close(); err != nil {
		c.pool.log.Debug("closing a client", "error", err)
	}
}

// retire gives up a client after a call that found no server: nobody new uses it, and it ends with its last user. The next
// caller gets a new one, which looks for the leader again. The client would look too, but it keeps the connection that it had.
func (c *connection) retire() {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	c.retireLocked()
	c.closeIfIdleLocked()
}

func (c *connection) retireLocked() {
	c.retired = true
	if c.pool.current == c {
		c.pool.current = nil
	}
}

// cutOff gives up a client over which nothing comes any more. Those who use it leave, and try again on the next.
func (c *connection) cutOff() {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	c.cutOffLocked()
}

func (c *connection) cutOffLocked() {
	c.retireLocked()
	if c.life.Err() == nil {
		c.end()
		time.AfterFunc(lingerFor, func() {
			c.pool.mu.Lock()
			defer c.pool.mu.Unlock()
			c.closeLocked()
		})
	}
	c.closeIfIdleLocked()
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for c := range p.alive {
		c.cutOffLocked()
	}
}

// probe asks a server that has not answered a call for something small, and cuts the connection if it does not answer that
// either. The call itself goes on meanwhile: a server may take its time over a disk.
func (c *connection) probe() {
	c.pool.mu.Lock()
	if c.retired {
		// There is another already, and asking would make this client look for a server of its own.
		c.cutOffLocked()
	}
	if c.probing || c.retired {
		c.pool.mu.Unlock()
		return
	}
	c.probing = true
	c.users++
	c.pool.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), probeWithin(c.pool.timeout))
	answered := make(chan bool, 1)
	go func() {
		defer c.giveBack()
		defer func() {
			if r := recover(); r != nil {
				answered <- false
			}
		}()
		answered <- c.answers(ctx)
	}()
	go func() {
		defer cancel()
		alive := false
		select {
		case alive = <-answered:
		case <-ctx.Done(): // the client may not come back from waiting for its own connection
		}
		c.pool.mu.Lock()
		c.probing = false
		c.pool.mu.Unlock()
		if !alive {
			c.pool.log.Warn("the event store does not answer: connecting again")
			c.cutOff()
		}
	}()
}

// answers says whether the server says anything.
func (c *connection) answers(ctx context.Context) bool {
	stream, err := c.ReadAll(ctx, esdb.ReadAllOptions{Direction: esdb.Backwards, From: esdb.End{}}, 1)
	if err == nil {
		defer stream.Close()
		_, err = stream.Recv()
	}
	if err == nil || errors.Is(err, io.EOF) {
		return true
	}
	kind := kindOfCode(err)
	return ctx.Err() == nil && !errors.Is(kind, errBroken)
}

// How long a call waits before the server is probed, and how long the probe may take, so that both and a second try fit into
// the time that a call has.
func probeAfter(timeout time.Duration) time.Duration  { return timeout / 4 }
func probeWithin(timeout time.Duration) time.Duration { return timeout / 4 }
