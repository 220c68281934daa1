package embedded

import (
	"errors"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/shiplog/shiplog/eventstore"
)

// group is a batch in the making: what the streams will be once it is durable.
type group struct {
	l          *Log
	batch      *pebble.Batch
	head       eventstore.Position // of the batch's last entry
	digest     eventstore.Digest   // of that entry
	events     []eventstore.Recorded
	ids        []uint64 // of the events' streams
	states     map[uint64]*stream
	before     map[uint64]stream   // the same without the batch
	metas      map[uint64]struct{} // the metadata streams among them
	newIDs     map[string]uint64
	nextStream uint64
	ticks      uint64
	unsampled  int // events since the last sample of the time index
	importedTo eventstore.Position
	scratch    []byte
}

func (l *Log) newGroup() *group {
	return &group{
		l: l, batch: l.db.NewBatch(), head: l.tail.current(), digest: l.digest,
		states: make(map[uint64]*stream), before: make(map[uint64]stream), metas: make(map[uint64]struct{}), newIDs: make(map[string]uint64),
		nextStream: l.nextStream,
		ticks:      max(l.lastTicks, ticksOf(l.opts.Now())), // the clock may have gone back
		unsampled:  l.unsampled,
		importedTo: l.importedTo,
	}
}

// stream returns a stream as it stands within the batch.
func (g *group) stream(name string) (*stream, error) {
	id, ok := g.newIDs[name]
	if !ok {
		var err error
		if id, err = g.l.streams.idOf(database{g.l.db}, name); err != nil {
			return nil, err
		}
	}
	if st, ok := g.states[id]; ok && id != 0 {
		return st, nil
	}
	_, isMeta := eventstore.MetadataOf(name)
	st, err := g.l.streams.stateOf(database{g.l.db}, id, isMeta)
	if err != nil {
		return nil, err
	}
	if isMeta {
		st.keep.maxCount = 1
	}
	if id != 0 {
		g.keep(id, &st, isMeta)
	}
	return &st, nil
}

func (g *group) keep(id uint64, st *stream, isMeta bool) {
	g.states[id], g.before[id] = st, *st
	if isMeta {
		g.metas[id] = struct{}{}
	}
}

// changesRetention says whether other events of a stream expire after the group than before, but for those that newer ones push out.
func (g *group) changesRetention() bool {
	for id, st := range g.states {
		if st.keep != g.before[id].keep {
			return true
		}
	}
	return false
}

// mention gives a stream its id.
func (g *group) mention(name string, st *stream) error {
	if st.id != 0 {
		return nil
	}
	st.id = g.nextStream
	g.nextStream++
	g.newIDs[name] = st.id
	_, isMeta := eventstore.MetadataOf(name)
	g.keep(st.id, st, isMeta)
	if err := g.batch.Set(keyOfName(name), varints(st.id), nil); err != nil {
		return err
	}
	return g.batch.Set(keyOf(nameKey, st.id), []byte(name), nil)
}

// place is where an event stands, and since when.
type place struct {
	position eventstore.Position
	revision uint64
	ticks    uint64
}

// add puts an event at the end of a stream, with the given revision.
func (g *group) add(name string, st *stream, p *proposal, revision uint64) error {
	return g.put(name, st, p, place{position: g.head + 1, revision: revision, ticks: g.ticks})
}

// put puts an event in its place, which is after the head and at the end of a stream.
func (g *group) put(name string, st *stream, p *proposal, at place) error {
	if err := g.mention(name, st); err != nil {
		return err
	}
	g.link(name, at, p.content)
	h := head{stream: st.id, revision: at.revision, ticks: at.ticks}
	g.scratch = appendEnvelope(g.scratch[:0], p, h, g.digest, g.head)
	if err := g.batch.Set(keyOf(eventKey, uint64(g.head)), g.scratch, nil); err != nil {
		return err
	}
	if err := g.batch.Set(keyOf(indexKey, st.id, at.revision), varints(uint64(g.head)), nil); err != nil {
		return err
	}
	if g.unsampled++; g.unsampled >= sampleEvery {
		g.unsampled = 0
		if err := g.batch.Set(keyOf(timeKey, g.ticks, uint64(g.head)), nil, nil); err != nil {
			return err
		}
	}
	st.last, st.lastPos = int64(min(at.revision, math.MaxInt64)), g.head
	g.ids = append(g.ids, st.id)
	g.events = append(g.events, eventstore.Recorded{
		Proposed: p.Proposed, Stream: name, Revision: at.revision, Position: g.head, Created: timeOf(at.ticks),
	})
	return nil
}

// putTrace puts what another log's scavenger left of an event in the event's place.
func (g *group) putTrace(name string, st *stream, at place, t trace) error {
	if err := g.mention(name, st); err != nil {
		return err
	}
	g.link(name, at, t.content)
	t.head, t.digest = head{stream: st.id, revision: at.revision, ticks: at.ticks}, g.digest
	st.last, st.lastPos = int64(min(at.revision, math.MaxInt64)), g.head
	return errors.Join(
		g.batch.Set(keyOf(traceKey, uint64(g.head)), t.value(g.head), nil),
		g.batch.Set(keyOf(floorKey, st.id), varints(at.revision, uint64(g.head)), nil),
	)
}

// link makes an entry the head: the hash chain goes on with it.
func (g *group) link(name string, at place, content eventstore.Digest) {
	g.head, g.ticks = at.position, max(g.ticks, at.ticks)
	g.digest = eventstore.Link(g.digest, &eventstore.Entry{
		Recorded: eventstore.Recorded{Stream: name, Revision: at.revision, Position: at.position, Created: timeOf(at.ticks)},
		Content:  content,
	})
}
