package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// maxImportBytes bounds the entries of one import together. How large one entry may be is for the log to say that it comes from.
const maxImportBytes = 1 << 30

// imported is an entry that is to stand where it stood in another log. Its content is the proposal of the same number.
type imported struct {
	place
	stream    string
	digest    eventstore.Digest // zero: not known
	scavenged bool
	proof     bool // scavenged, and its content is there all the same
}

// Import appends entries as they stand in another log, all or none, durably. Their positions and revisions may have gaps: another
// log may have scavenged without a trace. It returns ErrCorrupt when a digest is not the one that is due, and ErrTooLarge when
// the entries have more than 1 GiB together.
func (l *Log) Import(ctx context.Context, entries ...eventstore.Entry) error {
	r := &request{op: opImport, events: make([]proposal, 0, len(entries)), places: make([]imported, 0, len(entries))}
	for i := range entries {
		e := &entries[i]
		if err := importable(e); err != nil {
			return fmt.Errorf("importing the entry at position %d (revision %d of %q): %w", e.Position, e.Revision, e.Stream, err)
		}
		at := imported{
			place:     place{position: e.Position, revision: e.Revision, ticks: ticksOf(e.Created)},
			stream:    e.Stream,
			digest:    e.Digest,
			scavenged: e.Scavenged,
		}
		p := proposal{content: e.Content}
		if at.proof = e.Scavenged && e.Type != ""; !e.Scavenged || at.proof {
			p = propose(e.Proposed)
		}
		if e.Content != (eventstore.Digest{}) && p.content != e.Content {
			return fmt.Errorf("importing the entry at position %d (revision %d of %q): %w: its content has the digest %s and not %s: it was changed",
				e.Position, e.Revision, e.Stream, eventstore.ErrCorrupt, p.content, e.Content)
		}
		r.events, r.places = append(r.events, p), append(r.places, at)
		r.bytes += len(p.body) + len(e.Stream) + digestEnd
	}
	if r.bytes > maxImportBytes {
		return fmt.Errorf("importing %d entries: %w: they have %d bytes together, at most %d are taken", len(entries), eventstore.ErrTooLarge, r.bytes, maxImportBytes)
	}
	if len(entries) == 0 {
		return ctx.Err()
	}
	if err := l.chained(); err != nil {
		return fmt.Errorf("importing %d entries: %w", len(entries), err)
	}
	if _, err := l.submit(ctx, r); err != nil {
		return fmt.Errorf("importing %d entries: %w", len(entries), err)
	}
	return nil
}

// importable says what is wrong with an entry by itself.
func importable(e *eventstore.Entry) error {
	switch {
	case e.Stream == "":
		return errors.New("a stream needs a name")
	case e.Created.Before(time.Unix(0, 0)):
		return fmt.Errorf("it is dated %s, before 1970", e.Created.Format(time.RFC3339))
	case e.Revision > eventstore.TombstoneRevision:
		return fmt.Errorf("no stream has revisions above %d", uint64(eventstore.TombstoneRevision))
	case e.Position > maxPosition:
		return fmt.Errorf("no log has positions above %d", uint64(maxPosition))
	}
	return nil
}

// maxPosition leaves room for what comes after it, in keys and in the numbers of those who count with signs.
const maxPosition = 1<<63 - 1 - 1<<32

// decideImport puts entries into the batch, all or none.
func (g *group) decideImport(r *request) error {
	if err := g.checkImport(r); err != nil {
		return err
	}
	for i := range r.places {
		if err := g.importOne(&r.places[i], &r.events[i]); err != nil {
			return err
		}
	}
	g.importedTo = g.head
	return nil
}

// checkImport makes sure of everything before the batch changes.
func (g *group) checkImport(r *request) error {
	head, digest := g.head, g.digest
	last := make(map[string]int64)
	for i := range r.places {
		at, p := &r.places[i], &r.events[i]
		wrong := func(format string, args ...any) error {
			return fmt.Errorf("the entry at position %d (revision %d of %q) "+format, append([]any{at.position, at.revision, at.stream}, args...)...)
		}
		if at.position <= head {
			return wrong("does not come after position %d", head)
		}
		end, known := last[at.stream]
		if !known {
			st, err := g.stream(at.stream)
			if err != nil {
				return err
			}
			end = st.last
		}
		if end == eventstore.TombstoneRevision {
			return wrong("comes after the end of the stream: %w", eventstore.ErrStreamDeleted)
		}
		if int64(at.revision) <= end {
			return wrong("does not continue the stream: %w",
				&eventstore.WrongExpectedRevisionError{Stream: at.stream, Expected: eventstore.Expected(int64(at.revision) - 1), Actual: eventstore.Expected(end)})
		}
		due := eventstore.Link(digest, &eventstore.Entry{
			Recorded: eventstore.Recorded{Stream: at.stream, Revision: at.revision, Position: at.position, Created: timeOf(at.ticks)},
			Content:  p.content,
		})
		if at.digest != (eventstore.Digest{}) && at.digest != due {
			return wrong("has the digest %s, and %s is due: %w", at.digest, due, eventstore.ErrCorrupt)
		}
		head, digest, last[at.stream] = at.position, due, int64(at.revision)
	}
	return nil
}

func (g *group) importOne(at *imported, p *proposal) error {
	st, err := g.stream(at.stream)
	if err != nil {
		return err
	}
	if at.revision > uint64(st.last+1) && at.revision != eventstore.TombstoneRevision {
		// The other log may have removed events before it kept traces.
		if err := g.batch.Set([]byte{untracedKey}, varints(uint64(at.position)), nil); err != nil {
			return err
		}
	}
	if at.scavenged {
		t := trace{content: p.content}
		if at.proof {
			t.body = p.body
		}
		return g.putTrace(at.stream, st, at.place, t)
	}
	if err := g.put(at.stream, st, p, at.place); err != nil {
		return err
	}
	if at.revision == eventstore.TombstoneRevision {
		return g.entomb(st)
	}
	if base, ok := eventstore.MetadataOf(at.stream); ok && p.Type == eventstore.MetadataType {
		return g.retain(base, p.Data)
	}
	return nil
}
