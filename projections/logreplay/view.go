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

// Fold returns the objects that are there at a position, and which of them the events have not led to soundly (they are in
// objects too, and cannot be read): what a live view starts from.
func Fold(ctx context.Context, log eventstore.Log, kinds *domain.Set, position uint64) (objects []*projections.Object, broken []domain.Ref, err error) {
	f := newFolding(kinds)
	if err := f.advance(ctx, log, position); err != nil {
		return nil, nil, fmt.Errorf("replaying the log to position %d: %w", position, err)
	}
	for _, o := range f.objects {
		objects = append(objects, o.object(kinds))
		if o.err != nil {
			broken = append(broken, o.ref)
		}
	}
	return objects, broken, nil
}

// folding is the fold of a log up to a position.
type folding struct {
	kinds    *domain.Set
	position uint64
	objects  map[string]*folded
}

type folded struct {
	ref    domain.Ref
	replay domain.Replay
	err    error // the events do not fold
}

func newFolding(kinds *domain.Set) *folding {
	return &folding{kinds: kinds, objects: map[string]*folded{}}
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
	}
	f.position = to
	return nil
}

// take folds one record. An error says that it was written by a newer build.
func (f *folding) take(r eventstore.Recorded) error {
	o := f.objects[r.Stream]
	if o != nil {
		record := domain.Record{Type: r.Type, Data: r.Data, Metadata: r.Metadata, Position: uint64(r.Position), Revision: r.Revision}
		if e, ok := record.Step(o.ref); ok && (e.Ref == o.ref || projections.Concerns(r, e)) {
			f.apply(r.Stream, e)
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
		f.apply(r.Stream, e)
	}
	return nil
}

func (f *folding) apply(stream string, e domain.Event) {
	o := f.objects[stream]
	if o == nil {
		o = &folded{}
	}
	err := o.replay.Apply(e)
	switch {
	case err != nil && e.Op == domain.Deleted, err == nil && !o.replay.Exists():
		delete(f.objects, stream)
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
	if o.ref, o.err = e.Ref, err; err == nil {
		o.ref.UID = o.replay.UID()
	}
	f.objects[stream] = o
}

// spoil takes note of a damaged record: its object cannot be read from here on.
func (f *folding) spoil(r eventstore.Recorded, cause error) {
	ref, ok := domain.ParseStream(r.Stream)
	if !ok {
		return
	}
	o := f.objects[r.Stream]
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
