package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/test/harness"
)

// TestStartRefusals: a cluster that cannot start says why in one sentence and exits non-zero.
func TestStartRefusals(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })

	running := harness.Start(t, harness.Options{Args: []string{"--no-node"}})

	newer := t.TempDir()
	if err := os.MkdirAll(filepath.Join(newer, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(newer, "version"), []byte("999\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"a port in use": {
			args: []string{"--data-dir", t.TempDir(), "--listen", taken.Addr().String()}, want: []string{"address already in use", taken.Addr().String()},
		},
		"a data directory in use": {
			args: []string{"--data-dir", running.Dir, "--listen", "127.0.0.1:0"}, want: []string{"in use by", fmt.Sprint(running.Pid())},
		},
		"a data directory of a newer version": {
			args: []string{"--data-dir", newer, "--listen", "127.0.0.1:0"}, want: []string{"newer", "999"},
		},
		"a log with an event that only a newer version understands": {
			args: []string{"--data-dir", mandatoryEvent(t), "--listen", "127.0.0.1:0"},
			want: []string{"PodTeleported", "position 2", "pods-default/web-1", "mandatory", "newer"},
		},
		"a range that is none": {
			args: []string{"--data-dir", t.TempDir(), "--service-cidr", "10.96.0.0"}, want: []string{"--service-cidr", "10.96.0.0"},
		},
		"an event store that is none": {
			args: []string{"--data-dir", t.TempDir(), "--eventstore", "http://127.0.0.1:1"}, want: []string{"--eventstore", "esdb://"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(harness.Binary(t), append([]string{"up", "--no-node", "--graphql", "127.0.0.1:0"}, tc.args...)...)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("it started and ended without an error:\n%s", out)
			}
			if code := cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			last := lines[len(lines)-1]
			for _, want := range tc.want {
				if !strings.Contains(last, want) {
					t.Errorf("the last line does not mention %q:\n%s", want, out)
				}
			}
		})
	}
	if out := running.Kubectl("get", "namespaces", "-o", "name"); !strings.Contains(out, "namespace/default") {
		t.Errorf("the cluster that was in the way suffered: %s", out)
	}
	if code := running.Stop(); code != 0 {
		t.Errorf("SIGTERM ended the cluster with exit code %d", code)
	}
}

// mandatoryEvent makes a data directory whose log holds an event of a type that is marked mandatory and that nobody knows yet.
func mandatoryEvent(t *testing.T) string {
	dir := t.TempDir()
	log, err := embedded.Open(filepath.Join(dir, "log"), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ref := domain.Ref{Resource: "pods", Namespace: "default", Name: "web-1", UID: "0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f"}
	for i, e := range []domain.Event{
		{Type: "PodCreated", Op: domain.Created, Change: []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-1","namespace":"default"}}`)},
		{Type: "PodTeleported", Op: domain.Changed, Change: []byte(`{}`), Mandatory: true},
	} {
		e.ID, e.Ref, e.Time = uuid.NewString(), ref, time.Date(2026, 1, 2, 3, 4, i, 0, time.UTC)
		proposed, err := eventstore.Propose(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.Append(t.Context(), ref.Stream(), eventstore.Any, proposed); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}
