package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

var errInjected = errors.New("injected: input/output error")

// failing is a disk on which the n-th call of a kind fails, or all from the n-th on.
type failing struct {
	kinds   func(errorfs.Op) bool
	left    atomic.Int64
	lasting bool // until it is repaired
	repair  atomic.Bool
	err     error // errInjected, unless set
	failed  atomic.Bool

	mu         sync.Mutex
	vital      bool   // what failed was a sync, or a write to the write-ahead log
	path       string // what failed
	afterwards []string
}

func (f *failing) String() string { return "failing" }

func (f *failing) MaybeError(op errorfs.Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	// After a failure that leaves open what reached the disk nothing is tried again. (Of another file a call may be under way.)
	if f.vital && op.Path == f.path && (isSync(op) || isWrite(op)) {
		f.afterwards = append(f.afterwards, fmt.Sprintf("call %d of %s after that of %s failed", op.Kind, op.Path, f.path))
	}
	if !f.kinds(op) || f.repair.Load() {
		return nil
	}
	if left := f.left.Add(-1); left == 0 || left < 0 && f.lasting {
		if left == 0 {
			f.failed.Store(true)
			f.path = op.Path
			f.vital = strings.HasPrefix(op.Path, "log/db/") && (isSync(op) || isWALWrite(op))
		}
		if f.err == nil {
			return errInjected
		}
		return f.err
	}
	return nil
}

func (f *failing) wroteOn() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.afterwards) > 0 {
		return fmt.Errorf("the log wrote on: %s", strings.Join(f.afterwards, "; "))
	}
	return nil
}

func isSync(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
}

func isWrite(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileWriteAt
}

func isWALWrite(op errorfs.Op) bool { return isWrite(op) && strings.HasSuffix(op.Path, ".log") }

func isChange(op errorfs.Op) bool {
	return isWrite(op) || isKind(errorfs.OpCreate, errorfs.OpRename, errorfs.OpReuseForWrite, errorfs.OpLink)(op)
}

func isKind(kinds ...errorfs.OpKind) func(errorfs.Op) bool {
	return func(op errorfs.Op) bool {
		for _, k := range kinds {
			if op.Kind == k {
				return true
			}
		}
		return false
	}
}

// faults are the calls that are made to fail, one kind after the other, each at every index.
var faults = []struct {
	name    string
	kinds   func(errorfs.Op) bool
	lasting bool
	err     error
}{
	{"sync", isSync, false, errInjected},
	{"write of the write-ahead log", isWALWrite, false, errInjected},
	{"any write", isWrite, false, errInjected},
	{"create", isKind(errorfs.OpCreate, errorfs.OpReuseForWrite), false, errInjected},
	{"open", isKind(errorfs.OpOpen, errorfs.OpOpenDir, errorfs.OpList, errorfs.OpStat), false, errInjected},
	{"rename, link and mkdir", isKind(errorfs.OpRename, errorfs.OpLink, errorfs.OpMkdirAll), false, errInjected},
	{"remove", isKind(errorfs.OpRemove, errorfs.OpRemoveAll), false, errInjected},
	{"read", isKind(errorfs.OpFileRead, errorfs.OpFileReadAt), false, errInjected},
	{"full disk", isKind(
		errorfs.OpCreate, errorfs.OpReuseForWrite, errorfs.OpMkdirAll, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFilePreallocate,
	), true, syscall.ENOSPC},
}

// Whatever call fails, at whatever index, of a new log and of one that is there: what had been acknowledged is there after a restart and
// after a power failure; nothing is acknowledged that is not; reads go on; once a sync or a write to the write-ahead log has
// failed nothing is acknowledged any more and nothing is written any more. A disk that was full is one to write to again.
func TestDiskFaults(t *testing.T) {
	for _, f := range faults {
		for _, exists := range []bool{false, true} {
			name := f.name + " on a new log"
			if exists {
				name = f.name
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				for n := int64(1); ; n++ {
					fault := &failing{kinds: f.kinds, lasting: f.lasting, err: f.err}
					fault.left.Store(n)
					if err := withFault(t.Context(), fault, exists); err != nil {
						t.Fatalf("call %d: %v", n, err)
					}
					if fault.failed.Load() {
						continue
					}
					if n == 1 {
						t.Fatal("no such call was made: the test injects nothing")
					}
					t.Logf("%d calls", n-1)
					return
				}
			})
		}
	}
}

// withFault has a crew work on a disk that fails, and holds what is there afterwards against what it was told.
func withFault(ctx context.Context, fault *failing, exists bool) error {
	v := newVoyage(7)
	v.opts.MemTableBytes, v.opts.CachedStreams, v.opts.TailEvents, v.opts.CacheBytes = 16<<10, 2, 4, 1
	v.tolerated = eventstore.ErrUnavailable
	if exists {
		if err := v.sail(ctx, 1<<62); err != nil {
			return err
		}
		if err := v.arrive(ctx); err != nil {
			return err
		}
	}
	opts := v.opts
	opts.FS = errorfs.Wrap(v.disk, fault)
	log, err := embedded.Open("log", opts)
	if err != nil {
		if !fault.failed.Load() {
			return err
		}
	} else {
		err := v.crew(ctx, log, &mortalDisk{})
		if err == nil {
			err = v.afterFault(ctx, log, fault)
		}
		_ = log.Close() // what it says of a failed disk does not matter; that it returns does
		if err != nil {
			return err
		}
	}
	if err := fault.wroteOn(); err != nil {
		return err
	}
	// Power loss leaves what was synced, a restart what was written.
	synced := v.fork(v.disk.CrashClone(vfs.CrashCloneCfg{}))
	if err := synced.arrive(ctx); err != nil {
		return fmt.Errorf("after power loss: %w", err)
	}
	if err := v.arrive(ctx); err != nil {
		return fmt.Errorf("after a restart: %w", err)
	}
	return nil
}

// afterFault looks at a log whose disk has failed.
func (v *voyage) afterFault(ctx context.Context, log *embedded.Log, fault *failing) error {
	_, err := log.Append(ctx, "after", eventstore.Any, eventstore.Proposed{Type: "T"})
	switch fault.mu.Lock(); {
	case err != nil && !errors.Is(err, eventstore.ErrUnavailable):
		fault.mu.Unlock()
		return fmt.Errorf("appending after the failure: got %w, want ErrUnavailable", err)
	case err == nil && fault.vital:
		fault.mu.Unlock()
		return fmt.Errorf("writing %s failed and the log still acknowledges", fault.path)
	default:
		fault.mu.Unlock()
	}
	for range 2 { // nothing is tried again
		if _, again := log.Append(ctx, "after", eventstore.Any, eventstore.Proposed{Type: "T"}); err != nil && !errors.Is(again, eventstore.ErrUnavailable) && fault.vital {
			return fmt.Errorf("appending once more after the failure: got %w, want ErrUnavailable", again)
		}
	}
	if fault.repair.Store(true); fault.failed.Load() {
		// What was acknowledged is still read, and nothing else is decided any more.
		if _, err := v.everything(ctx, log); err != nil {
			return fmt.Errorf("reading after the failure: %w", err)
		}
		for i := range v.tracks {
			if err := v.matches(ctx, log, v.tracks[i].name, v.tracks[i].state); err != nil && v.tracks[i].pending == nil {
				return fmt.Errorf("reading after the failure: %w", err)
			}
		}
	}
	return nil
}
