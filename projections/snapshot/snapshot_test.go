package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/live"
	"github.com/shiplog/shiplog/projections/logreplay"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

// failer is what testing.T and rapid.T share.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func check(t failer, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func embeddedLog(t failer) eventstore.Log {
	t.Helper()
	log, err := embedded.Open("log", embedded.Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler), ScavengeEvery: -1})
	check(t, err)
	return log
}

// running is a view that follows its log.
type running struct {
	view  *live.View
	log   eventstore.Log
	stop  context.CancelFunc
	ended chan error
}

func run(ctx context.Context, t failer, log eventstore.Log, kinds *domain.Set, opts live.Options) *running {
	t.Helper()
	ctx, stop := context.WithCancel(ctx)
	r := &running{view: live.New(log, kinds, opts), log: log, stop: stop, ended: make(chan error, 1)}
	go func() { r.ended <- r.view.Run(ctx) }()
	check(t, r.view.WaitReady(ctx))
	return r
}

// state is that of the log's head; the view ends.
func (r *running) state(ctx context.Context, t failer) live.State {
	t.Helper()
	head, err := r.log.Head(ctx)
	check(t, err)
	check(t, r.view.WaitFor(ctx, uint64(head)))
	r.stop()
	check(t, <-r.ended)
	return r.view.State()
}

// viewOf runs a view until it has everything.
func viewOf(ctx context.Context, t failer, log eventstore.Log, kinds *domain.Set, opts live.Options) live.State {
	t.Helper()
	return run(ctx, t, log, kinds, opts).state(ctx, t)
}

// dump tells everything of a state that must be the same however it was come by; without bounded kinds, if it is not about them.
func dump(s live.State, bounded bool) string {
	var lines []string
	for table := range s.Objects.Tables() {
		for o, values := range table.Items {
			if o.Kind.Retained() && !bounded {
				continue
			}
			for i := range values {
				slices.Sort(values[i])
			}
			_, err := o.Typed()
			data := string(o.JSON)
			if s.IsBroken(o.Ref) {
				data = "" // of some moment before
			}
			lines = append(lines, fmt.Sprintf("%s %s %s at %d, %d, broken %v, readable %v, %v %q: %s", o.Ref, o.Ref.UID, o.Kind.GroupVersionKind(), o.Position, o.Revision,
				s.IsBroken(o.Ref), err == nil, table.Indexes, values, data))
		}
	}
	slices.Sort(lines)
	return fmt.Sprintf("at %d\n%s", s.Objects.Position(), strings.Join(lines, "\n"))
}

func differ(got, want string) string {
	return cmp.Diff(strings.Split(got, "\n"), strings.Split(want, "\n"))
}

// A view that starts from a snapshot is the view of the whole log, wherever the log is cut, with objects that are deleted and made
// again and objects whose events do not fold; and it is the view that has followed the log all along, also where the log has forgotten
// the beginning of streams, or all that told of an object.
func TestSnapshotAndTailAreTheLog(t *testing.T) {
	kinds := domain.NewSet(domain.Kinds())
	rapid.Check(t, func(rt *rapid.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		log := embeddedLog(rt)
		defer func() { check(rt, log.Close()) }()
		scribe := projectiontest.NewScribe(log, kinds)
		spoil := func() {
			if rapid.IntRange(0, 20).Draw(rt, "spoil") > 0 {
				return
			}
			ref := domain.Ref{Resource: "configmaps", Namespace: "default", Name: rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "spoilt")}
			_, err := scribe.Force(ctx, domain.Event{Ref: ref, Op: domain.Changed, Type: "ConfigMapChanged", Change: []byte(`{"~nowhere":{"-x":0}}`)})
			check(rt, err)
		}
		history := func() {
			projectiontest.RandomHistory(rt, ctx, scribe, spoil)
		}
		allAlong := run(ctx, rt, log, kinds, live.Options{})
		history()
		dir := &Dir{Path: t.TempDir(), Log: log, Kinds: kinds}
		reached, err := log.Head(ctx)
		check(rt, err)
		check(rt, allAlong.view.WaitFor(ctx, uint64(reached)))
		cut := allAlong.view.State()
		// The log forgets all but the last event of bounded streams, and with it objects of which that was a fact.
		leases := domain.Resource{Group: "coordination.k8s.io", Resource: "leases"}
		for lease := range cut.Objects.List(leases, "") {
			check(rt, log.SetMetadata(ctx, lease.Ref.Stream(), eventstore.Any, eventstore.Metadata{TruncateBefore: lease.Revision}))
		}
		info, err := dir.Write(ctx, cut)
		check(rt, err)
		if uint64(info.Position) != cut.Objects.Position() || info.Objects != cut.Objects.Len() {
			rt.Fatalf("wrote %+v of a state of %d objects at %d", info.Header, cut.Objects.Len(), cut.Objects.Position())
		}
		if rapid.Bool().Draw(rt, "tail") {
			history()
		}

		started := viewOf(ctx, rt, log, kinds, live.Options{Base: dir.Base})
		if got, want := dump(started, false), dump(viewOf(ctx, rt, log, kinds, live.Options{}), false); got != want {
			rt.Fatalf("from the snapshot and the tail (-), from the whole log (+):\n%s", differ(got, want))
		}
		want := dump(allAlong.state(ctx, rt), true)
		if got := dump(started, true); got != want {
			rt.Fatalf("from the snapshot and the tail (-), followed all along (+):\n%s", differ(got, want))
		}
		base, err := dir.Base(ctx)
		check(rt, err)
		if base == nil {
			rt.Fatal("the snapshot that was just written cannot be used")
		}
		head, err := log.Head(ctx)
		check(rt, err)
		_, err = logreplay.Continue(ctx, log, kinds, base.Objects, base.Broken, base.Position, uint64(head))
		check(rt, err)
		base.Position = uint64(head)
		folded := viewOf(ctx, rt, log, kinds, live.Options{Base: func(context.Context) (*live.Base, error) { return base, nil }})
		if got := dump(folded, true); got != want {
			rt.Fatalf("from the snapshot, the tail folded at once (-), followed all along (+):\n%s", differ(got, want))
		}
	})
}

// notes is a log file that others can wait for.
type notes struct {
	mu    sync.Mutex
	text  strings.Builder
	grown chan struct{}
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text.Write(p)
	select {
	case n.grown <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

func (n *notes) Reset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text.Reset()
}

// wait waits until something was said.
func (n *notes) wait(ctx context.Context, t failer, what string) {
	t.Helper()
	for !strings.Contains(n.String(), what) {
		select {
		case <-n.grown:
		case <-ctx.Done():
			t.Fatalf("nobody said %q, but\n%s", what, n)
		}
	}
}

// world is a log with two snapshots, and a logger that remembers.
type world struct {
	*testing.T
	log         *projectiontest.Log
	scribe      *projectiontest.Scribe
	kinds       *domain.Set
	dir         *Dir
	said        *notes
	older, last Info
}

func given(t *testing.T) *world {
	kinds := domain.NewSet(domain.Kinds())
	log := projectiontest.NewLog()
	w := &world{T: t, log: log, scribe: projectiontest.NewScribe(log, kinds), kinds: kinds, said: &notes{grown: make(chan struct{}, 1)}}
	w.dir = &Dir{Path: filepath.Join(t.TempDir(), "snapshots"), Log: log, Kinds: kinds, Logger: slog.New(slog.NewTextHandler(w.said, nil))}
	w.put("a", "1")
	w.put("b", "1")
	w.older = w.write()
	w.put("b", "2")
	w.last = w.write()
	return w
}

func (w *world) put(name, value string) {
	w.Helper()
	_, err := w.scribe.Put(w.Context(), &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"v": value},
	}, nil)
	check(w, err)
}

func (w *world) state() live.State {
	w.Helper()
	return viewOf(w.Context(), w, w.dir.Log, w.kinds, live.Options{})
}

func (w *world) write() Info {
	w.Helper()
	info, err := w.dir.Write(w.Context(), w.state())
	check(w, err)
	return info
}

func (w *world) base() *live.Base {
	w.Helper()
	base, err := w.dir.Base(w.Context())
	check(w, err)
	return base
}

// Whatever happens to a snapshot's bytes, it is not used: one bit flipped at every byte, an end at every byte, more after the end.
func TestDamageIsNoticed(t *testing.T) {
	w := given(t)
	whole, err := os.ReadFile(w.last.Path)
	check(t, err)
	try := func(what string, data []byte) {
		t.Helper()
		check(t, os.WriteFile(w.last.Path, data, 0o600))
		base := w.base()
		if base == nil || base.Position != uint64(w.older.Position) {
			t.Fatalf("%s: the view starts from %+v, want the older snapshot, of position %d", what, base, w.older.Position)
		}
		if _, err := os.Stat(w.last.Path); err == nil {
			t.Fatalf("%s: it is still there", what)
		}
	}
	for i := range whole {
		flipped := slices.Clone(whole)
		flipped[i] ^= 1 << (i % 8)
		try(fmt.Sprintf("a bit of byte %d of %d flipped", i, len(whole)), flipped)
		try(fmt.Sprintf("cut to %d of %d bytes", i, len(whole)), whole[:i])
	}
	try("a byte more", append(slices.Clone(whole), 0))
	check(t, os.WriteFile(w.last.Path, whole, 0o600))
	if base := w.base(); base == nil || base.Position != uint64(w.last.Position) {
		t.Errorf("undamaged: %+v", base)
	}
}

// chained is a log that keeps a chain, or says so.
type chained struct {
	eventstore.Log
	digest eventstore.Digest
}

func (c *chained) DigestAt(_ context.Context, p eventstore.Position) (eventstore.Digest, error) {
	d := c.digest
	d[31] = byte(p)
	return d, nil
}

func (c *chained) Entries(context.Context, eventstore.Position, eventstore.Position) iter.Seq2[eventstore.Entry, error] {
	return func(func(eventstore.Entry, error) bool) {}
}

func (c *chained) Import(context.Context, ...eventstore.Entry) error { return eventstore.ErrReadOnly }

var _ eventstore.Chained = (*chained)(nil)

// A snapshot that is not of this log or not of this build is left out, said once, and removed.
func TestWhatDoesNotFitIsLeftOut(t *testing.T) {
	for name, c := range map[string]struct {
		given func(w *world)
		want  string
	}{
		"of another fold": {func(w *world) { w.dir.fold = "another" }, "folds events in another way"},
		"of another log": {func(w *world) {
			other := given(w.T)
			for i := range 9 {
				other.put("more", fmt.Sprint(i))
			}
			w.dir.Log = other.log
		}, "of another log"},
		"ahead of the log": {func(w *world) {
			restored := projectiontest.NewLog()
			_, err := projections.LogIdentity(w.Context(), restored)
			check(w, err)
			w.dir.Log = restored
		}, "restored from a backup"},
		"of a log that went on in another way": {func(w *world) {
			backup, scribe := w.log.Clone(), w.scribe
			for _, log := range []*projectiontest.Log{w.log, backup} { // each in its own way
				w.scribe = scribe.Clone(log)
				w.put("c", "1")
				w.put("c", "2")
			}
			w.scribe = scribe.Clone(w.log)
			check(w, os.RemoveAll(w.dir.Path))
			w.write()
			w.scribe = scribe.Clone(backup)
			w.dir.Log = backup
		}, "does not hold the event that it did"},
		"of another chain": {func(w *world) {
			w.dir.Log = &chained{Log: w.log}
			check(w, os.RemoveAll(w.dir.Path))
			w.write()
			w.dir.Log = &chained{Log: w.log, digest: eventstore.Digest{1}}
		}, "holds something else than it was made of"},
	} {
		t.Run(name, func(t *testing.T) {
			w := given(t)
			c.given(w)
			w.said.Reset()
			infos, err := w.dir.List(t.Context())
			check(t, err)
			for _, i := range infos {
				if !strings.Contains(i.Unusable, c.want) {
					t.Errorf("listed as %+v, want %q", i, c.want)
				}
			}
			if base := w.base(); base != nil {
				t.Errorf("used: position %d", base.Position)
			}
			if said := strings.Count(w.said.String(), c.want); said != len(infos) || said == 0 {
				t.Errorf("%d of %d snapshots were said to be left out:\n%s", said, len(infos), w.said)
			}
			w.said.Reset()
			if base := w.base(); base != nil || w.said.String() != "" {
				t.Errorf("the second time: %+v\n%s", base, w.said)
			}
		})
	}
}

func TestReadOnlyLeavesThemWhereTheyAre(t *testing.T) {
	w := given(t)
	w.dir.ReadOnly, w.dir.fold = true, "another"
	if base := w.base(); base != nil {
		t.Errorf("used: position %d", base.Position)
	}
	if infos, err := w.dir.List(t.Context()); err != nil || len(infos) != 2 {
		t.Errorf("%v, %v", infos, err)
	}
}

// A disk that does not answer is no damage: nothing is removed.
func TestADiskThatDoesNotAnswer(t *testing.T) {
	w := given(t)
	check(t, os.Remove(w.last.Path))
	check(t, os.Mkdir(w.last.Path, 0o700)) // reading it fails
	if base, err := w.dir.Base(t.Context()); err == nil || errors.Is(err, ErrUnusable) {
		t.Errorf("got %+v, %v", base, err)
	}
}

func TestTheLastTwoAreKept(t *testing.T) {
	w := given(t)
	left := w.older.Path + temporary // of a process that was killed
	check(t, os.WriteFile(left, []byte("shipsnap"), 0o600))
	w.put("c", "1")
	third := w.write()
	infos, err := w.dir.List(t.Context())
	check(t, err)
	if len(infos) != 2 || infos[0].Path != third.Path || infos[1].Path != w.last.Path || infos[0].Unusable != "" || infos[0].Bytes != third.Bytes {
		t.Errorf("kept %+v", infos)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("what a killed process left is still there")
	}
	if again := w.write(); again.Path != third.Path {
		t.Errorf("the same state is written as %s, was %s", again.Path, third.Path)
	}
	if infos, err = w.dir.List(t.Context()); err != nil || len(infos) != 2 {
		t.Errorf("after writing the same again: %+v, %v", infos, err)
	}
}

// A snapshot is anchored at an event that the log will keep.
func TestTheAnchorIsOfAStreamThatIsKept(t *testing.T) {
	w := given(t)
	head, err := w.log.Head(t.Context())
	check(t, err)
	lease := domain.Ref{Group: "coordination.k8s.io", Resource: "leases", Namespace: "default", Name: "l"}
	for range 3 {
		_, err := w.scribe.Refuse(t.Context(), lease, "get", nil)
		check(t, err)
	}
	info := w.write()
	if info.Anchor.Position != head || info.Position <= head {
		t.Errorf("anchored at %d, the last event that stays is at %d", info.Anchor.Position, head)
	}
}

func TestKeeper(t *testing.T) {
	w := given(t)
	check(t, os.RemoveAll(w.dir.Path))
	w.said.Reset()
	keeper := &Keeper{Dir: w.dir, MinEvents: 100}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		keeper.Run(ctx)
	}()
	offer := func(events uint64) live.State {
		w.put("k", fmt.Sprint(events))
		s := w.state()
		s.Events = events
		keeper.Offer(s)
		return s
	}
	written := func() []eventstore.Position {
		infos, err := w.dir.List(t.Context())
		check(t, err)
		var at []eventstore.Position
		for _, i := range infos {
			at = append(at, i.Position)
		}
		return at
	}
	position := func(s live.State) eventstore.Position { return eventstore.Position(s.Objects.Position()) }

	offer(99) // too few
	due := offer(100)
	w.said.wait(ctx, t, "a snapshot was written")
	if got, want := written(), []eventstore.Position{position(due)}; !slices.Equal(got, want) {
		t.Errorf("there are snapshots of %v, want %v", got, want)
	}
	rest := offer(150)
	stop()
	<-ended
	if got, want := written(), []eventstore.Position{position(rest), position(due)}; !slices.Equal(got, want) {
		t.Errorf("after the end there are snapshots of %v, want %v", got, want)
	}

	// Nothing new: nothing to write.
	w.said.Reset()
	keeper.Run(ctx)
	if w.said.String() != "" {
		t.Errorf("nothing was to be written: %s", w.said)
	}
	// A directory that cannot be written to is said, and no reason to stop.
	w.dir.Path = filepath.Join(aFile(t), "file")
	keeper.Offer(live.State{Objects: rest.Objects, Events: 1000})
	keeper.Run(ctx)
	if !strings.Contains(w.said.String(), "could not be written") {
		t.Errorf("said: %s", w.said)
	}
}

// aFile is a file, in which there can be no directory.
func aFile(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(path, nil, 0o600))
	return path
}

// A frame that decompresses may still hold anything: that is damage, never a panic.
func TestParsingAnything(t *testing.T) {
	w := given(t)
	s := w.state()
	anything := func(t failer, frame []byte) {
		if _, err := parseFrame(w.kinds, frame); err != nil && !errors.Is(err, errDamaged) {
			t.Fatal(err)
		}
		if _, _, err := newReader(bytes.NewReader(frame)); !errors.Is(err, errDamaged) {
			t.Fatalf("a frame is taken for a file: %v", err)
		}
	}
	for frame := range frames(s.Objects, s.IsBroken) {
		for i := range frame {
			anything(t, frame[:i])
			changed := slices.Clone(frame)
			changed[i] ^= 0xff
			anything(t, changed)
		}
	}
	rapid.Check(t, func(rt *rapid.T) { anything(rt, rapid.SliceOf(rapid.Byte()).Draw(rt, "frame")) })
}
