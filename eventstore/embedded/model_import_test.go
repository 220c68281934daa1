package embedded_test

import (
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

func (m *model) head() eventstore.Position {
	if len(m.events) == 0 {
		return 0
	}
	return m.events[len(m.events)-1].Position
}

// importSome imports entries as another log could have them: with gaps between positions and, after what was scavenged without a
// trace, between revisions; with traces, metadata and tombstones among them.
func (m *model) importSome(t *rapid.T, log *embedded.Log) {
	digest, err := log.DigestAt(t.Context(), math.MaxUint64)
	if err != nil {
		t.Fatal(err)
	}
	known := rapid.Bool().Draw(t, "with digests")
	var entries []eventstore.Entry
	for range rapid.IntRange(1, 6).Draw(t, "entries") {
		stream := drawStream(t)
		if m.tombstoned(stream) {
			continue
		}
		p := eventstore.Proposed{ID: uuid.New(), Type: fmt.Sprint("T", len(m.events)%3), Data: fmt.Appendf(nil, "%d", len(m.events))}
		kind := rapid.SampledFrom([]string{"event", "event", "event", "trace", "metadata", "tombstone"}).Draw(t, "kind")
		if kind == "metadata" {
			stream = "$$" + stream
			data, err := eventstore.Metadata{
				MaxCount: rapid.Uint64Range(0, 4).Draw(t, "count"), MaxAge: time.Duration(rapid.IntRange(0, 5).Draw(t, "age")) * time.Second,
			}.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			p.Type, p.Data = eventstore.MetadataType, data
		}
		revision := uint64(m.last(stream)+1) + rapid.SampledFrom([]uint64{0, 0, 0, 1, 7}).Draw(t, "revisions left out")
		if kind == "tombstone" {
			if rapid.IntRange(0, 5).Draw(t, "rarely") > 0 {
				continue
			}
			revision, p.Type = eventstore.TombstoneRevision, eventstore.TombstoneType
		}
		m.add(stream, revision, p)
		event := &m.events[len(m.events)-1]
		event.Position += rapid.SampledFrom([]eventstore.Position{0, 0, 1, 2, 50, 300, 100_000, 1 << 40}).Draw(t, "gap")
		e := eventstore.Entry{Recorded: *event, Content: event.ContentDigest()}
		if kind == "trace" {
			e.Scavenged, e.Proposed = true, eventstore.Proposed{}
			m.removed[e.Position], m.imported[e.Position] = true, true
		}
		digest = eventstore.Link(digest, &e)
		if known {
			e.Digest = digest
		}
		entries = append(entries, e)
	}
	if err := log.Import(t.Context(), entries...); err != nil {
		t.Fatalf("importing: %v", err)
	}
}

// checkFollower goes on with a subscription that lives as long as the log is open.
func (m *model) checkFollower(t *rapid.T, log *embedded.Log) {
	if m.sub == nil {
		var err error
		if m.sub, err = log.Subscribe(t.Context(), eventstore.Subscribe{After: m.seen, Filter: eventstore.Filter{System: true}}); err != nil {
			t.Fatal(err)
		}
	}
	got := make(map[eventstore.Position]bool)
	from := m.seen
	for m.seen < m.head() {
		b, err := m.sub.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range b.Events {
			if e.Position <= m.seen || e.Position > b.Checkpoint || got[e.Position] || m.imported[e.Position] {
				t.Fatalf("the follower got position %d after %d, up to checkpoint %d", e.Position, m.seen, b.Checkpoint)
			}
			m.seen, got[e.Position] = e.Position, true
		}
		if b.Checkpoint < m.seen {
			t.Fatalf("checkpoint %d after position %d", b.Checkpoint, m.seen)
		}
		m.seen = b.Checkpoint
	}
	for _, e := range m.events {
		if e.Position > from && m.visible(e) && !got[e.Position] {
			t.Fatalf("the follower, at %d, did not get position %d", from, e.Position)
		}
		delete(got, e.Position)
	}
	if len(got) > 0 {
		t.Fatalf("the follower got events at positions %v, where there are none", got)
	}
}

// checkEntries makes sure that the log's entries are all that ever was recorded, and that its hash chain holds.
func (m *model) checkEntries(t *rapid.T, log *embedded.Log) {
	var digest eventstore.Digest
	digests := []eventstore.Digest{digest}
	i := 0
	for e, err := range log.Entries(t.Context(), 0, math.MaxUint64) {
		if err != nil {
			t.Fatal(err)
		}
		if i == len(m.events) {
			t.Fatalf("an entry too many: %+v", e)
		}
		want := m.events[i]
		if e.Position != want.Position || e.Stream != want.Stream || e.Revision != want.Revision || !e.Created.Equal(want.Created) || e.Scavenged != m.removed[e.Position] {
			t.Fatalf("entry %d: got %+v, want %+v", i, e, want)
		}
		if want.ID = e.ID; !e.Scavenged && e.Content != want.ContentDigest() {
			t.Fatalf("entry %d: its content has another digest", i)
		}
		if digest = eventstore.Link(digest, &e); digest != e.Digest {
			t.Fatalf("entry %d breaks the chain", i)
		}
		digests = append(digests, digest)
		i++
	}
	if i != len(m.events) {
		t.Fatalf("%d entries, want %d", i, len(m.events))
	}
	at := eventstore.Position(rapid.Uint64Range(0, uint64(m.head())+2).Draw(t, "digest at"))
	for i = 0; i < len(m.events) && m.events[i].Position <= at; i++ {
	}
	if got, err := log.DigestAt(t.Context(), at); err != nil || got != digests[i] {
		t.Fatalf("digest at %d: got %s, %v, want %s", at, got, err, digests[i])
	}
}

// checkReads reads everything from and to somewhere in the middle, and looks up a moment.
func (m *model) checkReads(t *rapid.T, log *embedded.Log, equal func(string, []eventstore.Recorded, []eventstore.Recorded)) {
	if len(m.events) == 0 {
		return
	}
	pivot := rapid.SampledFrom(m.events).Draw(t, "around")
	at := pivot.Position + rapid.SampledFrom([]eventstore.Position{0, 1}).Draw(t, "or beside")
	collect := func(opts eventstore.ReadAll) (out []eventstore.Recorded) {
		opts.Filter.System = true
		for e, err := range log.ReadAll(t.Context(), opts) {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, e)
		}
		return out
	}
	equal("everything from the middle", m.read(func(e eventstore.Recorded) bool { return e.Position >= at }), collect(eventstore.ReadAll{From: at}))
	back := collect(eventstore.ReadAll{From: at, Direction: eventstore.Backwards, Limit: 3})
	want := m.read(func(e eventstore.Recorded) bool { return e.Position <= at })
	for i := range back {
		equal("backwards from the middle", want[len(want)-1-i:len(want)-i], back[i:i+1])
	}
	if len(back) != min(3, len(want)) {
		t.Fatalf("backwards from %d: got %d events of %d", at, len(back), len(want))
	}
	if len(m.removed) > 0 {
		return // of what was scavenged no moment is known
	}
	var moment eventstore.Position
	for _, e := range m.events {
		if e.Created.After(pivot.Created) {
			break
		}
		moment = e.Position
	}
	if got, err := log.PositionAt(t.Context(), pivot.Created); err != nil || got != moment {
		t.Fatalf("position at %s: got %d, %v, want %d", pivot.Created, got, err, moment)
	}
}
