package postgres

import (
	"bytes"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/engine"
)

// The history keeps a whole copy of an object when this many deltas follow the last, or when they are together as long as the
// object: to read an object as of any position costs little more than reading it once, and keeping it at most twice its deltas.
const maxSteps = 16

// change is an event with what it leads to.
type change struct {
	record   eventstore.Recorded
	event    domain.Event
	retained bool // the past of its kind is bounded and not kept here

	key   string // of its object
	entry *entry // the object after the event; nil when there is none, or the event is not part of its history
	was   *entry // of a deletion: the object before
	born  bool   // the event starts an incarnation
	whole bool   // the history keeps a whole copy at this event
}

// entry is what is known of an object that is there.
type entry struct {
	ref         domain.Ref
	state       domain.State
	incarnation uint64 // position of its first event
	base        uint64 // position from which on its events have to be read: its first, or that of the last whole copy
	steps       int    // events since
	bytes       int    // and the length of their deltas
}

// folder folds events into objects. It never holds a half-applied batch: forget it when the batch is not committed.
type folder struct {
	kinds *domain.Set
	// objects by stream name; nil: known not to be there.
	objects map[string]*entry
	// complete says that what is not in objects is not there; else it has to be asked for (see missing).
	complete bool
	bytes    int
}

func newFolder(kinds *domain.Set, complete bool) *folder {
	return &folder{kinds: kinds, objects: map[string]*entry{}, complete: complete}
}

// maxFolderBytes bounds the objects that are kept at hand, when those that are not can be asked for.
const maxFolderBytes = 16 << 20

// trim forgets objects when there are too many. Which ones does not matter: they can be asked for.
func (f *folder) trim() {
	if f.complete {
		return
	}
	for key, e := range f.objects {
		if f.bytes <= maxFolderBytes && len(f.objects) <= 200_000 {
			return
		}
		f.drop(e)
		delete(f.objects, key)
	}
}

func (f *folder) drop(e *entry) {
	if e != nil {
		f.bytes -= len(e.state.JSON)
	}
}

func (f *folder) forget() {
	if !f.complete {
		clear(f.objects)
		f.bytes = 0
	}
}

// decode reads records; what is no event of a cluster is left out.
func decode(records []eventstore.Recorded) ([]change, error) {
	out := make([]change, 0, len(records))
	for _, r := range records {
		e, ok, err := projections.EventOf(r)
		if err != nil {
			return nil, &engine.PoisonError{Position: uint64(r.Position), Err: err}
		}
		if ok {
			out = append(out, change{record: r, event: e})
		}
	}
	return out, nil
}

// missing returns the objects that have to be known before changes can be folded.
func (f *folder) missing(changes []change) []domain.Ref {
	if f.complete {
		return nil
	}
	var out []domain.Ref
	asked := map[string]bool{}
	for i := range changes {
		c := &changes[i]
		if !projections.Concerns(c.record, c.event) {
			continue
		}
		key := c.record.Stream
		if _, known := f.objects[key]; !known && !asked[key] {
			asked[key] = true
			if c.event.Op == domain.Created { // nothing was there, or folding says so
				f.objects[key] = nil
				if c.record.Revision == 0 {
					continue
				}
				delete(f.objects, key)
			}
			out = append(out, c.event.Ref)
		}
	}
	return out
}

// learn tells the folder of objects that it asked for; those not told are not there.
func (f *folder) learn(asked []domain.Ref, there []*entry) {
	for _, r := range asked {
		f.objects[r.Stream()] = nil
	}
	for _, e := range there {
		f.objects[e.ref.Stream()] = e
		f.bytes += len(e.state.JSON)
	}
}

// fold completes changes in their order.
func (f *folder) fold(changes []change) error {
	for i := range changes {
		if err := f.apply(&changes[i]); err != nil {
			return &engine.PoisonError{Position: changes[i].event.Position, Err: err}
		}
	}
	return nil
}

func (f *folder) apply(c *change) error {
	e := &c.event
	if k, ok := f.kinds.ByResource(e.Ref.GroupResource()); ok {
		c.retained = k.Retained() && e.Op != ""
	}
	if !projections.Concerns(c.record, *e) {
		return nil
	}
	c.key = c.record.Stream
	before := f.objects[c.key]
	var state domain.State
	if before != nil {
		state = before.state
	}
	next, err := state.Apply(*e)
	if err != nil {
		return err
	}
	switch {
	case !next.Exists:
		f.drop(before)
		c.was = before
		f.objects[c.key] = nil
		if f.complete {
			delete(f.objects, c.key)
		}
		return nil
	case before == nil:
		c.born = true
		next.JSON = bytes.Clone(next.JSON)
		ref := e.Ref
		ref.UID = next.UID
		c.entry = &entry{ref: ref, state: next, incarnation: e.Position, base: e.Position}
	default:
		after := *before
		after.state = next
		after.ref.UID = next.UID
		after.steps++
		after.bytes += len(e.Change)
		if e.Op != "" && (after.steps >= maxSteps || after.bytes > len(next.JSON)) {
			after.base, after.steps, after.bytes = e.Position, 0, 0
			c.whole = true
		}
		c.entry = &after
		f.drop(before)
	}
	f.bytes += len(next.JSON)
	f.objects[c.key] = c.entry
	return nil
}
