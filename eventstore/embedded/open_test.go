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

// wantMessage wants an error of a kind whose text holds what an operator needs.
func wantMessage(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got error %v, want one that is %q", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

// written returns a directory with a closed log of n events.
func written(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	log, err := embedded.Open(dir, embedded.Options{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		_, err := log.Append(t.Context(), fmt.Sprintf("s-%d", i%7), eventstore.Any,
			eventstore.Proposed{ID: uuid.New(), Type: "Counted", Data: []byte(strings.Repeat(fmt.Sprintf("%08d", i), 20))})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOneProcessOneLog(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, embedded.Options{Logger: quiet()})
	_, err := embedded.Open(dir, embedded.Options{Logger: quiet()})
	wantMessage(t, err, eventstore.ErrLocked, dir, fmt.Sprintf("process %d", os.Getpid()))
}

func TestANewerFormatIsRefused(t *testing.T) {
	dir := written(t, 1)
	if err := os.WriteFile(filepath.Join(dir, "FORMAT"), []byte("shiplog-log 99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := embedded.Open(dir, embedded.Options{Logger: quiet()})
	wantMessage(t, err, eventstore.ErrVersion, "format 99", "use the build that wrote it")
}

func TestADirectoryThatLostFilesIsRefused(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string){
		"format does not parse": func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "FORMAT"), []byte("garbage"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"format is missing": func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "FORMAT")); err != nil {
				t.Fatal(err)
			}
		},
		"events are missing": func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "db")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := written(t, 5)
			damage(t, dir)
			_, err := embedded.Open(dir, embedded.Options{Logger: quiet()})
			wantMessage(t, err, eventstore.ErrCorrupt, "restore the directory from a backup")
		})
	}
}

// A bit that flips anywhere in a table is found when what it belongs to is read.
func TestFlippedBitsAreFound(t *testing.T) {
	dir := written(t, 200)
	// Opening for writing again moves the events from the write-ahead log to a table.
	log, err := embedded.Open(dir, embedded.Options{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "db", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("there are no tables: %v", err)
	}
	found := 0
	for _, table := range tables {
		sound, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(sound); at += 1 + len(sound)/60 {
			damaged := append([]byte(nil), sound...)
			damaged[at] ^= 0x10
			if err := os.WriteFile(table, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := readEverything(t, dir); err != nil {
				if !errors.Is(err, eventstore.ErrCorrupt) {
					t.Fatalf("byte %d of %s: got %v, want ErrCorrupt", at, table, err)
				}
				found++
			}
		}
		if err := os.WriteFile(table, sound, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found < 20 {
		t.Errorf("only %d flipped bits were found", found)
	}
	if err := readEverything(t, dir); err != nil {
		t.Fatalf("with all bits right: %v", err)
	}
}

// readEverything reads all events, and returns an error unless they are what was written.
func readEverything(t *testing.T, dir string) error {
	t.Helper()
	log, err := embedded.Open(dir, embedded.Options{Logger: quiet(), ReadOnly: true})
	if err != nil {
		return err
	}
	n := 0
	for e, err := range log.ReadAll(t.Context(), eventstore.ReadAll{}) {
		if err != nil {
			return errors.Join(err, log.Close())
		}
		if want := strings.Repeat(fmt.Sprintf("%08d", n), 20); string(e.Data) != want {
			t.Fatalf("event %d holds %q: damage went unnoticed", n, e.Data)
		}
		n++
	}
	if n != 200 {
		t.Fatalf("read %d events, want 200: damage went unnoticed", n)
	}
	return log.Close()
}

func TestReadOnlyChangesNothing(t *testing.T) {
	dir := written(t, 50)
	before := snapshot(t, dir)
	log := open(t, dir, embedded.Options{Logger: quiet(), ReadOnly: true})
	if got := len(readAll(t, log)); got != 50 {
		t.Errorf("read %d events, want 50", got)
	}
	_, err := log.Append(t.Context(), "s", eventstore.Any, eventstore.Proposed{Type: "T"})
	wantMessage(t, err, eventstore.ErrReadOnly)
	wantMessage(t, log.Delete(t.Context(), "s-1", eventstore.Any), eventstore.ErrReadOnly)
	_, err = log.Scavenge(t.Context())
	wantMessage(t, err, eventstore.ErrReadOnly)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	after := snapshot(t, dir)
	for name, content := range before {
		if after[name] != content {
			t.Errorf("%s was changed", name)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			t.Errorf("%s was created", name)
		}
	}
}

func TestReadOnlyNeedsALog(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if _, err := embedded.Open(dir, embedded.Options{Logger: quiet(), ReadOnly: true}); err == nil {
			t.Errorf("%s was opened", dir)
		}
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			t.Errorf("something was created in %s", dir)
		}
	}
}

func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		out[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
