package cluster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/seal"
)

func openTestLog(t *testing.T, dir string) *embedded.Log {
	t.Helper()
	log, err := embedded.Open(dir, embedded.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// signedDataDir is the data directory of a cluster that has written some events, signed them, and stopped.
func signedDataDir(t *testing.T, change func(*eventstore.Entry)) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, pkiDir), 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := seal.EnsureKey(filepath.Join(dir, pkiDir, logKey))
	if err != nil {
		t.Fatal(err)
	}
	first := openTestLog(t, t.TempDir())
	defer first.Close()
	for range 3 {
		if _, err := first.Append(t.Context(), "pods-default/web", eventstore.Any, eventstore.Proposed{Type: "PodChanged", Data: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- seal.NewNotary(first, key, seal.Options{}).Run(ctx) }()
	sub, err := first.Subscribe(t.Context(), eventstore.Subscribe{Stream: seal.Stream})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	for signed := false; !signed; {
		b, err := sub.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		signed = len(b.Events) > 0
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	log := openTestLog(t, filepath.Join(dir, logDir))
	for e, err := range first.Entries(t.Context(), 0, math.MaxUint64) {
		if err != nil {
			t.Fatal(err)
		}
		e.Digest, e.Content = eventstore.Digest{}, eventstore.Digest{} // the chain is made anew over what is changed
		change(&e)
		if err := log.Import(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The log of a stopped cluster and that of a running one get the same report.
func TestVerifyLog(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*eventstore.Entry)
		question LogQuestion
		kinds    string
	}{
		"sound":    {func(*eventstore.Entry) {}, LogQuestion{}, ""},
		"expected": {func(*eventstore.Entry) {}, LogQuestion{Expected: []string{"1:" + strings.Repeat("0", 64)}}, "contradicted"},
		"an event changed": {func(e *eventstore.Entry) {
			if e.Position == 2 {
				e.Data = []byte("forged")
			}
		}, LogQuestion{}, "contradicted"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := signedDataDir(t, c.change)
			steps := func(Step) {}
			stopped, err := VerifyLogAt(t.Context(), LogPlace{DataDir: dir}, c.question, steps)
			if err != nil {
				t.Fatal(err)
			}
			key, err := knownKey(dir)
			if err != nil {
				t.Fatal(err)
			}
			log := openTestLog(t, filepath.Join(dir, logDir))
			defer log.Close()
			cp := &controlPlane{log: log, logKey: key}
			server := httptest.NewServer(cp.tendHandler())
			defer server.Close()
			running, err := VerifyLog(t.Context(), server.Client(), server.URL, c.question, steps)
			if err != nil {
				t.Fatal(err)
			}
			for place, r := range map[string]*LogReport{"stopped": stopped, "running": running} {
				var kinds []string
				for _, f := range r.Faults {
					kinds = append(kinds, string(f.Kind))
				}
				if got := strings.Join(kinds, " "); got != c.kinds || r.Sound != (c.kinds == "") || r.Signed.Checkpoints != 1 || r.KeyID == "" {
					t.Errorf("%s: got %+v, want faults %q", place, r, c.kinds)
				}
			}
			if stopped.Expect != running.Expect {
				t.Errorf("stopped: %s, running: %s", stopped.Expect, running.Expect)
			}
		})
	}
	if _, err := VerifyLogAt(t.Context(), LogPlace{Dir: t.TempDir()}, LogQuestion{Expected: []string{"nonsense"}}, func(Step) {}); err == nil {
		t.Error("an empty directory, and nonsense expected, are taken")
	}
}
