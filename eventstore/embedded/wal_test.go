package embedded_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// crashed returns the directory of a log as a crash would leave it, with n events in its write-ahead log.
func crashed(t *testing.T, n int) (dir, wal string, content []byte) {
	t.Helper()
	live := t.TempDir()
	log := open(t, live, embedded.Options{Logger: quiet()})
	for i := range n {
		_, err := log.Append(t.Context(), "s", eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "Counted", Data: []byte(fmt.Sprint(i))})
		if err != nil {
			t.Fatal(err)
		}
	}
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(live)); err != nil {
		t.Fatal(err)
	}
	wals, err := filepath.Glob(filepath.Join(dir, "db", "*.log"))
	if err != nil || len(wals) != 1 {
		t.Fatalf("the write-ahead logs are %v, %v", wals, err)
	}
	content, err = os.ReadFile(wals[0])
	if err != nil {
		t.Fatal(err)
	}
	return dir, wals[0], content
}

// prefix opens a log and returns how many of the events are there, from the first one on, or the error of opening it.
func prefix(t *testing.T, dir string) (int, error) {
	t.Helper()
	log, err := embedded.Open(dir, embedded.Options{Logger: quiet(), ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer log.Close()
	n := 0
	for e, err := range log.ReadAll(t.Context(), eventstore.ReadAll{}) {
		if err != nil {
			return n, err
		}
		if string(e.Data) != fmt.Sprint(n) {
			t.Fatalf("event %d holds %q", n, e.Data)
		}
		n++
	}
	return n, nil
}

// A write-ahead log that ends anywhere before what was acknowledged is found out. Who knows that and goes on gets what is
// before its end.
func TestTornTail(t *testing.T) {
	const events = 30
	dir, wal, content := crashed(t, events)
	content = []byte(strings.TrimRight(string(content), "\x00")) // the file is laid out ahead of what is written
	mark := filepath.Join(dir, "HEAD")
	marked, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	last := events
	for end := len(content); end >= 0; end -= 1 + len(content)/300 {
		if err := errors.Join(os.WriteFile(wal, content[:end], 0o600), os.WriteFile(mark, marked, 0o600)); err != nil {
			t.Fatal(err)
		}
		sound, refused := prefix(t, dir)
		if err := os.Remove(mark); err != nil {
			t.Fatal(err)
		}
		n, err := prefix(t, dir)
		if n < events && !errors.Is(refused, eventstore.ErrCorrupt) || n == events && (refused != nil || sound != events) {
			t.Fatalf("cut at byte %d of %d, with %d events left: got %v", end, len(content), n, refused)
		}
		if err != nil {
			t.Fatalf("cut at byte %d of %d: %v", end, len(content), err)
		}
		if n > last || end == len(content) && n != events {
			t.Fatalf("cut at byte %d of %d: %d events, with more of it there were %d", end, len(content), n, last)
		}
		last = n
	}
	if last != 0 {
		t.Errorf("without a write-ahead log there are %d events", last)
	}
}

// A bit that flips in the write-ahead log is found, unless nothing is lost by it.
func TestFlippedBitsInTheWriteAheadLog(t *testing.T) {
	const events = 30
	dir, wal, content := crashed(t, events)
	size := len(strings.TrimRight(string(content), "\x00"))
	found := 0
	for at := 0; at < size; at += 1 + size/300 {
		damaged := append([]byte(nil), content...)
		damaged[at] ^= 0x04
		if err := os.WriteFile(wal, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		switch n, err := prefix(t, dir); {
		case errors.Is(err, eventstore.ErrCorrupt):
			found++
		case err != nil:
			t.Fatalf("byte %d: got %v, want ErrCorrupt", at, err)
		case n < events:
			t.Errorf("byte %d of %d: opened with %d of %d events", at, size, n, events)
		}
	}
	if found < 200 {
		t.Errorf("only %d flipped bits were found", found)
	}
}
