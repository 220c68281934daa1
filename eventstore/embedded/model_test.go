package embedded_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// model is a log as simple as can be: a slice. The log must answer like it, whatever happens to it.
type model struct {
	events   []eventstore.Recorded        // all that were ever recorded, in order; what is imported leaves gaps between positions
	removed  map[eventstore.Position]bool // by scavenging: they do not come back when retention is relaxed
	imported map[eventstore.Position]bool // as a trace: nobody could ever read it
	now      time.Time
	sub      eventstore.Subscription
	seen     eventstore.Position     // by sub
	appended [][]eventstore.Proposed // to be repeated
	where    []string
	expected []eventstore.Expected
}

func (m *model) of(stream string) (out []eventstore.Recorded) {
	for _, e := range m.events {
		if e.Stream == stream {
			out = append(out, e)
		}
	}
	return out
}

func (m *model) last(stream string) int64 {
	if events := m.of(stream); len(events) > 0 {
		return int64(min(events[len(events)-1].Revision, eventstore.TombstoneRevision))
	}
	return -1
}

func (m *model) metadata(stream string) eventstore.Metadata {
	var out eventstore.Metadata
	if events := m.of("$$" + stream); len(events) > 0 {
		if err := out.UnmarshalJSON(events[len(events)-1].Data); err != nil {
			panic(err)
		}
	}
	return out
}

func (m *model) tombstoned(stream string) bool {
	base, _ := eventstore.MetadataOf(stream)
	return m.last(stream) == eventstore.TombstoneRevision || m.last(base) == eventstore.TombstoneRevision
}

func (m *model) exists(stream string) bool {
	return m.last(stream) >= 0 && m.metadata(stream).TruncateBefore != eventstore.DeletedTruncateBefore
}

func (m *model) visible(e eventstore.Recorded) bool {
	last := m.last(e.Stream)
	if m.removed[e.Position] {
		return false
	}
	if e.Revision == eventstore.TombstoneRevision {
		return true
	}
	if last == eventstore.TombstoneRevision {
		return false
	}
	meta := m.metadata(e.Stream)
	if _, isMeta := eventstore.MetadataOf(e.Stream); isMeta {
		meta = eventstore.Metadata{MaxCount: 1}
	}
	return e.Revision >= meta.TruncateBefore &&
		(meta.MaxCount == 0 || int64(e.Revision) > last-int64(meta.MaxCount)) &&
		(meta.MaxAge == 0 || !e.Created.Before(m.now.Add(-meta.MaxAge)))
}

func (m *model) read(admit func(eventstore.Recorded) bool) (out []eventstore.Recorded) {
	for _, e := range m.events {
		if admit(e) && m.visible(e) {
			out = append(out, e)
		}
	}
	return out
}

func (m *model) add(stream string, revision uint64, p eventstore.Proposed) {
	p.ContentType = "application/json"
	m.events = append(m.events, eventstore.Recorded{
		Proposed: p, Stream: stream, Revision: revision, Position: m.head() + 1, Created: m.now,
	})
}

func (m *model) append(stream string, expected eventstore.Expected, events []eventstore.Proposed) error {
	switch last := m.last(stream); {
	case m.tombstoned(stream):
		return eventstore.ErrStreamDeleted
	case expected == eventstore.Any,
		expected == eventstore.NoStream && !m.exists(stream),
		expected == eventstore.StreamExists && m.exists(stream),
		expected >= 0 && int64(expected) == last:
	default:
		return eventstore.ErrWrongExpectedRevision
	}
	if meta := m.metadata(stream); meta.TruncateBefore == eventstore.DeletedTruncateBefore {
		meta.TruncateBefore = uint64(m.last(stream) + 1)
		m.setMetadata(stream, meta)
	}
	for _, p := range events {
		m.add(stream, uint64(m.last(stream)+1), p)
	}
	return nil
}

func (m *model) setMetadata(stream string, meta eventstore.Metadata) {
	data, err := meta.MarshalJSON()
	if err != nil {
		panic(err)
	}
	m.add("$$"+stream, uint64(m.last("$$"+stream)+1), eventstore.Proposed{Type: "$metadata", Data: data})
}

var modelStreams = []string{"a", "b", "pods-x/y"}

func drawStream(t *rapid.T) string { return rapid.SampledFrom(modelStreams).Draw(t, "stream") }

func (m *model) drawExpected(t *rapid.T, stream string) eventstore.Expected {
	return rapid.SampledFrom([]eventstore.Expected{
		eventstore.Any, eventstore.Any, eventstore.NoStream, eventstore.StreamExists, eventstore.Expected(max(m.last(stream), 0)), eventstore.Expected(max(m.last(stream)-1, 0)),
	}).Draw(t, "expected")
}

// The ids of system events are the log's own, so they are not compared.
var comparable = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".ID" }, cmp.Ignore()),
}

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{removed: make(map[eventstore.Position]bool), imported: make(map[eventstore.Position]bool), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
		opts := embedded.Options{
			FS: vfs.NewMem(), Logger: quiet(), Now: func() time.Time { return m.now }, ScavengeEvery: -1,
			TailEvents: rapid.SampledFrom([]int{1, 8, 1000}).Draw(t, "tail"), CachedStreams: rapid.SampledFrom([]int{1, 100}).Draw(t, "cache"),
		}
		log, err := embedded.Open("log", opts)
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		same := func(what string, got, want error) {
			t.Helper()
			if (got == nil) != (want == nil) || want != nil && !errors.Is(got, want) {
				t.Fatalf("%s: got %v, want %v", what, got, want)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				stream := drawStream(t)
				expected := m.drawExpected(t, stream)
				events := make([]eventstore.Proposed, rapid.IntRange(1, 4).Draw(t, "n"))
				for i := range events {
					events[i] = eventstore.Proposed{ID: uuid.New(), Type: fmt.Sprint("T", len(m.events)%3), Data: fmt.Appendf(nil, "%d.%d", len(m.events), i)}
				}
				_, err := log.Append(ctx, stream, expected, events...)
				want := m.append(stream, expected, events)
				if same("append", err, want); want == nil {
					m.appended, m.where, m.expected = append(m.appended, events), append(m.where, stream), append(m.expected, expected)
				}
			},
			"repeat": func(t *rapid.T) {
				if len(m.appended) == 0 {
					return
				}
				i := rapid.IntRange(0, len(m.appended)-1).Draw(t, "which")
				if m.expected[i] < 0 || m.tombstoned(m.where[i]) {
					return // with anything but a revision it is best effort only
				}
				present := false
				for _, e := range m.events {
					present = present || e.ID == m.appended[i][0].ID && m.visible(e)
				}
				if _, err := log.Append(ctx, m.where[i], m.expected[i], m.appended[i]...); present && err != nil {
					t.Fatalf("repeating an append: %v", err)
				}
			},
			"metadata": func(t *rapid.T) {
				stream := drawStream(t)
				meta := eventstore.Metadata{
					MaxCount:       rapid.Uint64Range(0, 4).Draw(t, "count"),
					MaxAge:         time.Duration(rapid.IntRange(0, 5).Draw(t, "age")) * time.Second,
					TruncateBefore: rapid.Uint64Range(0, 8).Draw(t, "tb"),
				}
				err := log.SetMetadata(ctx, stream, eventstore.Any, meta)
				if m.tombstoned(stream) {
					same("metadata", err, eventstore.ErrStreamDeleted)
					return
				}
				same("metadata", err, nil)
				m.setMetadata(stream, meta)
			},
			"delete": func(t *rapid.T) {
				stream := drawStream(t)
				err := log.Delete(ctx, stream, eventstore.Any)
				if m.tombstoned(stream) {
					same("delete", err, eventstore.ErrStreamDeleted)
					return
				}
				if same("delete", err, nil); m.exists(stream) {
					meta := m.metadata(stream)
					meta.TruncateBefore = eventstore.DeletedTruncateBefore
					m.setMetadata(stream, meta)
				}
			},
			"tombstone": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "rarely") > 0 {
					return
				}
				stream := drawStream(t)
				err := log.Tombstone(ctx, stream, eventstore.Any)
				if m.tombstoned(stream) {
					same("tombstone", err, eventstore.ErrStreamDeleted)
					return
				}
				same("tombstone", err, nil)
				m.add(stream, eventstore.TombstoneRevision, eventstore.Proposed{Type: eventstore.TombstoneType})
			},
			"time passes": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			},
			"scavenge": func(t *rapid.T) {
				want := 0
				for _, e := range m.events {
					if !m.removed[e.Position] && !m.visible(e) {
						want++
						defer func() { m.removed[e.Position] = true }()
					}
				}
				if got, err := log.Scavenge(ctx); err != nil || got != want {
					t.Fatalf("scavenging removed %d events, %v, want %d", got, err, want)
				}
			},
			"reopen": func(t *rapid.T) {
				if err := log.Close(); err != nil {
					t.Fatal(err)
				}
				if log, err = embedded.Open("log", opts); err != nil {
					t.Fatal(err)
				}
				m.sub = nil
			},
			"import": func(t *rapid.T) { m.importSome(t, log) },
			"":       func(t *rapid.T) { m.check(t, log) },
		})
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// check reads in every way, and compares.
func (m *model) check(t *rapid.T, log *embedded.Log) {
	equal := func(what string, want, got []eventstore.Recorded) {
		t.Helper()
		if diff := cmp.Diff(want, got, comparable); diff != "" {
			t.Fatalf("%s differs (-model +log):\n%s", what, diff)
		}
	}
	if head, err := log.Head(t.Context()); err != nil || head != m.head() {
		t.Fatalf("head: got %d, %v, want %d", head, err, m.head())
	}
	filter := eventstore.Filter{System: rapid.Bool().Draw(t, "system")}
	if rapid.Bool().Draw(t, "filtered") {
		filter.StreamPrefixes = []string{drawStream(t)[:1], "$$p"}
	}
	admit := func(e eventstore.Recorded) bool { return filter.Admits(e.Stream, e.Type) }
	want := m.read(admit)
	var got, back []eventstore.Recorded
	for e, err := range log.ReadAll(t.Context(), eventstore.ReadAll{Filter: filter}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	equal("everything", want, got)
	for e, err := range log.ReadAll(t.Context(), eventstore.ReadAll{Filter: filter, Direction: eventstore.Backwards, FromEnd: true}) {
		if err != nil {
			t.Fatal(err)
		}
		back = append([]eventstore.Recorded{e}, back...)
	}
	equal("everything backwards", want, back)

	sub, err := log.Subscribe(t.Context(), eventstore.Subscribe{Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	got = nil
	for caughtUp := false; !caughtUp; {
		b, err := sub.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, caughtUp = append(got, b.Events...), b.CaughtUp
	}
	equal("a subscription", want, got)
	m.checkFollower(t, log)
	m.checkEntries(t, log)
	m.checkReads(t, log, equal)

	stream := rapid.SampledFrom([]string{"", "$$"}).Draw(t, "of") + drawStream(t)
	want = m.read(func(e eventstore.Recorded) bool { return e.Stream == stream })
	got = nil
	for e, rerr := range log.ReadStream(t.Context(), stream, eventstore.ReadStream{}) {
		if err = rerr; err != nil {
			break
		}
		got = append(got, e)
	}
	switch {
	case m.tombstoned(stream):
		if !errors.Is(err, eventstore.ErrStreamDeleted) {
			t.Fatalf("a tombstoned stream: got %v", err)
		}
	case !m.exists(stream):
		if !errors.Is(err, eventstore.ErrStreamNotFound) {
			t.Fatalf("a stream that does not exist: got %v", err)
		}
	case err != nil:
		t.Fatal(err)
	default:
		equal("stream "+stream, want, got)
	}
}
