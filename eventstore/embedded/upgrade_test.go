package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// format1 puts a log into memory that the last build of format 1 wrote. Its scavenger has left no traces.
func format1(t testing.TB) *vfs.MemFS {
	t.Helper()
	mem := vfs.NewCrashableMem()
	err := filepath.WalkDir("testdata/format1", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := strings.Replace(path, "testdata/format1", "log", 1)
		if d.IsDir() {
			return mem.MkdirAll(to, 0o755)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := mem.Create(to, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return errors.Join(err, f.Sync(), f.Close())
	})
	for _, dir := range []string{"log/db", "log", "/"} {
		d, derr := mem.OpenDir(dir)
		if derr == nil {
			derr = errors.Join(d.Sync(), d.Close())
		}
		err = errors.Join(err, derr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return mem
}

// told is everything that readers are told of a log.
func told(t testing.TB, log *embedded.Log) string {
	t.Helper()
	var out strings.Builder
	for e, err := range log.ReadAll(t.Context(), eventstore.ReadAll{Filter: eventstore.Filter{System: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%d %s %d %s %s %s %s %q %q\n", e.Position, e.Stream, e.Revision, e.ID, e.Type, e.ContentType, e.Created, e.Metadata, e.Data)
	}
	head, err := log.Head(t.Context())
	fmt.Fprintf(&out, "head %d %v\n", head, err)
	for _, stream := range []string{"pods-default/web", "leases-kube-system/node", "deleted", "short", "$$leases-kube-system/node"} {
		fmt.Fprintf(&out, "%s %s\n", stream, revisions(t, log, stream, eventstore.ReadStream{}))
	}
	return out.String()
}

func TestUpgradeFromFormat1(t *testing.T) {
	mem := format1(t)
	opts := embedded.Options{FS: mem, Logger: quiet(), ScavengeEvery: -1, Now: newClock().Now}
	readOnly := opts
	readOnly.ReadOnly = true
	old, err := embedded.Open("log", readOnly)
	if err != nil {
		t.Fatal(err)
	}
	want := told(t, old)
	if strings.Count(want, "\n") < 20 {
		t.Errorf("a log of format 1 reads as\n%s", want)
	}
	if _, err := old.DigestAt(t.Context(), 1); !errors.Is(err, eventstore.ErrVersion) || !strings.Contains(err.Error(), "open it for writing") {
		t.Errorf("the digest of a log of format 1: %v", err)
	}
	for _, err := range old.Entries(t.Context(), 0, 9) {
		if !errors.Is(err, eventstore.ErrVersion) {
			t.Errorf("the entries of a log of format 1: %v", err)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}

	log := open(t, "log", opts)
	if diff := cmp.Diff(want, told(t, log)); diff != "" {
		t.Errorf("the upgrade changed what is read (-before +after):\n%s", diff)
	}
	checkChain(t, log)
	if _, err := log.Verify(t.Context(), nil); err != nil {
		t.Errorf("verifying an upgraded log: %v", err)
	}
	if a := mustAppend(t, log, "leases-kube-system/node", 1); a.Position != 42 || a.Revision != 15 {
		t.Errorf("the next event stands at %+v", a)
	}
	if removed, err := log.Scavenge(t.Context()); err != nil || removed != 3 {
		t.Errorf("scavenging after the upgrade: %d, %v", removed, err)
	}
	checkChain(t, log)
}

func checkChain(t testing.TB, log eventstore.Chained) {
	t.Helper()
	var digest eventstore.Digest
	for _, e := range entriesOf(t, log) {
		if digest = eventstore.Link(digest, &e); digest != e.Digest {
			t.Fatalf("position %d breaks the chain", e.Position)
		}
	}
	if got, err := log.DigestAt(t.Context(), 1<<40); err != nil || got != digest {
		t.Fatalf("the head's digest: got %s, %v, want %s", got, err, digest)
	}
}

// onMessage is a log handler that only listens.
type onMessage struct{ f func(message string) }

func (h onMessage) Enabled(context.Context, slog.Level) bool { return true }
func (h onMessage) Handle(_ context.Context, r slog.Record) error {
	h.f(r.Message)
	return nil
}
func (h onMessage) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h onMessage) WithGroup(string) slog.Handler      { return h }

// Whatever fails while a log is upgraded, and whatever of it power loss takes away: the next start goes on, to the same chain.
func TestPowerLossDuringUpgrade(t *testing.T) {
	opts := embedded.Options{Logger: quiet(), ScavengeEvery: -1, Now: newClock().Now}
	opts.FS = format1(t)
	whole := open(t, "log", opts)
	want := entriesOf(t, whole)
	for name, kinds := range map[string]func(errorfs.Op) bool{"sync": isSync, "change": isChange} {
		for _, kept := range []int{0, 50, 100} { // of what was not synced, in percent
			for n := int64(1); ; n++ {
				mem := format1(t)
				var upgrading atomic.Bool
				fault := &failing{kinds: func(op errorfs.Op) bool {
					return upgrading.Load() && kinds(op)
				}}
				fault.left.Store(n)
				opts.Logger = slog.New(onMessage{func(message string) { upgrading.CompareAndSwap(false, message == "upgrading the log") }})
				opts.FS = errorfs.Wrap(mem, fault)
				log, err := embedded.Open("log", opts)
				after := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: kept, RNG: rand.New(rand.NewPCG(1, uint64(n)))})
				if err == nil {
					if err := log.Close(); err != nil && !fault.failed.Load() {
						t.Fatal(err)
					}
				}
				opts.FS = after
				if log, err = embedded.Open("log", opts); err != nil {
					t.Fatalf("%s %d failed, %d%% kept: opening again: %v", name, n, kept, err)
				}
				if diff := cmp.Diff(want, entriesOf(t, log)); diff != "" {
					t.Fatalf("%s %d failed, %d%% kept: the chain differs (-want +got):\n%s", name, n, kept, diff)
				}
				if err := log.Close(); err != nil {
					t.Fatal(err)
				}
				if !fault.failed.Load() {
					if n < 2 {
						t.Fatalf("only %d calls were made: the test injects nothing", n)
					}
					break
				}
			}
		}
	}
}
