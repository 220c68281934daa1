package esdb_test

import (
	"bufio"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/contract"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/esdb"
	"github.com/shiplog/shiplog/eventstore/protocol"
	"github.com/shiplog/shiplog/internal/servetest"
)

// ordeal has writers, readers and subscribers work through client while strike, called after each answered append, makes things
// go wrong; then it holds what all of them were told against the log, which is read through truth.
type ordeal struct {
	seed   uint64
	client eventstore.Log
	// strike returns true when it is enough.
	strike func(appends int) bool
	truth  func() eventstore.Log
}

func (o ordeal) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	const end = "TheEnd"
	var deliveries []*contract.Delivery
	following, followCtx := errgroup.WithContext(ctx)
	for _, filter := range []eventstore.Filter{{}, {System: true}, {TypePrefixes: []string{"Even", end}}, {StreamPrefixes: []string{"together-1", "together-2", "end"}}} {
		d := &contract.Delivery{Subscribed: eventstore.Subscribe{Filter: filter}}
		deliveries = append(deliveries, d)
		sub, err := o.client.Subscribe(ctx, d.Subscribed)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		following.Go(func() error {
			for {
				b, err := sub.Next(followCtx)
				if err != nil {
					return fmt.Errorf("subscription with %+v after %d: %w", filter, d.Checkpoint(), err)
				}
				d.Batches = append(d.Batches, b)
				for _, e := range b.Events {
					if e.Type == end {
						return nil
					}
				}
			}
		})
	}
	var history contract.History
	if err := history.Together(ctx, o.client, o.seed, 4, 2, o.strike); err != nil {
		t.Fatalf("seed %d: %v", o.seed, err)
	}
	truth := o.truth()
	if _, err := truth.Append(ctx, "end", eventstore.NoStream, eventstore.Proposed{Type: end}); err != nil {
		t.Fatal(err)
	}
	if err := following.Wait(); err != nil {
		t.Fatalf("seed %d: %v", o.seed, err)
	}
	var all []eventstore.Recorded
	for e, err := range truth.ReadAll(ctx, eventstore.ReadAll{Filter: eventstore.Filter{System: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	if err := history.Check(all); err != nil {
		t.Errorf("seed %d: %v", o.seed, err)
	}
	if err := contract.CheckDurable(all, history.Acknowledged(), history.Seen()); err != nil {
		t.Errorf("seed %d: %v", o.seed, err)
	}
	for _, d := range deliveries {
		if err := d.Check(all); err != nil {
			t.Errorf("seed %d: subscription with %+v: %v", o.seed, d.Subscribed.Filter, err)
		}
	}
}

// connectFor connects with a patience of the caller's, and sees in the end that nothing is left of the connection.
func connectFor(t *testing.T, timeout time.Duration, connection string) *esdb.Log {
	t.Helper()
	t.Cleanup(func() { wantNothingLeft(t) })
	log, err := esdb.Open(t.Context(), connection, esdb.Options{Logger: slog.New(slog.DiscardHandler), Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return log
}

// wantNothingLeft waits until no goroutine of the adapter or of the client is left. Connections do not count: a client that looks for
// another node while calls still wait in it forgets the connection that it had, and gRPC closes that once it has been idle for half an hour.
func wantNothingLeft(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var left string
	buf := make([]byte, 4<<20)
	waitForOr(ctx, func() bool {
		left = ""
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "shiplog/eventstore/esdb.") || strings.Contains(g, "EventStore-Client-Go") || strings.Contains(g, "grpc.(*ccBalancerWrapper)") ||
				strings.Contains(g, "grpc.(*addrConn)") {
				left += g + "\n\n"
			}
		}
		return left == ""
	}, func() { t.Errorf("goroutines are left:\n%s", left) })
}

func waitForOr(ctx context.Context, condition func() bool, otherwise func()) {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			otherwise()
			return
		case <-ticker.C:
		}
	}
}

// Connections are cut, stall, go silent in both directions or one, and slow down, at random.
func TestBadNetwork(t *testing.T) {
	for _, seed := range []uint64{1, 2} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			log := servetest.OpenLog(t)
			address, stop := serve(t, log, "127.0.0.1:0", nil)
			t.Cleanup(stop)
			p := newProxy(t, address)
			random := rand.New(rand.NewPCG(seed, 0))
			strikes := 0
			ordeal{
				seed: seed, client: connectFor(t, 2*time.Second, "esdb://"+p.address()+"?tls=false"),
				strike: func(n int) bool {
					if n%25 == 0 {
						strikes++
						t.Logf("after %d appends: %s", n, p.strike(random))
					}
					return strikes > 10
				},
				truth: func() eventstore.Log { return log },
			}.run(t)
		})
	}
}

const (
	serverDir     = "SHIPLOG_TEST_SERVER_DIR"
	serverAddress = "SHIPLOG_TEST_SERVER_ADDRESS"
)

// TestMain lets this binary be the server that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(serverDir); dir != "" {
		if err := serveUntilKilled(dir, os.Getenv(serverAddress)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serveUntilKilled(dir, address string) error {
	log, err := embedded.Open(dir, embedded.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return protocol.NewServer(log, protocol.Options{Logger: slog.New(slog.DiscardHandler)}).Serve(listener)
}

// startServer starts a server in a process of its own.
func startServer(t *testing.T, dir, address string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverDir+"="+dir, serverAddress+"="+address)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server ended before it served: %v", err)
	}
	return cmd, strings.TrimSpace(line)
}

// The server's process is killed while everybody works, and comes back on the same directory.
func TestKilledServer(t *testing.T) {
	dir := t.TempDir()
	server, address := startServer(t, dir, "127.0.0.1:0")
	kill := func() {
		_ = server.Process.Kill()
		_ = server.Wait() // it was killed
	}
	t.Cleanup(func() { kill() })
	client := connectFor(t, time.Minute, "esdb://"+address+"?tls=false")
	kills := 0
	ordeal{
		seed: 1, client: client,
		strike: func(n int) bool {
			if n%60 == 0 {
				kills++
				kill()
				server, _ = startServer(t, dir, address)
			}
			return kills == 4
		},
		truth: func() eventstore.Log { return client },
	}.run(t)
}

// cluster is nodes that serve one log, of which one leads.
type cluster struct {
	t       *testing.T
	log     eventstore.Log
	mu      sync.Mutex
	leader  int
	address []string
	stop    []func()
	subs    []*atomic.Int64 // subscriptions that were opened on each node
	reads   []*atomic.Int64 // of everything, from each node
}

// counted is a node's log, which counts its subscriptions and reads.
type counted struct {
	eventstore.Log
	subs, reads *atomic.Int64
}

func (c counted) ReadAll(ctx context.Context, opts eventstore.ReadAll) iter.Seq2[eventstore.Recorded, error] {
	c.reads.Add(1)
	return c.Log.ReadAll(ctx, opts)
}

func (c counted) Subscribe(ctx context.Context, opts eventstore.Subscribe) (eventstore.Subscription, error) {
	c.subs.Add(1)
	return c.Log.Subscribe(ctx, opts)
}

func newCluster(t *testing.T, nodes int) *cluster {
	c := &cluster{t: t, log: servetest.OpenLog(t), stop: make([]func(), nodes)}
	for i := range nodes {
		c.address = append(c.address, "127.0.0.1:0")
		c.subs, c.reads = append(c.subs, &atomic.Int64{}), append(c.reads, &atomic.Int64{})
		c.start(i)
	}
	t.Cleanup(func() {
		for i := range nodes {
			c.halt(i)
		}
	})
	return c
}

func (c *cluster) start(node int) {
	c.t.Helper()
	listener := servetest.Listen(c.t, c.address[node])
	c.mu.Lock()
	c.address[node] = listener.Addr().String()
	c.mu.Unlock()
	_, stop := servetest.Serve(c.t, listener, counted{c.log, c.subs[node], c.reads[node]}, protocol.Options{
		Advertise: listener.Addr().String(), Members: c.members,
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop[node] = stop
}

func (c *cluster) halt(node int) {
	c.mu.Lock()
	stop := c.stop[node]
	c.stop[node] = nil
	c.mu.Unlock()
	if stop != nil {
		stop()
	}
}

func (c *cluster) lead(node int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = node
}

func (c *cluster) members() []protocol.Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []protocol.Member
	for i, a := range c.address {
		m := protocol.Member{Address: a, State: gossip.MemberInfo_Follower, Alive: c.stop[i] != nil}
		if i == c.leader {
			m.State = gossip.MemberInfo_Leader
		}
		out = append(out, m)
	}
	return out
}

func (c *cluster) connection(settings string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return "esdb://" + strings.Join(c.address, ",") + "?tls=false" + settings
}

// The leader changes, with the old one still there to say so, or gone; subscribers are on the leader or on a follower.
func TestLeaderChange(t *testing.T) {
	for _, settings := range []string{"", "&nodePreference=follower"} {
		t.Run(settings, func(t *testing.T) {
			c := newCluster(t, 3)
			random := rand.New(rand.NewPCG(1, 0))
			changes := 0
			ordeal{
				seed: 1, client: connectFor(t, 30*time.Second, c.connection(settings)),
				strike: func(n int) bool {
					if n%25 != 0 {
						return false
					}
					changes++
					old := changes % 3
					next := (old + 1) % 3
					if random.IntN(2) == 0 { // the node that leads dies, and comes back as a follower when the next one dies
						c.halt(old)
					}
					c.lead(next)
					for i := range 3 {
						if i != old && c.stop[i] == nil {
							c.start(i)
						}
					}
					return changes > 8
				},
				truth: func() eventstore.Log { return c.log },
			}.run(t)
			if onFollowers := c.subs[0].Load() + c.subs[1].Load() + c.subs[2].Load(); onFollowers == 0 {
				t.Error("nobody subscribed")
			}
		})
	}
}

// Subscriptions go where the connection string wants them, everything else to the leader.
func TestNodePreference(t *testing.T) {
	for settings, wantOnLeader := range map[string]bool{"": true, "&nodePreference=leader": true, "&nodePreference=follower": false} {
		t.Run(settings, func(t *testing.T) {
			c := newCluster(t, 2)
			log := connectFor(t, 30*time.Second, c.connection(settings))
			if _, err := log.Append(t.Context(), "s", eventstore.NoStream, eventstore.Proposed{Type: "A"}); err != nil {
				t.Fatal(err)
			}
			sub, err := log.Subscribe(t.Context(), eventstore.Subscribe{})
			if err != nil {
				t.Fatal(err)
			}
			defer sub.Close()
			if _, err := sub.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			if onLeader := c.subs[0].Load() == 1; onLeader != wantOnLeader {
				t.Errorf("subscriptions: %d on the leader, %d on the follower", c.subs[0].Load(), c.subs[1].Load())
			}
		})
	}
}

// With esdb+discover the name stands for the nodes, any of which tells who leads.
func TestDiscoveryByName(t *testing.T) {
	c := newCluster(t, 2)
	c.lead(1)
	log := connectFor(t, 30*time.Second, "esdb+discover://"+c.address[0]+"?tls=false")
	before := c.reads[1].Load()
	if _, err := log.Head(t.Context()); err != nil || c.reads[1].Load() == before {
		t.Errorf("the leader was asked %d times, %v", c.reads[1].Load()-before, err)
	}
}

// Nobody can be found for a while: calls say so in time, and subscribers go on afterwards as if nothing had been.
func TestFailedDiscovery(t *testing.T) {
	c := newCluster(t, 2)
	log := connectFor(t, time.Second, c.connection(""))
	sub, err := log.Subscribe(t.Context(), eventstore.Subscribe{})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	var d contract.Delivery
	for round := range 3 {
		a, err := log.Append(t.Context(), "s", eventstore.Any, eventstore.Proposed{Type: "A"})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for d.Checkpoint() < a.Position {
			b, err := sub.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			d.Batches = append(d.Batches, b)
		}
		c.halt(0)
		c.halt(1)
		var together errgroup.Group
		for range 8 { // none of them waits for ever for the discovery of another
			together.Go(func() error {
				if _, err := log.Head(t.Context()); !isUnavailable(err) {
					return fmt.Errorf("without servers: got %w", err)
				}
				return nil
			})
		}
		if err := together.Wait(); err != nil {
			t.Fatal(err)
		}
		c.start(0)
		c.start(1)
	}
	var all []eventstore.Recorded
	for e, err := range c.log.ReadAll(t.Context(), eventstore.ReadAll{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	if err := d.Check(all); err != nil || len(d.Events()) != 3 {
		t.Errorf("%d events: %v", len(d.Events()), err)
	}
}

// An append that expects nothing is made once, even when the server that made it is gone with its memory, and others have
// appended to the stream meanwhile.
func TestAppendWhoseAnswerIsLost(t *testing.T) {
	dir := t.TempDir()
	server, address := startServer(t, dir, "127.0.0.1:0")
	kill := func() {
		_ = server.Process.Kill()
		_ = server.Wait() // it was killed
	}
	t.Cleanup(func() { kill() })
	for i, expected := range []eventstore.Expected{eventstore.Any, eventstore.StreamExists, eventstore.Any} {
		p := newProxy(t, address)
		other, client := connect(t, "esdb://"+address+"?tls=false"), connect(t, "esdb://"+p.address()+"?tls=false")
		stream := fmt.Sprintf("s-%d", i)
		others := func(n int) {
			for range n {
				if _, err := other.Append(t.Context(), stream, eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "Others"}); err != nil {
					t.Fatal(err)
				}
			}
		}
		others(2)
		p.suffer(oneWay)
		batch := []eventstore.Proposed{{ID: uuid.New(), Type: "First"}, {ID: uuid.New(), Type: "Second"}}
		type answer struct {
			eventstore.Appended
			err error
		}
		answered := make(chan answer, 1)
		go func() {
			a, err := client.Append(t.Context(), stream, expected, batch...)
			answered <- answer{a, err}
		}()
		waitForOr(t.Context(), func() bool {
			last, err := other.Head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for e, err := range other.ReadAll(t.Context(), eventstore.ReadAll{From: last}) {
				return err == nil && e.Type == "Second"
			}
			return false
		}, func() { t.Error("the append did not arrive") })
		others(3)
		p.set(true)
		kill()
		server, _ = startServer(t, dir, address)
		others(3)
		p.set(false)
		got := <-answered
		if got.err != nil || got.Revision != 3 {
			t.Errorf("expecting %d: got %+v, want revision 3", expected, got)
		}
		n := 0
		for _, err := range other.ReadStream(t.Context(), stream, eventstore.ReadStream{}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != 10 {
			t.Errorf("expecting %d: the stream has %d events, want 10", expected, n)
		}
	}
}
