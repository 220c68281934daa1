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

// victim appends from several goroutines and reports each acknowledgement, until it is killed.
func victim(dir string, out io.Writer) error {
	log, err := embedded.Open(dir, embedded.Options{MemTableBytes: 256 << 10, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	report := json.NewEncoder(out)
	failed := make(chan error)
	for w := range 8 {
		go func() {
			random := rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(w)))
			stream := fmt.Sprintf("s-%d-%d", os.Getpid(), w)
			for expected := eventstore.NoStream; ; {
				events := proposals(random, 1+random.IntN(3))
				result, err := log.Append(context.Background(), stream, expected, events...)
				if err != nil {
					failed <- err
					return
				}
				expected = eventstore.Exact(result.Revision)
				a := contract.Acknowledged{Stream: stream, Result: result}
				for _, e := range events {
					a.Events = append(a.Events, e.ID)
				}
				mu.Lock()
				err = report.Encode(a)
				mu.Unlock()
				if err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

// A process that is killed while it writes loses nothing that it acknowledged.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	h := &history{}
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
		lines := bufio.NewScanner(stdout)
		for n := 0; lines.Scan(); n++ { // and what it still wrote to the pipe before it died
			var a contract.Acknowledged
			if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
				break // the line at which it died
			}
			h.acknowledged = append(h.acknowledged, a)
			if n == killAfter {
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
		h.seen = h.check(t, log) // and what a reader has seen stays, too
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.acknowledged) < rounds*20 {
		t.Fatalf("only %d appends were acknowledged", len(h.acknowledged))
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
