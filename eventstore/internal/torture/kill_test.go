package torture_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/contract"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/esdb"
	"github.com/shiplog/shiplog/eventstore/internal/torture"
	"github.com/shiplog/shiplog/eventstore/protocol"
)

const (
	serverDir     = "SHIPLOG_TEST_SERVER_DIR"
	serverAddress = "SHIPLOG_TEST_SERVER_ADDRESS"
)

// TestMain lets this binary be the server that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(serverDir); dir != "" {
		if err := serve(dir, os.Getenv(serverAddress)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serve(dir, address string) error {
	log, err := embedded.Open(dir, embedded.Options{MemTableBytes: 128 << 10, Logger: quiet()})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return protocol.NewServer(log, protocol.Options{Logger: quiet()}).Serve(listener)
}

// server is a process that serves a log until it is killed.
type server struct {
	dir, address string
	cmd          *exec.Cmd
}

func (s *server) start(t *testing.T) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command(exe)
	s.cmd.Env = append(os.Environ(), serverDir+"="+s.dir, serverAddress+"="+s.address)
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the server says %q, %v", line, err)
	}
}

func (s *server) kill(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait() // it was killed
}

// A server is killed again and again while clients in another process write and read through the official client, and a subscriber
// follows: what they are told is linearizable, what they were told and saw stays, and the subscriber gets every event once.
func TestLinearizableAcrossKills(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{dir: t.TempDir(), address: free.Addr().String()}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	defer func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}()
	logs := make([]eventstore.Log, clients)
	for i := range logs {
		log, err := esdb.Open(t.Context(), "esdb://"+s.address+"?tls=false", esdb.Options{Logger: quiet(), Timeout: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		logs[i] = log
	}
	following, unfollow := context.WithCancel(t.Context())
	defer unfollow()
	delivery := &contract.Delivery{}
	sub, err := connect(t, s.address).Subscribe(following, delivery.Subscribed)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()

	r := torture.NewRecorder()
	var mu sync.Mutex
	var acknowledged []contract.Acknowledged
	stop := make(chan struct{})
	load := torture.Clients{Seed: 1, Clients: clients, Operations: 1 << 20, Streams: []string{"a", "b", "c", "d"}, Exact: true}
	done := make(chan struct{})
	go func() {
		defer close(done)
		load.Run(r, stop, func(client int, op torture.Op) torture.Result {
			result := torture.Do(t.Context(), logs[client], op)
			if op.Kind == torture.Append && result.Outcome == torture.Done {
				mu.Lock()
				defer mu.Unlock()
				acknowledged = append(acknowledged, contract.Acknowledged{
					Stream: op.Stream, Events: op.IDs, Result: eventstore.Appended{Position: result.Position, Revision: uint64(result.Revision)},
				})
			}
			return result
		})
	}()
	rounds := 5
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		waitFor(t, r, 100)
		s.kill(t)
		r.Settle()
		s.start(t)
	}
	waitFor(t, r, 50)
	close(stop)
	<-done
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	var all []eventstore.Recorded
	log := connect(t, s.address)
	for e, err := range log.ReadAll(t.Context(), eventstore.ReadAll{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	for delivery.Checkpoint() < all[len(all)-1].Position {
		b, err := sub.Next(following)
		if err != nil {
			t.Fatal(err)
		}
		delivery.Batches = append(delivery.Batches, b)
	}
	if err := errors.Join(contract.CheckDurable(all, acknowledged, delivery.Events()), delivery.Check(all)); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d operations, %d appends acknowledged, %d events, %d kills", r.Len(), len(acknowledged), len(all), rounds)
}

// waitFor waits until so many more operations are in the history.
func waitFor(t *testing.T, r *torture.Recorder, more int) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(5 * time.Minute)
	for want := r.Len() + more; r.Len() < want; {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("only %d operations are in the history", r.Len())
		}
	}
}
