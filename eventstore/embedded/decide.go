package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// decide puts what a request asks for into the batch, all of it or, with an error, nothing. durable says that the answer
// need not wait for the batch, because it is about events that are on disk.
func (g *group) decide(r *request) (result eventstore.Appended, durable bool, err error) {
	if r.op == opImport {
		return result, false, g.decideImport(r)
	}
	if strings.HasPrefix(r.stream, eventstore.MetadataStreamPrefix+eventstore.MetadataStreamPrefix) {
		return result, false, errors.New("a metadata stream has no metadata of its own")
	}
	if r.stream == "" {
		return result, false, errors.New("a stream needs a name")
	}
	st, err := g.stream(r.stream)
	if err != nil {
		return result, false, err
	}
	if err := g.notTombstoned(r.stream, st); err != nil {
		return result, false, err
	}
	if !meets(st, r.expected) {
		if r.op == opAppend {
			if result, durable, ok, err := g.appendedBefore(st, r); ok || err != nil {
				return result, durable, err
			}
		}
		return result, false, conflict(r, st)
	}
	switch r.op {
	case opDelete:
		return g.decideDelete(r, st)
	case opTombstone:
		p := propose(eventstore.Proposed{ID: uuid.New(), Type: eventstore.TombstoneType})
		err := g.add(r.stream, st, &p, eventstore.TombstoneRevision)
		if err == nil {
			err = g.entomb(st)
		}
		return eventstore.Appended{Position: g.head, Revision: eventstore.TombstoneRevision}, false, err
	}
	if r.expected == eventstore.Any || r.expected == eventstore.StreamExists {
		if result, durable, ok, err := g.appendedRecently(st, r); ok || err != nil {
			return result, durable, err
		}
	}
	return g.decideAppend(r, st)
}

// entomb makes what came before a stream's tombstone expire.
func (g *group) entomb(st *stream) error {
	st.keep.truncateBefore = eventstore.DeletedTruncateBefore
	return g.batch.Set(keyOf(retentionKey, st.id), st.keep.value(), nil)
}

func (g *group) notTombstoned(name string, st *stream) error {
	if base, ok := eventstore.MetadataOf(name); ok && !st.tombstoned() {
		var err error
		if st, err = g.stream(base); err != nil {
			return err
		}
	}
	if st.tombstoned() {
		return eventstore.ErrStreamDeleted
	}
	return nil
}

func meets(st *stream, expected eventstore.Expected) bool {
	switch expected {
	case eventstore.Any:
		return true
	case eventstore.NoStream:
		return !st.exists()
	case eventstore.StreamExists:
		return st.exists()
	default:
		return expected >= 0 && st.last == int64(expected)
	}
}

func conflict(r *request, st *stream) error {
	actual := eventstore.NoStream
	if st.last >= 0 && !(st.softDeleted() && r.expected == eventstore.StreamExists) {
		actual = eventstore.Expected(st.last)
	}
	return &eventstore.WrongExpectedRevisionError{Stream: r.stream, Expected: r.expected, Actual: actual}
}

func (g *group) decideAppend(r *request, st *stream) (eventstore.Appended, bool, error) {
	if len(r.events) == 0 {
		return eventstore.Appended{Position: st.lastPos, Revision: uint64(max(st.last, 0))}, false, nil
	}
	if st.softDeleted() {
		if err := g.undelete(r.stream, st); err != nil {
			return eventstore.Appended{}, false, err
		}
	}
	for i := range r.events {
		if err := g.add(r.stream, st, &r.events[i], uint64(st.last+1)); err != nil {
			return eventstore.Appended{}, false, err
		}
	}
	if base, ok := eventstore.MetadataOf(r.stream); ok {
		if last := r.events[len(r.events)-1]; last.Type == eventstore.MetadataType {
			if err := g.retain(base, last.Data); err != nil {
				return eventstore.Appended{}, false, err
			}
		}
	}
	return eventstore.Appended{Position: g.head, Revision: uint64(st.last)}, false, nil
}

// retain makes a stream's new metadata count. Metadata that does not parse counts as none, as in EventStoreDB: it was
// written through a door that takes any bytes.
func (g *group) retain(name string, metadata []byte) error {
	st, err := g.stream(name)
	if err != nil {
		return err
	}
	if err := g.mention(name, st); err != nil {
		return err
	}
	var m eventstore.Metadata
	if err := json.Unmarshal(metadata, &m); err != nil {
		g.l.log.Warn("a stream's metadata does not parse and counts as none", "stream", name, "error", err)
		m = eventstore.Metadata{}
	}
	st.keep = retention{maxCount: m.MaxCount, maxAge: m.MaxAge, truncateBefore: m.TruncateBefore}
	if st.keep == (retention{}) {
		return g.batch.Delete(keyOf(retentionKey, st.id), nil)
	}
	return g.batch.Set(keyOf(retentionKey, st.id), st.keep.value(), nil)
}

// decideDelete soft-deletes a stream: all its events are truncated, until it is appended to again.
func (g *group) decideDelete(r *request, st *stream) (eventstore.Appended, bool, error) {
	if !st.exists() {
		return eventstore.Appended{Position: st.lastPos}, false, nil // there is nothing to delete
	}
	err := g.changeMetadata(r.stream, func(m *eventstore.Metadata) { m.TruncateBefore = eventstore.DeletedTruncateBefore })
	return eventstore.Appended{Position: g.head}, false, err
}

// undelete lets a soft-deleted stream begin anew after its last event.
func (g *group) undelete(name string, st *stream) error {
	return g.changeMetadata(name, func(m *eventstore.Metadata) { m.TruncateBefore = uint64(st.last + 1) })
}

// changeMetadata appends a changed version of a stream's metadata.
func (g *group) changeMetadata(name string, change func(*eventstore.Metadata)) error {
	metaName := eventstore.MetadataStream(name)
	metaStream, err := g.stream(metaName)
	if err != nil {
		return err
	}
	var m eventstore.Metadata
	if metaStream.last >= 0 {
		e, err := g.eventAt(metaStream.id, uint64(metaStream.last))
		if err != nil {
			return err
		}
		if e != nil {
			if err := json.Unmarshal(e.Data, &m); err != nil {
				m = eventstore.Metadata{} // as in retain
			}
		}
	}
	change(&m)
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("writing the metadata of %s: %w", name, err)
	}
	p := propose(eventstore.Proposed{ID: uuid.New(), Type: eventstore.MetadataType, Data: data})
	if err := g.add(metaName, metaStream, &p, uint64(metaStream.last+1)); err != nil {
		return err
	}
	return g.retain(name, data)
}
