package logreplay

import (
	"context"
	"errors"
	"fmt"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// ViewAt returns the cluster as it was when the log stood at a position. ErrFuture says that it has not got there yet. Of streams
// whose beginning is gone the view holds what the events that are left lead to. An object whose events do not fold is in the
// view, and cannot be read.
func ViewAt(ctx context.Context, log eventstore.Log, kinds *domain.Set, position uint64) (projections.Reader, error) {
	f := newFolding(kinds)
	if err := f.advance(ctx, log, position); err != nil {
		return nil, fmt.Errorf("replaying the log to position %d: %w", position, err)
	}
	return f.view(position), nil
}

// Continue folds what came after one position, up to another, into the objects that there were at the first: what a live view
// starts from. broken are those of them that the events had not led to soundly (they are there, and cannot be read); it is kept up to
// date. It returns how many events it has read. After an error nothing of what it was given has changed.
func Continue(ctx context.Context, log eventstore.Log, kinds *domain.Set, objects *memory.Store, broken map[domain.Ref]struct{}, after, to uint64) (events uint64, err error) {
	f := newFolding(kinds)
	f.position = after
	if objects.Len() > 0 {
		f.base = func(stream string) *folded { return foldedOf(stream, objects, broken) }
	}
	if err := f.advance(ctx, log, to); err != nil {
		return 0, fmt.Errorf("replaying the log from position %d to %d: %w", after, to, err)
	}
	made := make([]*projections.Object, 0, len(f.objects))
	for stream, o := range f.objects {
		if o != nil {
			made = append(made, o.object(kinds))
			delete(broken, nameOf(o.ref))
			if o.err != nil {
				broken[nameOf(o.ref)] = struct{}{}
			}
		} else if ref, ok := domain.ParseStream(stream); ok {
			objects.Delete(ref.GroupResource(), ref.Namespace, ref.Name)
			delete(broken, ref)
		}
	}
	objects.PutAll(made)
	return f.events, nil
}

// foldedOf is what the events of a stream have led to, if that is an object that is there.
func foldedOf(stream string, objects *memory.Store, broken map[domain.Ref]struct{}) *folded {
	ref, ok := domain.ParseStream(stream)
	if !ok {
		return nil
	}
	o, ok := objects.Get(ref.GroupResource(), ref.Namespace, ref.Name)
	if !ok {
		return nil
	}
	f := &folded{ref: o.Ref, replay: domain.NewReplay(projections.StateOf(o))}
	if _, spoilt := broken[ref]; spoilt {
		f.replay.Spoil(o.Position, o.Revision)
		if _, f.err = o.Typed(); f.err == nil {
			f.err = errors.New("its events do not fold")
		}
	}
	return f
}

func nameOf(r domain.Ref) domain.Ref {
	r.UID = ""
	return r
}

// folding is the fold of a log up to a position.
type folding struct {
	kinds    *domain.Set
	position uint64
	events   uint64
	objects  map[string]*folded // by stream; nil: known not to be there
	// base, when set, knows the objects that were there before. objects are then those that have changed since.
	base func(stream string) *folded
}

type folded struct {
	ref    domain.Ref
	replay domain.Replay
	err    error // the events do not fold
}

func newFolding(kinds *domain.Set) *folding {
	return &folding{kinds: kinds, objects: map[string]*folded{}}
}

// of returns what is known of a stream's object, nil when it is not there.
func (f *folding) of(stream string) *folded {
	o, known := f.objects[stream]
	if !known && f.base != nil {
		o = f.base(stream)
	}
	return o
}

// gone takes note that a stream's object is not there.
func (f *folding) gone(stream string) {
	if f.base != nil {
		f.objects[stream] = nil
		return
	}
	delete(f.objects, stream)
}

// advance folds the events up to a position.
func (f *folding) advance(ctx context.Context, log eventstore.Log, to uint64) error {
	head, err := log.Head(ctx)
	if err != nil {
		return err
	}
	if to > uint64(head) {
		return fmt.Errorf("%w: the log ends at position %d", projections.ErrFuture, head)
	}
	for r, err := range eventstore.ReadAllAhead(ctx, log, eventstore.ReadAll{From: eventstore.Position(f.position) + 1}) {
		if err != nil {
			return err
		}
		if uint64(r.Position) > to {
			break
		}
		if err := f.take(r); err != nil {
			return err
		}
		f.position = uint64(r.Position)
		f.events++
	}
	f.position = to
	return nil
}

// take folds one record. An error says that it was written by a newer build.
func (f *folding) take(r eventstore.Recorded) error {
	o := f.of(r.Stream)
	if o != nil {
		record := domain.Record{Type: r.Type, Data: r.Data, Metadata: r.Metadata, Position: uint64(r.Position), Revision: r.Revision}
		if e, ok := record.Step(o.ref); ok && (e.Ref == o.ref || projections.Concerns(r, e)) {
			f.apply(r.Stream, o, e)
			return nil
		}
	}
	e, ok, err := projections.EventOf(r)
	switch {
	case errors.Is(err, domain.ErrNewer):
		return err
	case err != nil:
		f.spoil(r, err)
	case ok && projections.Concerns(r, e):
		f.apply(r.Stream, o, e)
	}
	return nil
}

// apply folds an event into what is known of its stream's object, nil when it is not there.
func (f *folding) apply(stream string, o *folded, e domain.Event) {
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
	case err != nil:
		// Nothing but what needs no base applies from here on.
		o.replay.Spoil(e.Position, e.Revision)
	case e.Op == "":
		err = o.err
	}
	known := o.ref.UID
	if o.ref, o.err = e.Ref, err; err == nil {
		o.ref.UID = o.replay.UID()
	} else if o.ref.UID == "" {
		o.ref.UID = known
	}
	f.objects[stream] = o
}

// spoil takes note of a damaged record: its object cannot be read from here on.
func (f *folding) spoil(r eventstore.Recorded, cause error) {
	ref, ok := domain.ParseStream(r.Stream)
	if !ok {
		return
	}
	o := f.of(r.Stream)
	if o == nil {
		o = &folded{ref: ref}
	}
	o.err = cause
	o.replay.Spoil(uint64(r.Position), r.Revision)
	f.objects[r.Stream] = o
}

func (f *folding) view(position uint64) *memory.Snapshot {
	s := memory.NewStore()
	for _, o := range f.objects {
		s.Put(o.object(f.kinds))
	}
	return s.Snapshot(position)
}

func (o *folded) object(kinds *domain.Set) *projections.Object {
	state := o.replay.State()
	p := projections.Object{Ref: o.ref, Position: state.Position, Revision: state.Revision, JSON: state.JSON}
	if o.err != nil {
		p.Kind = memory.KindOf(kinds, o.ref, state.JSON)
		return memory.Broken(p, fmt.Errorf("reading %s: %w", o.ref, o.err))
	}
	return memory.Decoded(kinds, p)
}
