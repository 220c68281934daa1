package embedded

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

var update = flag.Bool("update", false, "write the golden files anew")

func verifyOptions(fs vfs.FS) Options {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return Options{FS: fs, Logger: slog.New(slog.DiscardHandler), ScavengeEvery: -1, Now: func() time.Time { return now }}
}

// verified returns the disk of a log in which everything occurs that can be tampered with:
//
//	1-12   s-0, s-1 and s-2 in turns
//	13-18  "counted", of which 3 are kept: 13-15 are traces, as is 19, its first metadata
//	21     "aged", and its metadata
//	101    imported: 23-100 are free
func verified(t *testing.T) vfs.FS {
	t.Helper()
	disk := vfs.NewMem()
	l, err := Open("log", verifyOptions(disk))
	if err != nil {
		t.Fatal(err)
	}
	id := byte(0)
	add := func(stream string) {
		id++
		if _, err := l.Append(t.Context(), stream, eventstore.Any, eventstore.Proposed{ID: uuid.UUID{id}, Type: "T", Data: fmt.Appendf(nil, "data %d", id)}); err != nil {
			t.Fatal(err)
		}
	}
	keep := func(stream string, m eventstore.Metadata) {
		if err := l.SetMetadata(t.Context(), stream, eventstore.Any, m); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 12 {
		add(fmt.Sprint("s-", i%3))
	}
	for range 6 {
		add("counted")
	}
	keep("counted", eventstore.Metadata{MaxCount: 3})
	if n, err := l.Scavenge(t.Context()); err != nil || n != 3 {
		t.Fatalf("scavenged %d, %v", n, err)
	}
	keep("counted", eventstore.Metadata{MaxCount: 5}) // it would not have allowed it
	if n, err := l.Scavenge(t.Context()); err != nil || n != 1 {
		t.Fatalf("scavenged %d, %v", n, err)
	}
	add("aged")
	keep("aged", eventstore.Metadata{MaxAge: time.Hour})
	entry := eventstore.Entry{Recorded: eventstore.Recorded{
		Proposed: eventstore.Proposed{ID: uuid.UUID{99}, Type: "T", Data: []byte("imported")}, Stream: "s-0", Revision: 4, Position: 101, Created: timeOf(l.lastTicks),
	}}
	if err := l.Import(t.Context(), entry); err != nil {
		t.Fatal(err)
	}
	add("s-1")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return disk
}

// tamper is somebody with a hand in the database, who knows how everything is stored.
type tamper struct {
	t  *testing.T
	db *pebble.DB
}

func (a tamper) get(key []byte) []byte {
	a.t.Helper()
	v, found, err := database{a.db}.get(key)
	if err != nil || !found {
		a.t.Fatalf("key %x: %v", key, err)
	}
	return v
}

func (a tamper) set(key, value []byte) {
	a.t.Helper()
	if err := a.db.Set(key, value, pebble.Sync); err != nil {
		a.t.Fatal(err)
	}
}

func (a tamper) remove(key []byte) {
	a.t.Helper()
	a.get(key)
	if err := a.db.Delete(key, pebble.Sync); err != nil {
		a.t.Fatal(err)
	}
}

func (a tamper) event(position eventstore.Position) envelope {
	a.t.Helper()
	e, err := openEnvelope(a.get(keyOf(eventKey, uint64(position))), position)
	if err != nil {
		a.t.Fatal(err)
	}
	return e
}

// put stores an event at a position, with the right checksum.
func (a tamper) put(position eventstore.Position, e envelope) {
	p := propose(e.proposed())
	a.set(keyOf(eventKey, uint64(position)), appendEnvelope(nil, &p, e.head, e.digest, position))
}

func (a tamper) index(e envelope, position eventstore.Position) {
	a.set(keyOf(indexKey, e.stream, e.revision), varints(uint64(position)))
}

func (a tamper) name(id uint64) string { return string(a.get(keyOf(nameKey, id))) }

// drop removes an event and its entry of the index.
func (a tamper) drop(position eventstore.Position) envelope {
	e := a.event(position)
	a.remove(keyOf(eventKey, uint64(position)))
	a.remove(keyOf(indexKey, e.stream, e.revision))
	return e
}

func (a tamper) link(ahead eventstore.Digest, h head, content eventstore.Digest, position eventstore.Position) eventstore.Digest {
	return eventstore.Link(ahead, &eventstore.Entry{
		Recorded: eventstore.Recorded{Stream: a.name(h.stream), Revision: h.revision, Position: position, Created: timeOf(h.ticks)}, Content: content,
	})
}

// relink makes the whole chain anew, so that it holds over what was done.
func (a tamper) relink() {
	a.t.Helper()
	var digest eventstore.Digest
	w, err := (&Log{db: a.db, fuse: newFuse(vfs.Default, nil)}).newEntryWalk(0, 1000)
	if err != nil {
		a.t.Fatal(err)
	}
	defer w.close()
	for ; w.valid(); w.next() {
		position := w.position()
		value, err := w.value()
		if err != nil {
			a.t.Fatal(err)
		}
		if w.isTrace() {
			t, err := openTrace(value, position)
			if err != nil {
				a.t.Fatal(err)
			}
			digest = a.link(digest, t.head, t.content, position)
			t.digest = digest
			a.set(keyOf(traceKey, uint64(position)), t.value(position))
			continue
		}
		e := a.event(position)
		digest = a.link(digest, e.head, e.content(), position)
		e.digest = digest
		a.put(position, e)
	}
}

func (a tamper) trace(position eventstore.Position) trace {
	a.t.Helper()
	t, err := openTrace(a.get(keyOf(traceKey, uint64(position))), position)
	if err != nil {
		a.t.Fatal(err)
	}
	return t
}

func (a tamper) swap(one, other eventstore.Position, index bool) {
	x, y := a.event(one), a.event(other)
	a.put(one, y)
	a.put(other, x)
	if index {
		a.index(y, one)
		a.index(x, other)
	}
}

type tampering struct {
	name string
	do   func(a tamper)
}

var tamperings = []tampering{
	{"nothing", func(tamper) {}},
	{"the content of an event changed", func(a tamper) {
		e := a.event(5)
		e.payload = []byte("forged")
		a.put(5, e)
	}},
	{"the content of an event changed, and its link made anew", func(a tamper) {
		e := a.event(5)
		e.payload = []byte("forged")
		p := propose(e.proposed())
		e.digest = a.link(a.event(4).digest, e.head, p.content, 5)
		a.put(5, e)
	}},
	{"the content of an event changed, and the whole chain made anew", func(a tamper) {
		e := a.event(5)
		e.payload = []byte("forged")
		a.put(5, e)
		a.relink()
	}},
	{"a byte flipped", func(a tamper) {
		key := keyOf(eventKey, 5)
		v := a.get(key)
		v[len(v)-1]++
		a.set(key, v)
	}},
	{"the date of an event changed", func(a tamper) {
		e := a.event(5)
		e.ticks++
		a.put(5, e)
	}},
	{"the author of an event changed", func(a tamper) {
		e := a.event(5)
		e.metadata = []byte(`{"actor":"nobody"}`)
		a.put(5, e)
	}},
	{"the digest of an event changed", func(a tamper) {
		e := a.event(5)
		e.digest[0]++
		a.put(5, e)
	}},
	{"three events changed", func(a tamper) {
		for _, position := range []eventstore.Position{2, 7, 101} {
			e := a.event(position)
			e.payload = []byte("forged")
			a.put(position, e)
		}
	}},
	{"an event removed", func(a tamper) { a.remove(keyOf(eventKey, 5)) }},
	{"an event removed with its entry of the index", func(a tamper) { a.drop(5) }},
	{"two events removed in a row with their entries of the index", func(a tamper) {
		a.drop(5)
		a.drop(6)
	}},
	{"an event removed with its entry of the index, and the whole chain made anew", func(a tamper) {
		a.drop(5)
		a.relink()
	}},
	{"an event moved to another position", func(a tamper) {
		e := a.drop(5)
		a.put(50, e)
		a.index(e, 50)
	}},
	{"two events swapped", func(a tamper) { a.swap(5, 9, false) }},
	{"two events swapped, and their entries of the index", func(a tamper) { a.swap(5, 9, true) }},
	{"two neighbours swapped, and their entries of the index", func(a tamper) { a.swap(5, 6, true) }},
	{"the contents of two events swapped", func(a tamper) {
		x, y := a.event(5), a.event(8)
		x.payload, y.payload = y.payload, x.payload
		x.id, y.id = y.id, x.id
		a.put(5, x)
		a.put(8, y)
	}},
	{"an event inserted", func(a tamper) {
		e := a.event(22)
		e.stream, e.revision, e.payload = a.event(101).stream, 3, []byte("forged")
		p := propose(e.proposed())
		e.digest = a.link(a.event(22).digest, e.head, p.content, 60)
		a.put(60, e)
	}},
	{"an event inserted into a stream that ends there", func(a tamper) {
		e := a.event(21)
		e.revision, e.payload = 1, []byte("forged")
		p := propose(e.proposed())
		e.digest = a.link(a.event(22).digest, e.head, p.content, 60)
		a.put(60, e)
		a.index(e, 60)
	}},
	{"an event inserted into a stream that ends there, and the whole chain made anew", func(a tamper) {
		e := a.event(21)
		e.revision, e.payload = 1, []byte("forged")
		a.put(60, e)
		a.index(e, 60)
		a.relink()
	}},
	{"a deletion made to look like scavenging", func(a tamper) {
		e := a.drop(1)
		t := traceOf(&e, false)
		a.set(keyOf(traceKey, 1), t.value(1))
	}},
	{"a deletion in the middle of a stream made to look like scavenging", func(a tamper) {
		e := a.drop(7)
		t := traceOf(&e, false)
		a.set(keyOf(traceKey, 7), t.value(7))
	}},
	{"one event more scavenged than was allowed", func(a tamper) {
		e := a.drop(16)
		t := traceOf(&e, false)
		a.set(keyOf(traceKey, 16), t.value(16))
	}},
	{"one event more scavenged than was allowed, and a retention forged that allows it", func(a tamper) {
		e := a.drop(16)
		t := traceOf(&e, false)
		a.set(keyOf(traceKey, 16), t.value(16))
		proof := a.trace(19)
		var m envelope
		m.openBody(proof.body)
		m.payload = []byte(`{"$maxCount":1}`)
		forged := propose(m.proposed())
		proof.body = forged.body
		a.set(keyOf(traceKey, 19), proof.value(19))
	}},
	{"a trace removed", func(a tamper) { a.remove(keyOf(traceKey, 14)) }},
	{"the content's digest in a trace changed", func(a tamper) {
		t := a.trace(14)
		t.content[0]++
		a.set(keyOf(traceKey, 14), t.value(14))
	}},
	{"a byte of a trace flipped", func(a tamper) {
		v := a.get(keyOf(traceKey, 14))
		v[40]++
		a.set(keyOf(traceKey, 14), v)
	}},
	{"a retention changed behind the log's back", func(a tamper) {
		a.set(keyOf(retentionKey, a.event(5).stream), retention{maxCount: 1}.value())
	}},
	{"a retention removed behind the log's back", func(a tamper) { a.remove(keyOf(retentionKey, a.event(21).stream)) }},
	{"an entry of the index removed", func(a tamper) { a.remove(keyOf(indexKey, a.event(5).stream, a.event(5).revision)) }},
	{"an entry of the index points elsewhere", func(a tamper) { a.index(a.event(5), 6) }},
	{"an entry of the index too many", func(a tamper) { a.set(keyOf(indexKey, a.event(5).stream, 500), varints(6)) }},
	{"an entry of the index that does not parse", func(a tamper) { a.set(keyOf(indexKey, a.event(5).stream, a.event(5).revision), nil) }},
	{"a stream with another's name", func(a tamper) { a.set(keyOf(nameKey, a.event(5).stream), []byte("s-0")) }},
}

// Whatever somebody does to the database, the verdict says it and where. What the whole chain was made anew for, only a
// signature or a digest kept elsewhere can tell: package seal.
func TestVerdicts(t *testing.T) {
	var got strings.Builder
	for _, c := range tamperings {
		fmt.Fprintf(&got, "## %s\n", c.name)
		disk := verified(t)
		db, err := pebble.Open("log/db", &pebble.Options{FS: disk, ErrorIfNotExists: true, Logger: pebbleLogger{&Log{log: slog.New(slog.DiscardHandler)}}})
		if err != nil {
			t.Fatal(err)
		}
		c.do(tamper{t, db})
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		l, err := Open("log", verifyOptions(disk))
		if err != nil {
			t.Fatal(err)
		}
		result, faults, err := l.Check(t.Context(), nil)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		fmt.Fprintf(&got, "%d events, %d scavenged, %d streams, head %d\n", result.Events, result.Scavenged, result.Streams, result.Head)
		for _, f := range faults {
			fmt.Fprintln(&got, f)
		}
		fmt.Fprintln(&got)
		if _, err := l.Verify(t.Context(), nil); (err != nil) != (len(faults) > 0) || err != nil && !errors.Is(err, eventstore.ErrCorrupt) {
			t.Errorf("%s: Verify says %v", c.name, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "testdata/verdicts.golden", got.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s differs (-want +got); run the test with -update and read the difference:\n%s", name, diff)
	}
}

// A log with thousands of faults is reported up to a bound.
func TestFaultsAreBounded(t *testing.T) {
	l, err := Open("log", verifyOptions(vfs.NewMem()))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	events := slices.Repeat([]eventstore.Proposed{{Type: "T"}}, 3000)
	if _, err := l.Append(t.Context(), "s", eventstore.Any, events...); err != nil {
		t.Fatal(err)
	}
	a := tamper{t, l.db}
	for position := eventstore.Position(1); position <= 3000; position += 2 {
		e := a.event(position)
		e.payload = []byte("forged")
		a.put(position, e)
	}
	if _, faults, err := l.Check(t.Context(), nil); err != nil || len(faults) != maxFaults {
		t.Errorf("got %d faults, %v, want %d", len(faults), err, maxFaults)
	}
}
