package datadir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOneHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	if pid, held := Holder(path); held {
		t.Fatalf("a directory that is not there is held by %d", pid)
	}
	first, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if pid, held := Holder(path); !held || pid != os.Getpid() {
		t.Errorf("held %v by %d, want by %d", held, pid, os.Getpid())
	}
	var inUse *InUseError
	if _, err := Open(path); !errors.As(err, &inUse) || inUse.Pid != os.Getpid() {
		t.Errorf("opening a held directory: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if pid, held := Holder(path); held {
		t.Errorf("after Close it is held by %d", pid)
	}
	second, err := Open(path)
	if err != nil {
		t.Fatalf("opening again: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestVersions(t *testing.T) {
	for name, tc := range map[string]struct{ version, want string }{
		"newer":     {"999\n", "newer"},
		"no number": {"what\n", "is"},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			if err := os.WriteFile(filepath.Join(path, "version"), []byte(tc.version), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(path); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}
