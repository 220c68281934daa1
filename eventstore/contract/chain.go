package contract

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shiplog/shiplog/eventstore"
)

// chainTests are for logs that are eventstore.Chained. Each gets two, both empty.
var chainTests = []struct {
	name string
	run  func(ctx context.Context, t *testing.T, log, other eventstore.Chained)
}{
	{"every event has an entry, and each is the link of the one ahead", func(ctx context.Context, t *testing.T, log, _ eventstore.Chained) {
		history(ctx, t, log)
		all := everything(ctx, t, log)
		entries := mustEntries(ctx, t, log)
		var previous eventstore.Digest
		held := make(map[eventstore.Position]eventstore.Entry)
		for i, e := range entries {
			if i > 0 && e.Position <= entries[i-1].Position {
				t.Fatalf("the entry at %d comes after that at %d", e.Position, entries[i-1].Position)
			}
			if want := e.ContentDigest(); !e.Scavenged && e.Content != want {
				t.Errorf("position %d: the content's digest is %s, want %s", e.Position, e.Content, want)
			}
			if want := eventstore.Link(previous, &e); e.Digest != want {
				t.Errorf("position %d: the digest is %s, want %s", e.Position, e.Digest, want)
			}
			if at, err := log.DigestAt(ctx, e.Position); err != nil || at != e.Digest {
				t.Errorf("position %d: DigestAt says %s, %v, want %s", e.Position, at, err, e.Digest)
			}
			previous, held[e.Position] = e.Digest, e
		}
		for i := range all {
			if e, ok := held[all[i].Position]; !ok || !same(&e.Recorded, &all[i]) {
				t.Errorf("position %d: the entry is %+v, the event %+v", all[i].Position, e.Recorded, all[i])
			}
		}
		if at, err := log.DigestAt(ctx, 0); err != nil || at != (eventstore.Digest{}) {
			t.Errorf("before the first event the digest is %s, %v", at, err)
		}
		if at, err := log.DigestAt(ctx, entries[len(entries)-1].Position+1000); err != nil || at != previous {
			t.Errorf("beyond the head the digest is %s, %v, want %s", at, err, previous)
		}
	}},
	{"entries are read between any positions", func(ctx context.Context, t *testing.T, log, _ eventstore.Chained) {
		history(ctx, t, log)
		all := mustEntries(ctx, t, log)
		for _, c := range [][2]int{{0, 0}, {0, len(all) - 1}, {3, 7}, {len(all) - 1, len(all) - 1}} {
			want := all[c[0] : c[1]+1]
			got, err := collectEntries(log.Entries(ctx, want[0].Position, want[len(want)-1].Position))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("entries %v differ (-want +got):\n%s", c, diff)
			}
		}
	}},
	{"a log that was imported is the same log", func(ctx context.Context, t *testing.T, log, other eventstore.Chained) {
		history(ctx, t, log)
		all := mustEntries(ctx, t, log)
		for part := range slices.Chunk(all, 5) {
			if err := other.Import(ctx, part...); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(all, mustEntries(ctx, t, other)); diff != "" {
			t.Errorf("entries differ (-from +to):\n%s", diff)
		}
		if diff := cmp.Diff(everything(ctx, t, log), everything(ctx, t, other)); diff != "" {
			t.Errorf("events differ (-from +to):\n%s", diff)
		}
		// What the metadata and tombstones among them say counts, and the streams go on.
		wantRevisions(t, mustCollect(t, other.ReadStream(ctx, "bounded", eventstore.ReadStream{})), 3, 4)
		_, err := other.Append(ctx, "buried", eventstore.Any, event("A", ""))
		wantErr(t, err, eventstore.ErrStreamDeleted)
		_, err = other.Append(ctx, "s-0", eventstore.NoStream, event("A", ""))
		wantErr(t, err, eventstore.ErrWrongExpectedRevision)
		a := mustAppend(ctx, t, other, "s-0", eventstore.StreamExists, event("A", ""))
		if a.Position <= all[len(all)-1].Position {
			t.Errorf("got %+v after an import up to %d", a, all[len(all)-1].Position)
		}
	}},
	{"an import that does not continue the chain changes nothing", func(ctx context.Context, t *testing.T, log, other eventstore.Chained) {
		history(ctx, t, log)
		all := mustEntries(ctx, t, log)
		if err := other.Import(ctx, all[:4]...); err != nil {
			t.Fatal(err)
		}
		before := mustEntries(ctx, t, other)
		changed := slices.Clone(all[4:7])
		changed[1].Data = []byte(`"not what was written"`)
		for name, entries := range map[string][]eventstore.Entry{
			"again":               all[2:4],
			"with a hole":         all[5:7],
			"with other contents": changed,
			"in disorder":         {all[5], all[4]},
		} {
			if err := other.Import(ctx, entries...); err == nil {
				t.Errorf("an import %s went through", name)
			}
			if diff := cmp.Diff(before, mustEntries(ctx, t, other)); diff != "" {
				t.Errorf("an import %s changed the log (-before +after):\n%s", name, diff)
			}
		}
		if err := other.Import(ctx, all[4:]...); err != nil {
			t.Errorf("after those that were refused: %v", err)
		}
	}},
	{"entries, digests and imports end with their context", func(ctx context.Context, t *testing.T, log, _ eventstore.Chained) {
		history(ctx, t, log)
		all := mustEntries(ctx, t, log)
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		_, err := collectEntries(log.Entries(cancelled, 1, 1000))
		wantErr(t, err, context.Canceled)
		_, err = log.DigestAt(cancelled, 1)
		wantErr(t, err, context.Canceled)
		wantErr(t, log.Import(cancelled, all[0]), context.Canceled)
	}},
}

func runChain(t *testing.T, open func(t *testing.T) eventstore.Log) {
	for _, test := range chainTests {
		log, chained := open(t).(eventstore.Chained)
		if !chained {
			return
		}
		other := open(t).(eventstore.Chained)
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			test.run(ctx, t, log, other)
		})
	}
}

// history gives a log something of everything.
func history(ctx context.Context, t *testing.T, log eventstore.Log) {
	t.Helper()
	for i := range 6 {
		mustAppend(ctx, t, log, fmt.Sprintf("s-%d", i%3), eventstore.Any, events(1+i%3)...)
	}
	mustSetMetadata(ctx, t, log, "bounded", eventstore.Metadata{MaxCount: 2})
	mustAppend(ctx, t, log, "bounded", eventstore.Any, events(5)...)
	mustAppend(ctx, t, log, "buried", eventstore.Any, events(2)...)
	if err := log.Tombstone(ctx, "buried", eventstore.Any); err != nil {
		t.Fatal(err)
	}
	mustAppend(ctx, t, log, "s-0", eventstore.Any, eventstore.Proposed{ID: event("", "").ID, Type: "Binary", ContentType: "application/octet-stream", Data: []byte{0, 0xff}, Metadata: []byte("m")})
}

func collectEntries(entries func(func(eventstore.Entry, error) bool)) ([]eventstore.Entry, error) {
	var out []eventstore.Entry
	for e, err := range entries {
		if err != nil {
			return out, err
		}
		out = append(out, e)
	}
	return out, nil
}

// mustEntries reads all entries of a log.
func mustEntries(ctx context.Context, t *testing.T, log eventstore.Chained) []eventstore.Entry {
	t.Helper()
	head, err := log.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out, err := collectEntries(log.Entries(ctx, 1, head+100))
	if err != nil {
		t.Fatalf("reading entries: %v", err)
	}
	return out
}
