package embedded_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// clock is a clock that a test sets.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) Now() time.Time { return c.now }

func mustAppend(t testing.TB, log eventstore.Log, stream string, n int) eventstore.Appended {
	t.Helper()
	events := make([]eventstore.Proposed, n)
	for i := range events {
		events[i] = eventstore.Proposed{Type: "Counted", Data: []byte(fmt.Sprint(i))}
	}
	a, err := log.Append(t.Context(), stream, eventstore.Any, events...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func revisions(t testing.TB, log eventstore.Log, stream string, opts eventstore.ReadStream) string {
	t.Helper()
	var out []uint64
	for e, err := range log.ReadStream(t.Context(), stream, opts) {
		if errors.Is(err, eventstore.ErrStreamNotFound) {
			return "not found"
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e.Revision)
	}
	return fmt.Sprint(out)
}

func TestAgeMakesEventsExpire(t *testing.T) {
	c := newClock()
	log := open(t, "log", embedded.Options{FS: vfs.NewMem(), Now: c.Now, Logger: quiet()})
	for range 5 {
		mustAppend(t, log, "s", 1)
		c.now = c.now.Add(time.Minute)
	}
	if err := log.SetMetadata(t.Context(), "s", eventstore.Any, eventstore.Metadata{MaxAge: 150 * time.Second}); err != nil {
		t.Fatal(err)
	}
	back := eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true}
	for _, want := range [][2]string{{"[3 4]", "[4 3]"}, {"[4]", "[4]"}, {"[]", "[]"}} {
		if got := revisions(t, log, "s", eventstore.ReadStream{}); got != want[0] {
			t.Errorf("at %s: got %s, want %s", c.now, got, want[0])
		}
		if got := revisions(t, log, "s", back); got != want[1] {
			t.Errorf("at %s backwards: got %s, want %s", c.now, got, want[1])
		}
		c.now = c.now.Add(time.Minute)
	}
	if a := mustAppend(t, log, "s", 1); a.Revision != 5 {
		t.Errorf("got %+v", a)
	}
	if got := revisions(t, log, "s", eventstore.ReadStream{}); got != "[5]" {
		t.Errorf("got %s", got)
	}
}

// What the scavenger removes was not to be read before; positions and revisions go on after it, also over a restart.
func TestScavenging(t *testing.T) {
	c, fs := newClock(), vfs.NewMem()
	opts := embedded.Options{FS: fs, Now: c.Now, Logger: quiet(), TailEvents: 1}
	log, err := embedded.Open("log", opts)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, log, "kept", 1000)
	mustAppend(t, log, "counted", 1000)
	mustAppend(t, log, "deleted", 10)
	mustAppend(t, log, "buried", 10)
	mustAppend(t, log, "aged", 10)
	for stream, m := range map[string]eventstore.Metadata{"counted": {MaxCount: 3}, "aged": {MaxAge: time.Second}} {
		for range 3 { // older metadata expires as well
			if err := log.SetMetadata(t.Context(), stream, eventstore.Any, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(log.Delete(t.Context(), "deleted", eventstore.Any), log.Tombstone(t.Context(), "buried", eventstore.Any)); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, log, "aged", 1) // the last event of all
	head, err := log.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.now = c.now.Add(time.Minute)
	before := readAll(t, log)
	removed, err := log.Scavenge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := 997 + 10 + 10 + 11 + 2 + 2; removed != want {
		t.Errorf("removed %d events, want %d", removed, want)
	}
	for range 2 { // now, and after a restart
		after := readAll(t, log)
		if len(after) != len(before) {
			t.Errorf("read %d events, want the same %d as before", len(after), len(before))
		}
		for stream, want := range map[string]string{"counted": "[997 998 999]", "aged": "[]", "deleted": "not found"} {
			if got := revisions(t, log, stream, eventstore.ReadStream{}); got != want {
				t.Errorf("%s: got %s, want %s", stream, got, want)
			}
		}
		if got, err := log.Head(t.Context()); err != nil || got != head {
			t.Errorf("head: got %d, %v, want %d", got, err, head)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		if log, err = embedded.Open("log", opts); err != nil {
			t.Fatal(err)
		}
	}
	defer log.Close()
	if a := mustAppend(t, log, "aged", 1); a.Revision != 11 || a.Position != head+1 {
		t.Errorf("got %+v after revision 10 and position %d", a, head)
	}
	if a := mustAppend(t, log, "deleted", 1); a.Revision != 10 {
		t.Errorf("got %+v after revision 9", a)
	}
	if removed, err := log.Scavenge(t.Context()); err != nil || removed != 1 { // the metadata that marked the deletion
		t.Errorf("scavenging again removed %d, %v", removed, err)
	}
}

func TestPositionAt(t *testing.T) {
	c := newClock()
	log := open(t, "log", embedded.Options{FS: vfs.NewMem(), Now: c.Now, Logger: quiet()})
	start := c.now
	if got, err := log.PositionAt(t.Context(), start); err != nil || got != 0 {
		t.Fatalf("in an empty log: got %d, %v", got, err)
	}
	const minutes = 1000
	for range minutes { // position 2n+1 and 2n+2 at minute n
		mustAppend(t, log, "s", 2)
		c.now = c.now.Add(time.Minute)
	}
	for _, indexed := range []eventstore.Log{log, struct{ eventstore.Log }{log}} { // with the index, and without
		for _, minute := range []int{0, 1, 127, 128, 129, 500, minutes - 1, minutes + 5} {
			want := eventstore.Position(min(2*minute+2, 2*minutes))
			at := start.Add(time.Duration(minute) * time.Minute)
			for _, offset := range []time.Duration{0, time.Second} {
				if got, err := eventstore.PositionAt(t.Context(), indexed, at.Add(offset)); err != nil || got != want {
					t.Errorf("minute %d: got %d, %v, want %d", minute, got, err, want)
				}
			}
			if got, err := eventstore.PositionAt(t.Context(), indexed, at.Add(-time.Second)); minute < minutes && (err != nil || got != want-2) {
				t.Errorf("before minute %d: got %d, %v, want %d", minute, got, err, want-2)
			}
		}
		if got, err := eventstore.PositionAt(t.Context(), indexed, time.Time{}); err != nil || got != 0 {
			t.Errorf("at the beginning of time: got %d, %v", got, err)
		}
	}
}

// A clock that is set back does not set dates back.
func TestDatesDoNotRunBackwards(t *testing.T) {
	c, fs := newClock(), vfs.NewMem()
	first := c.now
	for range 3 {
		log, err := embedded.Open("log", embedded.Options{FS: fs, Now: c.Now, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, log, "s", 1)
		c.now = c.now.Add(-time.Hour)
		mustAppend(t, log, "s", 1)
		for _, e := range readAll(t, log) {
			if !e.Created.Equal(first) {
				t.Errorf("revision %d was created at %s, want %s", e.Revision, e.Created, first)
			}
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
