package logreplay

import (
	"errors"
	"fmt"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// fold is what the events of some streams lead to.
type fold struct {
	objects map[string]*folded // by stream; nil: known not to be there
	// base, when set, knows the objects that there were before, and may be asked by several folds at once. objects are then those that
	// have changed since.
	base func(stream string) *folded
}

// folded is what the events of one stream have led to.
type folded struct {
	known  domain.Known
	replay domain.Replay
	err    error // the events do not fold
}

func (o *folded) ref() domain.Ref { return o.known.Ref }

func newFold(base func(stream string) *folded) *fold {
	return &fold{objects: map[string]*folded{}, base: base}
}

// of returns what is known of a stream's object, nil when it is not there; mine says that it is among f.objects.
func (f *fold) of(stream string) (o *folded, mine bool) {
	o, mine = f.objects[stream]
	if !mine && f.base != nil {
		o = f.base(stream)
	}
	return o, mine
}

// gone takes note that a stream's object is not there.
func (f *fold) gone(stream string) {
	if f.base != nil {
		f.objects[stream] = nil
		return
	}
	delete(f.objects, stream)
}

// take folds one record. An error says that it was written by a newer build.
func (f *fold) take(r *eventstore.Recorded) error {
	o, mine := f.of(r.Stream)
	record := domain.Record{Type: r.Type, Data: r.Data, Metadata: r.Metadata, Position: uint64(r.Position), Revision: r.Revision}
	if o != nil {
		if ok, err := o.replay.Step(record, &o.known); ok {
			if o.err = err; err != nil {
				o.replay.Spoil(record.Position, record.Revision)
			}
			if !mine {
				f.objects[r.Stream] = o
			}
			return nil
		}
	}
	if e, ok := record.Brief(); ok {
		if projections.Concerns(*r, e) {
			f.apply(r.Stream, o, e)
		}
		return nil
	}
	e, ok, err := projections.EventOf(*r)
	switch {
	case errors.Is(err, domain.ErrNewer):
		return err
	case err != nil:
		f.spoil(*r, o, err)
	case ok && projections.Concerns(*r, e):
		f.apply(r.Stream, o, e)
	}
	return nil
}

// apply folds an event into what is known of its stream's object, nil when it is not there.
func (f *fold) apply(stream string, o *folded, e domain.Event) {
	if o == nil {
		o = &folded{}
	}
	err := o.replay.Apply(e)
	switch {
	case err != nil && e.Op == domain.Deleted, err == nil && !o.replay.Exists():
		f.gone(stream)
		return
	case err != nil && e.Op == domain.Created && len(e.Change) > 0 && e.Change[0] == '{': // whole, whatever was there before
		o.replay = domain.Replay{}
		err = o.replay.Apply(e)
	case err != nil: // nothing but what needs no base applies from here on
		o.replay.Spoil(e.Position, e.Revision)
	case e.Op == "":
		err = o.err
	}
	ref := e.Ref
	if err == nil {
		ref.UID = o.replay.UID()
	} else if ref.UID == "" {
		ref.UID = o.ref().UID
	}
	if o.err = err; ref != o.ref() {
		o.known = domain.Known{Ref: ref}
	}
	f.objects[stream] = o
}

// spoil takes note of a damaged record: its object, nil when it is not there, cannot be read from here on.
func (f *fold) spoil(r eventstore.Recorded, o *folded, cause error) {
	ref, ok := domain.ParseStream(r.Stream)
	if !ok {
		return
	}
	if o == nil {
		o = &folded{known: domain.Known{Ref: ref}}
	}
	o.err = cause
	o.replay.Spoil(uint64(r.Position), r.Revision)
	f.objects[r.Stream] = o
}

func (o *folded) object(kinds *domain.Set) *projections.Object {
	state := o.replay.State()
	p := projections.Object{Ref: o.ref(), Position: state.Position, Revision: state.Revision, JSON: state.JSON}
	if o.err != nil {
		p.Kind = memory.KindOf(kinds, o.ref(), state.JSON)
		return memory.Broken(p, fmt.Errorf("reading %s: %w", o.ref(), o.err))
	}
	return memory.Decoded(kinds, p)
}
