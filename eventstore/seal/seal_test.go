package seal_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/seal"
)

var update = flag.Bool("update", false, "write the golden files anew")

var quiet = slog.New(slog.DiscardHandler)

func start() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func newLog(t *testing.T) *embedded.Log {
	t.Helper()
	log, err := embedded.Open("log", embedded.Options{FS: vfs.NewMem(), Logger: quiet, ScavengeEvery: -1, Now: start})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return log
}

// plain hides that a log keeps a chain, as EventStoreDB does not.
type plain struct{ eventstore.Log }

func add(t *testing.T, log eventstore.Log, stream string, n int) eventstore.Position {
	t.Helper()
	var last eventstore.Appended
	for range n {
		head, err := log.Head(t.Context())
		if err == nil {
			last, err = log.Append(t.Context(), stream, eventstore.Any, eventstore.Proposed{ID: uuid.UUID{byte(head), 1}, Type: "T", Data: fmt.Appendf(nil, "event %d", head)})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return last.Position
}

func newKey(t *testing.T) *seal.Key {
	t.Helper()
	key, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// notary runs a notary whose time passes when the test says so.
type notary struct {
	t      *testing.T
	log    eventstore.Log
	passes chan time.Time
	asked  chan time.Duration
	stop   func()
}

func startNotary(t *testing.T, log eventstore.Log, key *seal.Key, opts seal.Options) *notary {
	t.Helper()
	n := &notary{t: t, log: log, passes: make(chan time.Time), asked: make(chan time.Duration, 1000)}
	opts.Logger, opts.Now = quiet, start
	opts.After = func(d time.Duration) <-chan time.Time {
		n.asked <- d
		return n.passes
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- seal.NewNotary(log, key, opts).Run(ctx) }()
	stopped := false
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the notary ended with %v", err)
		}
	}
	t.Cleanup(n.stop)
	return n
}

// sealed waits for the n-th checkpoint and returns the position that it is about.
func (n *notary) sealed(number int) eventstore.Position {
	n.t.Helper()
	revision := uint64(number - 1)
	opts := eventstore.Subscribe{Stream: seal.Stream}
	if revision > 0 {
		before := revision - 1
		opts.AfterRevision = &before
	}
	sub, err := n.log.Subscribe(n.t.Context(), opts)
	if err != nil {
		n.t.Fatal(err)
	}
	defer sub.Close()
	for {
		b, err := sub.Next(n.t.Context())
		if err != nil {
			n.t.Fatal(err)
		}
		if len(b.Events) > 0 {
			break
		}
	}
	last, _, err := seal.Last(n.t.Context(), n.log)
	if err != nil || last.Number != uint64(number) {
		n.t.Fatalf("got checkpoint %d, %v, want %d", last.Number, err, number)
	}
	return last.Position
}

func TestNotary(t *testing.T) {
	for name, hide := range map[string]func(*embedded.Log) eventstore.Log{
		"chained":  func(l *embedded.Log) eventstore.Log { return l },
		"followed": func(l *embedded.Log) eventstore.Log { return plain{l} },
	} {
		t.Run(name, func(t *testing.T) {
			log, key := hide(newLog(t)), newKey(t)
			n := startNotary(t, log, key, seal.Options{Every: 10, Within: time.Minute})
			if position := add(t, log, "s", 10); n.sealed(1) > position {
				t.Errorf("the first checkpoint is about more than there was")
			}
			// Whatever the first checkpoint caught, time signs the rest, and then there is nothing new: its own events do not count.
			next := 2
			if last, _, err := seal.Last(t.Context(), log); err != nil {
				t.Fatal(err)
			} else if last.Position < 10 {
				<-n.asked
				n.passes <- start()
				n.sealed(next)
				next++
			}
			for len(n.asked) > 0 {
				<-n.asked
			}
			position := add(t, log, "s", 3)
			if d := <-n.asked; d != time.Minute {
				t.Errorf("it waits %s", d)
			}
			n.passes <- start()
			if got := n.sealed(next); got < position-2 {
				t.Errorf("after a minute: signed up to %d, want %d", got, position)
			}
			n.stop()

			// Another notary with the same key goes on.
			before, _, err := seal.Last(t.Context(), log)
			if err != nil {
				t.Fatal(err)
			}
			again := startNotary(t, log, key, seal.Options{Every: 10, Within: time.Minute})
			add(t, log, "s", 10)
			again.sealed(int(before.Number) + 1)
			again.stop()
			answer, faults, err := seal.Verify(t.Context(), log, seal.Question{Key: key.Public(), MustBeSigned: true})
			if err != nil || len(faults) > 0 || answer.Checkpoints != int(before.Number)+1 || answer.SignedTo <= before.Position {
				t.Errorf("got %+v, %v, %v", answer, faults, err)
			}
			if _, faults, err := seal.Verify(t.Context(), log, seal.Question{Expected: []seal.Expected{{Position: answer.Head, Digest: answer.Digest}}}); err != nil || len(faults) > 0 {
				t.Errorf("what was printed is expected, and there are faults: %v, %v", faults, err)
			}
		})
	}
}

// The chain that a notary keeps itself does not break when a server shortens the streams that it leaves out.
func TestFollowedChainLeavesOutWhatIsShortened(t *testing.T) {
	inner, key := newLog(t), newKey(t)
	log := plain{inner}
	add(t, log, "leases-x/y", 3)
	add(t, log, "pods-x/y", 3)
	if err := log.SetMetadata(t.Context(), "leases-x/y", eventstore.Any, eventstore.Metadata{MaxCount: 1}); err != nil {
		t.Fatal(err)
	}
	n := startNotary(t, log, key, seal.Options{Every: 5, LeavesOut: []string{"leases-"}})
	n.sealed(1)
	n.stop()
	add(t, log, "leases-x/y", 3)
	if _, err := inner.Scavenge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if answer, faults, err := seal.Verify(t.Context(), log, seal.Question{Key: key.Public()}); err != nil || len(faults) > 0 || answer.SignedTo == 0 {
		t.Errorf("got %+v, %v, %v", answer, faults, err)
	}
	if err := log.SetMetadata(t.Context(), "pods-x/y", eventstore.Any, eventstore.Metadata{MaxCount: 1}); err != nil {
		t.Fatal(err)
	}
	if _, faults, err := seal.Verify(t.Context(), log, seal.Question{Key: key.Public()}); err != nil || len(faults) != 1 || faults[0].Kind != eventstore.Contradicted {
		t.Errorf("a stream that must not be shortened was: got %v, %v", faults, err)
	}
}

// forged is a log whose history was changed, with the whole hash chain made anew over it: nothing in it is wrong by itself.
func forged(t *testing.T, log eventstore.Chained, change func([]eventstore.Entry) []eventstore.Entry) eventstore.Chained {
	t.Helper()
	var entries []eventstore.Entry
	for e, err := range log.Entries(t.Context(), 0, math.MaxUint64) {
		if err != nil {
			t.Fatal(err)
		}
		e.Digest, e.Content = eventstore.Digest{}, eventstore.Digest{}
		entries = append(entries, e)
	}
	out := newLog(t)
	if err := out.Import(t.Context(), change(entries)...); err != nil {
		t.Fatal(err)
	}
	if _, faults, err := out.Check(t.Context(), nil); err != nil || len(faults) > 0 && faults[0].Kind != eventstore.Missing {
		t.Fatalf("a good forgery shows nothing by itself: %v, %v", faults, err)
	}
	return out
}

// What a hash chain that was made anew hides, signatures and digests kept elsewhere show.
func TestVerdicts(t *testing.T) {
	log := newLog(t)
	key, other := newKey(t), newKey(t)
	add(t, log, "s", 4)
	n := startNotary(t, log, key, seal.Options{Every: 4})
	n.sealed(1)
	add(t, log, "s", 4)
	n.sealed(2)
	add(t, log, "s", 4)
	n.sealed(3)
	n.stop()
	add(t, log, "s", 1)
	honest, _, err := seal.Verify(t.Context(), log, seal.Question{Key: key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	at := func(p eventstore.Position, change func(*eventstore.Entry)) func([]eventstore.Entry) []eventstore.Entry {
		return func(entries []eventstore.Entry) []eventstore.Entry {
			for i := range entries {
				if entries[i].Position == p {
					change(&entries[i])
				}
			}
			return entries
		}
	}
	forge := func(e *eventstore.Entry) { e.Data = []byte("forged") }
	drop := func(p eventstore.Position) func([]eventstore.Entry) []eventstore.Entry {
		return func(entries []eventstore.Entry) (out []eventstore.Entry) {
			for _, e := range entries {
				if e.Position != p {
					out = append(out, e)
				}
			}
			return out
		}
	}
	same := func(entries []eventstore.Entry) []eventstore.Entry { return entries }
	unsigned := func(entries []eventstore.Entry) (out []eventstore.Entry) {
		for _, e := range entries {
			if e.Stream != seal.Stream {
				out = append(out, e)
			}
		}
		return out
	}
	expected := []seal.Expected{{Position: honest.Head, Digest: honest.Digest}}
	var got strings.Builder
	for _, c := range []struct {
		name     string
		change   func([]eventstore.Entry) []eventstore.Entry
		question seal.Question
	}{
		{"nothing", same, seal.Question{Key: key.Public(), MustBeSigned: true, Expected: expected}},
		{"an early event changed", at(2, forge), seal.Question{Key: key.Public()}},
		{"an early event changed, without the key", at(2, forge), seal.Question{}},
		{"an event between two checkpoints changed", at(8, forge), seal.Question{Key: key.Public()}},
		{"an event removed", drop(2), seal.Question{Key: key.Public()}},
		{"an event after the last checkpoint changed", at(honest.Head, forge), seal.Question{Key: key.Public()}},
		{"an event after the last checkpoint changed, and the digest was kept", at(honest.Head, forge), seal.Question{Key: key.Public(), Expected: expected}},
		{"the last event removed, and the digest was kept", drop(honest.Head), seal.Question{Key: key.Public(), Expected: expected}},
		{"a checkpoint removed", drop(10), seal.Question{Key: key.Public()}},
		{"all checkpoints removed", unsigned, seal.Question{Key: key.Public(), MustBeSigned: true}},
		{"signed with another key", same, seal.Question{Key: other.Public()}},
		{"a checkpoint that is none", at(10, forge), seal.Question{Key: key.Public()}},
	} {
		_, faults, err := seal.Verify(t.Context(), forged(t, log, c.change), c.question)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		fmt.Fprintf(&got, "## %s\n", c.name)
		for _, f := range faults {
			fmt.Fprintln(&got, f)
		}
		fmt.Fprintln(&got)
	}
	text := strings.NewReplacer(seal.KeyID(key.Public()), "KEY", seal.KeyID(other.Public()), "OTHER").Replace(got.String())
	text = digests(text)
	if *update {
		if err := os.WriteFile("testdata/verdicts.golden", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/verdicts.golden")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(text, "\n")); diff != "" {
		t.Errorf("the verdicts differ (-want +got); run the test with -update and read the difference:\n%s", diff)
	}
}

// digests gives digests, which depend on the key, names in the order of their coming.
func digests(text string) string {
	words := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' || r == '\n' || r == ':' })
	names := make(map[string]string)
	for _, w := range words {
		var d eventstore.Digest
		if d.UnmarshalText([]byte(w)) == nil && names[w] == "" {
			names[w] = fmt.Sprintf("D%d", len(names)+1)
			text = strings.ReplaceAll(text, w, names[w])
		}
	}
	return text
}

func TestKeyIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.key")
	key, err := seal.EnsureKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
	again, err := seal.EnsureKey(path)
	if err != nil || !again.Public().Equal(key.Public()) {
		t.Errorf("the second time: another key, or %v", err)
	}
	public, err := seal.ReadPublicKey(seal.PublicPath(path))
	if err != nil || !public.Equal(key.Public()) {
		t.Errorf("the public key: %v", err)
	}
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.EnsureKey(path); err == nil || !strings.Contains(err.Error(), "put back") {
		t.Errorf("a damaged key: %v", err)
	}
}

func TestParseExpected(t *testing.T) {
	want := seal.Expected{Position: 12, Digest: eventstore.Digest{1, 2}}
	if got, err := seal.ParseExpected(want.String()); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, s := range []string{"", "12", "12:", "x:" + want.Digest.String(), "12:12", "-1:" + want.Digest.String()} {
		if _, err := seal.ParseExpected(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}
