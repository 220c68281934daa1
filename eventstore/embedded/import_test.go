package embedded_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

func entriesOf(t testing.TB, log eventstore.Chained) (out []eventstore.Entry) {
	t.Helper()
	for e, err := range log.Entries(t.Context(), 0, math.MaxUint64) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// A log that took another's entries answers as the other does, scavenged streams, retention and ends of streams included.
func TestImportMakesACopy(t *testing.T) {
	c := newClock()
	source := open(t, "source", embedded.Options{FS: vfs.NewMem(), Now: c.Now, Logger: quiet(), ScavengeEvery: -1})
	mustAppend(t, source, "kept", 3)
	mustAppend(t, source, "counted", 5)
	mustSetMetadata(t, source, "counted", eventstore.Metadata{MaxCount: 4})
	mustSetMetadata(t, source, "counted", eventstore.Metadata{MaxCount: 2, Custom: map[string]any{"owner": "me"}})
	mustAppend(t, source, "gone", 2)
	if err := source.Delete(t.Context(), "gone", eventstore.Any); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, source, "ended", 2)
	if err := source.Tombstone(t.Context(), "ended", eventstore.Any); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, source, "aged", 2)
	mustSetMetadata(t, source, "aged", eventstore.Metadata{MaxAge: time.Hour})
	if removed, err := source.Scavenge(t.Context()); err != nil || removed != 8 {
		t.Fatalf("removed %d, %v", removed, err)
	}
	c.now = c.now.Add(time.Minute)
	mustAppend(t, source, "kept", 1)

	want := entriesOf(t, source)
	fs := vfs.NewMem()
	copied := open(t, "copy", embedded.Options{FS: fs, Now: c.Now, Logger: quiet(), ScavengeEvery: -1})
	for _, e := range want { // one by one, so that each stands on what is on disk
		if err := copied.Import(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	whole := open(t, "whole", embedded.Options{FS: vfs.NewMem(), Now: c.Now, Logger: quiet(), ScavengeEvery: -1})
	if err := whole.Import(t.Context(), want...); err != nil {
		t.Fatal(err)
	}
	for name, log := range map[string]*embedded.Log{"one by one": copied, "as a whole": whole} {
		if diff := cmp.Diff(want, entriesOf(t, log)); diff != "" {
			t.Errorf("%s: the entries differ (-source +copy):\n%s", name, diff)
		}
		for stream, want := range map[string]string{"kept": "[0 1 2 3]", "counted": "[3 4]", "gone": "not found", "aged": "[0 1]", "$$counted": "[1]"} {
			if got := revisions(t, log, stream, eventstore.ReadStream{}); got != want {
				t.Errorf("%s: stream %s has %s, want %s", name, stream, got, want)
			}
		}
		if _, err := log.Append(t.Context(), "ended", eventstore.Any, eventstore.Proposed{Type: "T"}); !errors.Is(err, eventstore.ErrStreamDeleted) {
			t.Errorf("%s: appending to a stream that has ended: %v", name, err)
		}
		if m, revision, err := log.Metadata(t.Context(), "counted"); err != nil || revision != 1 || m.MaxCount != 2 || m.Custom["owner"] != "me" {
			t.Errorf("%s: metadata %+v at %d, %v", name, m, revision, err)
		}
		if a := mustAppend(t, log, "gone", 1); a.Revision != 2 {
			t.Errorf("%s: a deleted stream goes on at revision %d", name, a.Revision)
		}
		if a := mustAppend(t, log, "counted", 1); a.Revision != 5 {
			t.Errorf("%s: a counted stream goes on at revision %d", name, a.Revision)
		}
	}
}

func mustSetMetadata(t testing.TB, log eventstore.Log, stream string, m eventstore.Metadata) {
	t.Helper()
	if err := log.SetMetadata(t.Context(), stream, eventstore.Any, m); err != nil {
		t.Fatal(err)
	}
}

func TestImportRefuses(t *testing.T) {
	good := func(position eventstore.Position, stream string, revision uint64) eventstore.Entry {
		return eventstore.Entry{Recorded: eventstore.Recorded{
			Proposed: eventstore.Proposed{ID: uuid.UUID{1}, Type: "T", Data: []byte("data")}, Stream: stream, Revision: revision, Position: position,
			Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		}}
	}
	with := func(e eventstore.Entry, change func(*eventstore.Entry)) eventstore.Entry {
		change(&e)
		return e
	}
	for name, c := range map[string]struct {
		entry eventstore.Entry
		kind  error
		says  string
	}{
		"a position that is taken":     {good(11, "other", 0), nil, "does not come after position 11"},
		"a revision that is taken":     {good(12, "s", 4), eventstore.ErrWrongExpectedRevision, "does not continue the stream"},
		"a stream that has ended":      {good(12, "ended", 0), eventstore.ErrStreamDeleted, "comes after the end"},
		"a digest that is not due":     {with(good(12, "s", 5), func(e *eventstore.Entry) { e.Digest[3] = 1 }), eventstore.ErrCorrupt, "is due"},
		"a content that was changed":   {with(good(12, "s", 5), func(e *eventstore.Entry) { e.Content[3] = 1 }), eventstore.ErrCorrupt, "it was changed"},
		"no stream":                    {good(12, "", 5), nil, "needs a name"},
		"a date that cannot be stored": {with(good(12, "s", 5), func(e *eventstore.Entry) { e.Created = time.Time{} }), nil, "before 1970"},
		"a position out of range":      {good(math.MaxUint64, "s", 5), nil, "positions above"},
		"a revision out of range":      {good(12, "s", 1<<63), nil, "revisions above"},
	} {
		t.Run(name, func(t *testing.T) {
			log := open(t, "log", embedded.Options{FS: vfs.NewMem(), Logger: quiet()})
			if err := log.Import(t.Context(), good(7, "s", 4), good(10, "ended", eventstore.TombstoneRevision)); err != nil {
				t.Fatal(err)
			}
			before := entriesOf(t, log)
			err := log.Import(t.Context(), good(11, "innocent", 0), c.entry)
			if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %v that says %q", err, c.kind, c.says)
			}
			if diff := cmp.Diff(before, entriesOf(t, log)); diff != "" {
				t.Errorf("a refused import changed the log:\n%s", diff)
			}
			if got := revisions(t, log, "innocent", eventstore.ReadStream{}); got != "not found" {
				t.Errorf("half an import: %s", got)
			}
		})
	}
}

// A repetition is recognised when its events were imported with a gap between them, of which only the later half is recent.
func TestRepetitionOfImportedEvents(t *testing.T) {
	log := open(t, "log", embedded.Options{FS: vfs.NewMem(), Logger: quiet(), TailEvents: 2})
	entry := func(position eventstore.Position, stream string, revision uint64) eventstore.Entry {
		return eventstore.Entry{Recorded: eventstore.Recorded{
			Proposed: eventstore.Proposed{ID: uuid.UUID{1, 2, byte(position)}, Type: "T"}, Stream: stream, Revision: revision, Position: position, Created: time.Unix(1, 0),
		}}
	}
	first, second := entry(10, "s", 0), entry(20, "s", 1)
	if err := log.Import(t.Context(), first, second, entry(30, "other", 0)); err != nil {
		t.Fatal(err)
	}
	a, err := log.Append(t.Context(), "s", eventstore.Any, first.Proposed, second.Proposed)
	if err != nil || a != (eventstore.Appended{Position: 20, Revision: 1}) {
		t.Errorf("got %+v, %v", a, err)
	}
}

// Imported dates may go back. A moment is found all the same: just ahead of the first event after it.
func TestMomentsAmongDatesThatGoBack(t *testing.T) {
	at := func(second int) time.Time { return time.Unix(1_000_000+int64(second), 0) }
	log := open(t, "log", embedded.Options{FS: vfs.NewMem(), Logger: quiet(), Now: func() time.Time { return at(0) }})
	var entries []eventstore.Entry
	for i := range 2000 {
		second := i
		if i%100 > 90 {
			second -= 500
		}
		entries = append(entries, eventstore.Entry{Recorded: eventstore.Recorded{
			Proposed: eventstore.Proposed{Type: "T"}, Stream: fmt.Sprint("s", i%7), Revision: uint64(i / 7), Position: eventstore.Position(1000 + 10*i), Created: at(max(second, 0)),
		}})
	}
	if err := log.Import(t.Context(), entries...); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, log, "now", 1) // dated no earlier than the latest of those
	for _, second := range []int{0, 1, 89, 90, 91, 500, 1234, 1990, 1999, 3000} {
		var want eventstore.Position
		for _, e := range entriesOf(t, log) {
			if e.Created.After(at(second)) {
				break
			}
			want = e.Position
		}
		if got, err := log.PositionAt(t.Context(), at(second)); err != nil || got != want {
			t.Errorf("second %d: got %d, %v, want %d", second, got, err, want)
		}
	}
	all := entriesOf(t, log)
	if last := all[len(all)-1]; !last.Created.Equal(at(1990)) {
		t.Errorf("the next event is dated %s, want %s", last.Created, at(1990))
	}
}
