package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/contract"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// small makes everything that writes happen often.
func small(fs vfs.FS) embedded.Options {
	return embedded.Options{FS: fs, Logger: quiet(), MemTableBytes: 64 << 10, TailEvents: 16}
}

// history is what writers were told and readers saw.
type history struct {
	mu           sync.Mutex
	acknowledged []contract.Acknowledged
	seen         []eventstore.Recorded
}

func (h *history) acknowledge(stream string, events []eventstore.Proposed, result eventstore.Appended) {
	ids := make([]uuid.UUID, len(events))
	for i, e := range events {
		ids[i] = e.ID
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acknowledged = append(h.acknowledged, contract.Acknowledged{Stream: stream, Events: ids, Result: result})
}

func (h *history) saw(events []eventstore.Recorded) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = append(h.seen, events...)
}

func (h *history) check(t testing.TB, log *embedded.Log) []eventstore.Recorded {
	t.Helper()
	all := readAll(t, log)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := contract.CheckDurable(all, h.acknowledged, h.seen); err != nil {
		t.Fatal(err)
	}
	return all
}

func readAll(t testing.TB, log eventstore.Log) []eventstore.Recorded {
	t.Helper()
	var all []eventstore.Recorded
	for e, err := range log.ReadAll(t.Context(), eventstore.ReadAll{Filter: eventstore.Filter{System: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func proposals(random *rand.Rand, n int) []eventstore.Proposed {
	out := make([]eventstore.Proposed, n)
	for i := range out {
		out[i] = eventstore.Proposed{ID: uuid.New(), Type: "Changed", Data: make([]byte, random.IntN(3000))}
		for j := range out[i].Data {
			out[i].Data[j] = byte(random.Uint32())
		}
	}
	return out
}

// load has writers append until each has made n appends or been refused, and a subscriber watch them.
func load(t testing.TB, log *embedded.Log, h *history, seed uint64, writers, n int) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	sub, err := log.Subscribe(ctx, eventstore.Subscribe{})
	if err != nil {
		t.Fatal(err)
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			b, err := sub.Next(ctx)
			if err != nil {
				return
			}
			h.saw(b.Events)
		}
	}()
	var group errgroup.Group
	for w := range writers {
		random := rand.New(rand.NewPCG(seed, uint64(w)))
		stream := fmt.Sprintf("s-%d-%d", seed, w)
		group.Go(func() error {
			for range n {
				events := proposals(random, 1+random.IntN(3))
				result, err := log.Append(ctx, stream, eventstore.Any, events...)
				if err != nil {
					return err
				}
				h.acknowledge(stream, events, result)
			}
			return nil
		})
	}
	err = group.Wait()
	cancel()
	<-watched
	return err
}

// failing makes the n-th call of a kind fail, and counts the calls that change something after that.
type failing struct {
	kinds  func(errorfs.Op) bool
	left   atomic.Int64
	failed atomic.Bool
}

var errInjected = errors.New("injected: input/output error")

func (f *failing) String() string { return "failing" }

func (f *failing) MaybeError(op errorfs.Op) error {
	if f.kinds(op) && f.left.Add(-1) == 0 {
		f.failed.Store(true)
		return errInjected
	}
	return nil
}

func isSync(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
}

func isWALWrite(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileWrite && strings.HasSuffix(op.Path, ".log")
}

func isChange(op errorfs.Op) bool {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpRename, errorfs.OpReuseForWrite, errorfs.OpLink, errorfs.OpFileWrite:
		return true
	default:
		return false
	}
}

// Whatever sync, write, creation or rename fails, at whatever call: what had been acknowledged is there after recovery,
// nothing is acknowledged that is not, and once a sync has failed nothing is acknowledged any more.
func TestDiskFaults(t *testing.T) {
	for name, kinds := range map[string]func(errorfs.Op) bool{"sync": isSync, "write of the write-ahead log": isWALWrite, "change": isChange} {
		t.Run(name, func(t *testing.T) {
			for n := int64(1); ; n += 1 + n/8 {
				disk := vfs.NewCrashableMem()
				fault := &failing{kinds: kinds}
				fault.left.Store(n)
				h := &history{}
				withFault(t, errorfs.Wrap(disk, fault), h, uint64(n), func() bool { return fault.failed.Load() }, name != "change")
				recovered, err := embedded.Open("log", small(disk.CrashClone(vfs.CrashCloneCfg{})))
				if err != nil {
					t.Fatalf("call %d failed, and then recovery: %v", n, err)
				}
				h.check(t, recovered)
				if _, err := recovered.Append(t.Context(), "after", eventstore.Any, eventstore.Proposed{Type: "T"}); err != nil {
					t.Fatalf("call %d failed, and then an append after recovery: %v", n, err)
				}
				if err := recovered.Close(); err != nil {
					t.Fatal(err)
				}
				if !fault.failed.Load() {
					if n < 10 {
						t.Fatalf("only %d calls were made: the test injects nothing", n)
					}
					return
				}
			}
		})
	}
}

// withFault runs a load on a disk that fails once. Where the failure must end all writing, it makes sure that it did.
func withFault(t *testing.T, fs vfs.FS, h *history, seed uint64, failed func() bool, fatal bool) {
	t.Helper()
	log, err := embedded.Open("log", small(fs))
	if err != nil {
		if !failed() {
			t.Fatal(err)
		}
		return // a log that cannot be opened acknowledges nothing
	}
	err = load(t, log, h, seed, 4, 30)
	if err != nil && !errors.Is(err, eventstore.ErrUnavailable) {
		t.Fatalf("got %v, want ErrUnavailable", err)
	}
	if err != nil {
		for range 3 { // nothing is tried again
			if _, err := log.Append(t.Context(), "s", eventstore.Any, eventstore.Proposed{Type: "T"}); !errors.Is(err, eventstore.ErrUnavailable) {
				t.Fatalf("after a failed write: got %v, want ErrUnavailable", err)
			}
		}
		h.check(t, log) // and reads go on
	} else if fatal && failed() && !errors.Is(appendOne(t, log), eventstore.ErrUnavailable) {
		t.Fatal("a sync failed and the log still acknowledges")
	}
	_ = log.Close() // what it reports of a failed disk does not matter; that it returns does
}

func appendOne(t *testing.T, log *embedded.Log) error {
	_, err := log.Append(t.Context(), "one more", eventstore.Any, eventstore.Proposed{Type: "T"})
	return err
}
