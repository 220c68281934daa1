package embedded

import (
	"fmt"

	"github.com/shiplog/shiplog/eventstore"
)

// checkedEntry is an entry without its content.
type checkedEntry struct {
	eventstore.Entry
	ahead eventstore.Digest // that of the entry ahead
}

// chainCheck follows the hash chain over a log that may have been tampered with, and tells from how it breaks what was done. After a
// break it goes on with what is stored, so that one change is one fault.
type chainCheck struct {
	position  eventstore.Position // of the entry ahead
	digest    eventstore.Digest   // stored with the entry ahead
	good      eventstore.Digest   // of the last entry that continued the chain
	unknown   bool                // the entry ahead is damaged: whatever follows it may follow it
	pending   []int               // of broken: those since the last good entry
	broken    []brokenLink
	forgotten int
	gaps      map[eventstore.Position]gap
	recent    []recentLink // the last entries that continued the chain, for those that should never have
}

// recentLinks is how many entries in a row can at least be recognised as inserted although each continues the chain.
const recentLinks = 64

type recentLink struct {
	position eventstore.Position
	stream   string
	revision uint64
	ahead    eventstore.Digest
}

type gap struct{ from, to eventstore.Position }

type brokenLink struct {
	checkedEntry
	due  eventstore.Digest
	kind eventstore.FaultKind
	told string
}

// damaged goes over an entry that does not open, of which only the digest can be guessed.
func (c *chainCheck) damaged(position eventstore.Position, stored eventstore.Digest) {
	c.position, c.digest, c.unknown = position, stored, true
}

// entry goes over an entry, and says whether it may stand where it belongs.
func (c *chainCheck) entry(e *checkedEntry) bool {
	e.ahead = c.digest
	ahead := c.position
	c.position, c.digest = e.Position, e.Digest
	due := eventstore.Link(e.ahead, &e.Entry)
	if due == e.Digest || c.unknown || c.explained(e) {
		c.remember(e)
		return true
	}
	if len(c.broken) >= 2*maxFaults {
		c.forgotten++
		return false
	}
	b := brokenLink{checkedEntry: *e, due: due, kind: eventstore.Changed, told: "it does not continue the hash chain: it was changed, or the entry ahead was"}
	if e.Position > ahead+1 {
		b.kind, b.told = eventstore.Missing, fmt.Sprintf("the hash chain breaks between the positions %d and %d: what stood between them is gone, or the entry behind was changed", ahead, e.Position)
		if c.gaps == nil {
			c.gaps = make(map[eventstore.Position]gap)
		}
		c.gaps[ahead+1] = gap{ahead + 1, e.Position - 1}
	}
	c.pending = append(c.pending, len(c.broken))
	c.broken = append(c.broken, b)
	return b.kind == eventstore.Missing
}

func (c *chainCheck) remember(e *checkedEntry) {
	c.good, c.unknown, c.pending = e.Digest, false, c.pending[:0]
	if len(c.recent) == 2*recentLinks {
		c.recent = c.recent[:copy(c.recent, c.recent[recentLinks:])]
	}
	c.recent = append(c.recent, recentLink{position: e.Position, stream: e.Stream, revision: e.Revision, ahead: e.ahead})
}

// explained says whether an entry follows what was there before somebody changed the entries ahead of it.
func (c *chainCheck) explained(e *checkedEntry) bool {
	if len(c.pending) == 0 {
		return c.behindInserted(e)
	}
	if eventstore.Link(c.good, &e.Entry) == e.Digest {
		for _, i := range c.pending {
			c.broken[i].kind, c.broken[i].told = eventstore.Inserted, "the entry behind it follows the entry ahead of it: it was put between them"
		}
		return true
	}
	for _, i := range c.pending {
		b := &c.broken[i]
		if eventstore.Link(b.due, &e.Entry) == e.Digest {
			b.kind, b.told = eventstore.Changed, "its digest was changed: the entry behind it follows another"
			return true
		}
		if eventstore.Link(b.Digest, &e.Entry) == e.Digest {
			return true
		}
	}
	return false
}

// behindInserted says whether an entry follows one from before the entry ahead: then all between them were inserted, with links
// made for it.
func (c *chainCheck) behindInserted(e *checkedEntry) bool {
	for i := len(c.recent) - 1; i >= 0; i-- {
		if eventstore.Link(c.recent[i].ahead, &e.Entry) != e.Digest {
			continue
		}
		for _, r := range c.recent[i:] {
			b := brokenLink{kind: eventstore.Inserted, told: "an entry behind it follows the entry ahead of it: it was put between them"}
			b.Position, b.Stream, b.Revision = r.position, r.stream, r.revision
			c.broken = append(c.broken, b)
		}
		return true
	}
	return false
}

// verdict tells of each break what it means.
func (c *chainCheck) verdict() (faults []eventstore.Fault) {
	places := make(map[int]int)
	for i := range c.broken {
		for j := range c.broken {
			if _, taken := places[i]; i != j && !taken && c.broken[i].kind != eventstore.Inserted && c.movedFrom(&c.broken[i], &c.broken[j]) {
				places[i] = j
			}
		}
	}
	for to, from := range places { // what stands at "from" belongs at "to"
		c.broken[from].kind = eventstore.Reordered
		c.broken[from].told = fmt.Sprintf("it belongs at position %d", c.broken[to].Position)
		if c.broken[to].kind != eventstore.Reordered {
			c.broken[to].kind, c.broken[to].told = eventstore.Reordered, fmt.Sprintf("what belongs here stands at position %d", c.broken[from].Position)
		}
	}
	for i := range c.broken {
		b := &c.broken[i]
		if b.kind != eventstore.Reordered && b.kind != eventstore.Inserted && c.follows(b) {
			continue
		}
		f := eventstore.Fault{Kind: b.kind, Position: b.Position, Stream: b.Stream, Revision: b.Revision, Detail: b.told}
		if b.kind == eventstore.Missing {
			for start, gap := range c.gaps {
				if gap.to == b.Position-1 {
					f.Position, f.Stream, f.Revision = start, "", 0
				}
			}
		}
		faults = append(faults, f)
	}
	if c.forgotten > 0 {
		faults = append(faults, eventstore.Fault{Kind: eventstore.Changed, Position: c.position, Detail: fmt.Sprintf("the hash chain breaks at %d more entries up to here", c.forgotten)})
	}
	return faults
}

// movedFrom says whether what stands at b, put in the place of a, continues the chain there.
func (c *chainCheck) movedFrom(a, b *brokenLink) bool {
	moved := b.Entry
	moved.Position = a.Position
	link := eventstore.Link(a.ahead, &moved)
	if link == b.Digest || link == a.Digest {
		return true
	}
	// Only the contents may have changed places.
	moved = a.Entry
	moved.Content = b.Content
	return link != a.due && eventstore.Link(a.ahead, &moved) == a.Digest && a.Content != b.Content
}

// follows says whether a broken entry follows what once stood at another broken one.
func (c *chainCheck) follows(b *brokenLink) bool {
	for i := range c.broken {
		other := &c.broken[i]
		if other != b && other.kind == eventstore.Reordered && eventstore.Link(other.Digest, &b.Entry) == b.Digest {
			return true
		}
	}
	return false
}
