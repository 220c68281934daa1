package embedded_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// image is the content of a small log's directory, file by file, and what the log holds.
type image struct {
	files map[string][]byte
	wal   string // the write-ahead log
	// What the log held with each head that it has had since it was opened last, and the last of these heads.
	held map[eventstore.Position]*holding
	head eventstore.Position
}

// holding is all that can be read from a log.
type holding struct {
	Events   []eventstore.Recorded            // of all streams, in order
	Streams  map[string][]eventstore.Recorded // the same stream by stream
	Metadata map[string]eventstore.Metadata
}

func contents(t testing.TB, fs vfs.FS, dir string, into map[string][]byte) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		info, err := fs.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			contents(t, fs, path, into)
			continue
		}
		f, err := fs.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		into[path] = data
	}
}

// smallLog returns the directory of a log as a crash would leave it: some events in tables, with what the scavenger left behind,
// others in the write-ahead log; streams with a retention, deleted, and with metadata.
func smallLog(t testing.TB) *image {
	t.Helper()
	disk := vfs.NewMem()
	log, err := embedded.Open("log", embedded.Options{FS: disk, Logger: quiet(), ScavengeEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	i := &image{files: make(map[string][]byte), held: make(map[eventstore.Position]*holding)}
	hold := func() {
		i.head, err = log.Head(ctx)
		must(err)
		i.held[i.head], err = read(ctx, log)
		must(err)
	}
	write := func(n, of int) {
		for i := range n {
			_, err := log.Append(ctx, fmt.Sprintf("s-%d", i%of), eventstore.Any,
				eventstore.Proposed{ID: uuid.New(), Type: "Counted", Metadata: []byte(`{"by":"me"}`), Data: fmt.Appendf(nil, "%d of %d", i, n)})
			must(err)
			hold()
		}
	}
	write(9, 3)
	must(log.SetMetadata(ctx, "s-1", eventstore.Any, eventstore.Metadata{MaxCount: 2, Custom: map[string]any{"owner": "me"}}))
	must(log.Delete(ctx, "s-2", eventstore.Any))
	_, err = log.Scavenge(ctx)
	must(err)
	must(log.Close())
	log, err = embedded.Open("log", embedded.Options{FS: disk, Logger: quiet(), ScavengeEvery: -1})
	must(err)
	clear(i.held)
	hold()
	write(6, 2)
	must(log.SetMetadata(ctx, "s-0", eventstore.Any, eventstore.Metadata{TruncateBefore: 1}))
	hold()

	contents(t, disk, "log", i.files)
	for path, data := range i.files {
		if strings.HasSuffix(path, ".log") && len(data) > 0 {
			if i.wal != "" {
				t.Fatalf("there are two write-ahead logs, %s and %s", i.wal, path)
			}
			i.wal = path
		}
	}
	must(log.Close())
	if i.wal == "" || len(i.held) != 8 {
		t.Fatalf("the small log has had %d heads, and %q for a write-ahead log", len(i.held), i.wal)
	}
	return i
}

var imageStreams = []string{"s-0", "s-1", "s-2", "$$s-0", "$$s-1", "$$s-2"}

// read takes all that is in a log.
func read(ctx context.Context, log *embedded.Log) (*holding, error) {
	h := &holding{Streams: make(map[string][]eventstore.Recorded), Metadata: make(map[string]eventstore.Metadata)}
	for e, err := range log.ReadAll(ctx, eventstore.ReadAll{Filter: eventstore.Filter{System: true}}) {
		if err != nil {
			return nil, err
		}
		h.Events = append(h.Events, e)
	}
	for _, s := range imageStreams {
		for e, err := range log.ReadStream(ctx, s, eventstore.ReadStream{}) {
			if errors.Is(err, eventstore.ErrStreamNotFound) {
				break
			}
			if err != nil {
				return nil, err
			}
			h.Streams[s] = append(h.Streams[s], e)
		}
		m, _, err := log.Metadata(ctx, s)
		if err != nil {
			return nil, err
		}
		h.Metadata[s] = m
	}
	return h, nil
}

// mount puts the files on a disk, some of them changed; nil stands for a file that is not there.
func (i *image) mount(changed map[string][]byte) *vfs.MemFS {
	disk := vfs.NewMem()
	files := maps.Clone(i.files)
	maps.Copy(files, changed)
	if err := disk.MkdirAll("log/db", 0o755); err != nil {
		panic(err) // a file system in memory does not fail
	}
	for path, data := range files {
		if data == nil {
			continue
		}
		f, err := disk.Create(path, vfs.WriteCategoryUnspecified)
		if err == nil {
			_, err = f.Write(data)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			panic(err)
		}
	}
	return disk
}

// open opens the log from changed files and holds it against what it held with the head that it has now. told is the error that says
// what is damaged; silent is what must not be.
func (i *image) open(ctx context.Context, changed map[string][]byte) (head eventstore.Position, told, silent error) {
	log, err := embedded.Open("log", embedded.Options{FS: i.mount(changed), Logger: quiet(), ScavengeEvery: -1, CacheBytes: 64 << 10, MemTableBytes: 64 << 10})
	if err != nil {
		return 0, err, unlessDamaged("opening", err)
	}
	defer func() {
		// Background work that meets damage may end badly; the directory is given back anyway.
		_ = log.Close()
	}()
	if head, err = log.Head(ctx); err != nil {
		return head, nil, err
	}
	got, err := read(ctx, log)
	if err != nil {
		return head, err, unlessDamaged("reading", err)
	}
	want := i.held[head]
	if want == nil {
		return head, nil, fmt.Errorf("the head is %d, which it has never been", head)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return head, nil, fmt.Errorf("with a head of %d it does not hold what it held then (-then +now): %s", head, diff)
	}
	if _, err := log.Verify(ctx, nil); err != nil {
		return head, err, unlessDamaged("verifying", err)
	}
	// What is opened takes events again, at their places.
	a, err := log.Append(ctx, "s-0", eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "More"})
	if err != nil {
		return head, err, unlessDamaged("appending", err)
	}
	if last := want.Streams["s-0"]; a.Position != head+1 || a.Revision != last[len(last)-1].Revision+1 {
		return head, nil, fmt.Errorf("the next event is at %+v, after a head of %d", a, head)
	}
	return head, nil, nil
}

func unlessDamaged(activity string, err error) error {
	if errors.Is(err, eventstore.ErrCorrupt) || errors.Is(err, eventstore.ErrVersion) {
		return nil
	}
	return fmt.Errorf("%s: got %w, want ErrCorrupt or ErrVersion", activity, err)
}

// everyByte calls check for every byte of the files that want names, on all processors.
func everyByte(t *testing.T, files map[string][]byte, check func(ctx context.Context, path string, at int) error) {
	t.Helper()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(32 * runtime.GOMAXPROCS(0)) // a log that meets damage waits a little before it meets it again
	stride := 1
	if testing.Short() {
		stride = 7
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		for at := 0; at < len(files[path]); at += stride {
			if ctx.Err() != nil {
				break
			}
			group.Go(func() error {
				if err := check(context.WithoutCancel(ctx), path, at); err != nil {
					return fmt.Errorf("byte %d of %d of %s: %w", at, len(files[path]), path, err)
				}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// A bit that flips at any byte of any file of a log is told of, or does no harm: no event is ever another one, none is missing.
func TestEveryByteFlipped(t *testing.T) {
	i := smallLog(t)
	type count struct{ told, harmless int }
	counts := make(chan func(map[string]*count), 64)
	tally := make(chan map[string]*count)
	go func() {
		all := make(map[string]*count)
		for f := range counts {
			f(all)
		}
		tally <- all
	}()
	everyByte(t, i.files, func(ctx context.Context, path string, at int) error {
		changed := bytes.Clone(i.files[path])
		changed[at] ^= 1 << (at % 8)
		head, told, silent := i.open(ctx, map[string][]byte{path: changed})
		if silent == nil && told == nil && head != i.head {
			silent = fmt.Errorf("opened with a head of %d, it was %d", head, i.head)
		}
		counts <- func(all map[string]*count) {
			if all[path] == nil {
				all[path] = &count{}
			}
			if told != nil {
				all[path].told++
			} else {
				all[path].harmless++
			}
		}
		return silent
	})
	close(counts)
	all := <-tally
	for _, path := range slices.Sorted(maps.Keys(all)) {
		t.Logf("%-40s %4d bytes: told of %d, harmless %d", path, len(i.files[path]), all[path].told, all[path].harmless)
		if strings.HasSuffix(path, ".sst") && all[path].told < all[path].harmless {
			t.Errorf("%s: only %d flips are told of, %d are not", path, all[path].told, all[path].harmless)
		}
	}
	if c := all[i.wal]; c.harmless > c.told/10 {
		t.Errorf("%s: only %d flips are told of, %d are not", i.wal, c.told, c.harmless)
	}
}

// A write-ahead log that ends at any byte before what was acknowledged is told of. Who removes the mark of the head goes on with
// what is ahead of the end: whole appends, all up to one of them.
func TestEveryByteCutOff(t *testing.T) {
	i := smallLog(t)
	left := make(map[int]eventstore.Position) // the head by length
	var mu sync.Mutex
	everyByte(t, map[string][]byte{i.wal: i.files[i.wal]}, func(ctx context.Context, path string, at int) error {
		cut := i.files[path][:at:at]
		_, told, silent := i.open(ctx, map[string][]byte{path: cut})
		if silent != nil {
			return silent
		}
		if !errors.Is(told, eventstore.ErrCorrupt) {
			return fmt.Errorf("got %v, want ErrCorrupt", told)
		}
		head, told, silent := i.open(ctx, map[string][]byte{path: cut, "log/HEAD": nil})
		if silent != nil {
			return silent
		}
		if told != nil {
			return fmt.Errorf("without the mark of the head: %w", told)
		}
		mu.Lock()
		defer mu.Unlock()
		left[at] = head
		return nil
	})
	var heads []eventstore.Position
	for _, at := range slices.Sorted(maps.Keys(left)) {
		heads = append(heads, left[at])
	}
	if !slices.IsSorted(heads) {
		t.Errorf("with more of the write-ahead log the head is lower: %v", heads)
	}
	t.Logf("%d lengths: heads from %d to %d of %d", len(heads), heads[0], heads[len(heads)-1], i.head)
}
