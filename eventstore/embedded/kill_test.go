package embedded_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/contract"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

const victimDir = "SHIPLOG_TEST_VICTIM_DIR"

// TestMain lets this binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		if err := victim(dir, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// place is where somebody saw an event.
type place struct {
	Position eventstore.Position
	ID       uuid.UUID
}

// report is a line that the victim writes.
type report struct {
	Asked *contract.Acknowledged `json:",omitempty"` // ahead of an append; it has no result
	Acked *contract.Acknowledged `json:",omitempty"`
	Seen  []place                `json:",omitempty"`
}

// victim appends from several goroutines, reads and subscribes, and reports all that it is told, until it is killed.
func victim(dir string, out io.Writer) error {
	ctx := context.Background()
	log, err := embedded.Open(dir, embedded.Options{MemTableBytes: 256 << 10, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	encoder := json.NewEncoder(out)
	tell := func(r report) error {
		mu.Lock()
		defer mu.Unlock()
		return encoder.Encode(r)
	}
	var all errgroup.Group
	for w := range 8 {
		all.Go(func() error {
			random := rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(w)))
			stream := fmt.Sprintf("s-%d-%d", os.Getpid(), w)
			for expected := eventstore.NoStream; ; {
				events := proposals(random, 1+random.IntN(3))
				a := contract.Acknowledged{Stream: stream}
				for _, e := range events {
					a.Events = append(a.Events, e.ID)
				}
				if err := tell(report{Asked: &a}); err != nil {
					return err
				}
				result, err := log.Append(ctx, stream, expected, events...)
				if err != nil {
					return err
				}
				expected, a.Result = eventstore.Exact(result.Revision), result
				if err := tell(report{Acked: &a}); err != nil {
					return err
				}
			}
		})
	}
	for range 2 {
		head, err := log.Head(ctx)
		if err != nil {
			return err
		}
		sub, err := log.Subscribe(ctx, eventstore.Subscribe{After: head})
		if err != nil {
			return err
		}
		all.Go(func() error {
			for {
				b, err := sub.Next(ctx)
				if err != nil {
					return err
				}
				if err := tell(report{Seen: placesOf(b.Events)}); err != nil {
					return err
				}
			}
		})
	}
	all.Go(func() error {
		for {
			var last []eventstore.Recorded
			for e, err := range log.ReadAll(ctx, eventstore.ReadAll{Direction: eventstore.Backwards, FromEnd: true, Limit: 10}) {
				if err != nil {
					return err
				}
				last = append(last, e)
			}
			if err := tell(report{Seen: placesOf(last)}); err != nil {
				return err
			}
		}
	})
	return all.Wait()
}

func placesOf(events []eventstore.Recorded) (out []place) {
	for i := range events {
		out = append(out, place{events[i].Position, events[i].ID})
	}
	return out
}

// A process that is killed while it writes loses nothing that it acknowledged or showed, and keeps no half of an append.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	h := &history{}
	asked := make(map[uuid.UUID]contract.Acknowledged) // by the first event
	seen := make(map[place]bool)
	for round := range rounds {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), victimDir+"="+dir)
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		killAfter := 20 + rand.IntN(400)
		acks := 0
		for lines := bufio.NewReader(stdout); ; { // and what it still wrote to the pipe before it died
			line, err := lines.ReadBytes('\n')
			if err != nil {
				break // also of the line at which it died
			}
			var r report
			if err := json.Unmarshal(line, &r); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			for _, p := range r.Seen {
				seen[p] = true
			}
			if r.Asked != nil {
				asked[r.Asked.Events[0]] = *r.Asked
			}
			if r.Acked == nil {
				continue
			}
			h.acknowledged = append(h.acknowledged, *r.Acked)
			if acks++; acks == killAfter {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
			t.Fatalf("round %d: the victim ended by itself: %v", round, err)
		}
		log, err := embedded.Open(dir, embedded.Options{Logger: quiet()})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		h.seen = h.check(t, log) // what is there now stays, too
		checkAsked(t, h.seen, asked)
		held := make(map[place]bool, len(h.seen))
		for _, p := range placesOf(h.seen) {
			held[p] = true
		}
		for p := range seen {
			if !held[p] {
				t.Fatalf("round %d: %v: event %s was seen at position %d and is not there", round, contract.ErrLost, p.ID, p.Position)
			}
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.acknowledged) < rounds*20 || len(seen) < rounds*20 {
		t.Fatalf("only %d appends were acknowledged, %d events seen", len(h.acknowledged), len(seen))
	}
	t.Logf("%d appends acknowledged of %d asked for, %d events seen", len(h.acknowledged), len(asked), len(seen))
}

// checkAsked makes sure that of each append all events are there, one after the other, or none.
func checkAsked(t *testing.T, log []eventstore.Recorded, asked map[uuid.UUID]contract.Acknowledged) {
	t.Helper()
	owner := make(map[uuid.UUID]contract.Acknowledged)
	for _, a := range asked {
		for _, id := range a.Events {
			owner[id] = a
		}
	}
	for i := 0; i < len(log); {
		a, ok := owner[log[i].ID]
		if !ok {
			t.Fatalf("%v: event %s at position %d", contract.ErrInvented, log[i].ID, log[i].Position)
		}
		for n, id := range a.Events {
			if i+n >= len(log) || log[i+n].ID != id || log[i+n].Position != log[i].Position+eventstore.Position(n) {
				t.Fatalf("of the append of %v to %s only a part stands at position %d", a.Events, a.Stream, log[i].Position)
			}
		}
		i += len(a.Events)
	}
}

// A process that is held up keeps its lock; its pid is in the message.
func TestLockNamesItsHolder(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), victimDir+"="+dir)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	go func() {
		// It may not block on its pipe while it holds the lock.
		_, _ = io.Copy(io.Discard, stdout)
	}()
	waitFor(t, func() bool { _, err := os.Stat(dir + "/FORMAT"); return err == nil })
	for _, readOnly := range []bool{false, true} {
		_, err = embedded.Open(dir, embedded.Options{ReadOnly: readOnly, Logger: quiet()})
		wantMessage(t, err, eventstore.ErrLocked, fmt.Sprintf("process %d", cmd.Process.Pid))
	}
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatal("waited in vain")
		case <-ticker.C:
		}
	}
}
