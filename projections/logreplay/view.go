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
	f := newFolding(kinds, nil)
	if err := f.advance(ctx, log, position); err != nil {
		return nil, fmt.Errorf("replaying the log to position %d: %w", position, err)
	}
	return f.view(position), nil
}

// Continue folds what came after one position, up to another, into the objects that there were at the first: what a live view
// starts from. broken are those of them that the events had not led to soundly (they are there, and cannot be read); it is kept up to
// date. It returns how many events it has read. After an error nothing of what it was given has changed.
func Continue(ctx context.Context, log eventstore.Log, kinds *domain.Set, objects *memory.Store, broken map[domain.Ref]struct{}, after, to uint64) (events uint64, err error) {
	var base func(stream string) *folded
	if objects.Len() > 0 {
		base = func(stream string) *folded { return foldedOf(stream, objects, broken) }
	}
	f := newFolding(kinds, base)
	f.position = after
	if err := f.advance(ctx, log, to); err != nil {
		return 0, fmt.Errorf("replaying the log from position %d to %d: %w", after, to, err)
	}
	var made []*projections.Object
	for stream, o := range f.changed() {
		if o != nil {
			made = append(made, o.object(kinds))
			delete(broken, nameOf(o.ref()))
			if o.err != nil {
				broken[nameOf(o.ref())] = struct{}{}
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
	f := &folded{known: domain.Known{Ref: o.Ref}, replay: domain.NewReplay(projections.StateOf(o))}
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
