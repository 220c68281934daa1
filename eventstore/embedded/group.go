package embedded

import (
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/shiplog/shiplog/eventstore"
)

// group is a batch in the making: what the streams will be once it is durable.
type group struct {
	l          *Log
	batch      *pebble.Batch
	head       eventstore.Position // of the batch's last event
	events     []eventstore.Recorded
	ids        []uint64 // of the events' streams
	states     map[uint64]*stream
	metas      map[uint64]struct{} // the metadata streams among them
	newIDs     map[string]uint64
	nextStream uint64
	ticks      uint64
	lastSample eventstore.Position
	scratch    []byte
}

func (l *Log) newGroup() *group {
	return &group{
		l: l, batch: l.db.NewBatch(), head: l.tail.current(),
		states: make(map[uint64]*stream), metas: make(map[uint64]struct{}), newIDs: make(map[string]uint64),
		nextStream: l.nextStream,
		ticks:      max(l.lastTicks, ticksOf(l.opts.Now())), // the clock may have gone back
		lastSample: l.lastSample,
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
	g.states[id] = st
	if isMeta {
		g.metas[id] = struct{}{}
	}
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

// add puts an event at the end of a stream, with the given revision.
func (g *group) add(name string, st *stream, p *proposal, revision uint64) error {
	if err := g.mention(name, st); err != nil {
		return err
	}
	g.head++
	h := head{stream: st.id, revision: revision, ticks: g.ticks}
	g.scratch = appendEnvelope(g.scratch[:0], p, h, g.head)
	if err := g.batch.Set(keyOf(eventKey, uint64(g.head)), g.scratch, nil); err != nil {
		return err
	}
	if err := g.batch.Set(keyOf(indexKey, st.id, revision), varints(uint64(g.head)), nil); err != nil {
		return err
	}
	if g.lastSample == 0 || g.head-g.lastSample >= sampleEvery {
		g.lastSample = g.head
		if err := g.batch.Set(keyOf(timeKey, g.ticks, uint64(g.head)), nil, nil); err != nil {
			return err
		}
	}
	st.last, st.lastPos = int64(min(revision, math.MaxInt64)), g.head
	g.ids = append(g.ids, st.id)
	g.events = append(g.events, eventstore.Recorded{
		Proposed: p.Proposed, Stream: name, Revision: revision, Position: g.head, Created: timeOf(g.ticks),
	})
	return nil
}
