package resolvers

import (
	"context"
	"errors"
	"fmt"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/graphql/model"
	"github.com/shiplog/shiplog/graphql/view"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// Objects delivers the objects of a kind and how they change: a list and a watch in one.
func (s *subscription) Objects(ctx context.Context, kind string, namespace, name, labelSelector *string, after *model.Position) (<-chan *model.ObjectChange, error) {
	set := view.NewSet(s.Source)
	k, err := set.Kind(kind)
	if err != nil {
		return nil, err
	}
	if err := set.Allow(ctx, k, deref(namespace), "watch"); err != nil {
		return nil, err
	}
	selector, err := view.NewSelector(deref(labelSelector), "")
	if err != nil {
		return nil, err
	}
	w := &objectWatch{subscription: s, kind: k, namespace: deref(namespace), name: deref(name), selector: selector, out: make(chan *model.ObjectChange)}
	var present *view.View
	if after == nil {
		if present, err = set.Of(ctx, "now"); err != nil {
			return nil, err
		}
		w.position = present.Position()
	} else if w.position, err = s.start(ctx, after); err != nil {
		return nil, err
	}
	go func() {
		defer close(w.out)
		s.end(ctx, w.run(ctx, present))
	}()
	return w.out, nil
}

// objectWatch is one subscription to the objects of a kind.
type objectWatch struct {
	*subscription
	kind            *domain.Kind
	namespace, name string
	selector        view.Selector
	out             chan *model.ObjectChange
	position        uint64 // up to which everything has been delivered
}

func (w *objectWatch) run(ctx context.Context, present *view.View) error {
	if present != nil {
		list, err := present.List(ctx, w.kind, w.namespace)
		if err != nil {
			return err
		}
		for _, o := range list {
			if !w.wanted(o) {
				continue
			}
			added := &model.ObjectChange{Type: model.ChangeTypeAdded, Position: model.Position(w.position), Object: model.Wrap(present, o)}
			if err := send(ctx, w.out, added); err != nil {
				return err
			}
		}
	}
	if err := w.followLive(ctx); !errors.Is(err, projections.ErrTooOld) {
		return err
	}
	return w.followLog(ctx)
}

func (w *objectWatch) wanted(o *projections.Object) bool {
	return o != nil && (w.namespace == "" || o.Ref.Namespace == w.namespace) && (w.name == "" || o.Ref.Name == w.name) && w.selector.Matches(o)
}

// followLive delivers what the live view's buffer of recent changes holds and what comes; ErrTooOld when it does not hold what is
// next.
func (w *objectWatch) followLive(ctx context.Context) error {
	f, err := w.Source.Live.Follow(w.position, w.kind.GroupResource())
	if err != nil {
		return fmt.Errorf("following the live view: %w", err)
	}
	defer f.Close()
	for {
		changes, position, err := f.Next(ctx)
		if err != nil {
			return fmt.Errorf("following the live view: %w", err)
		}
		set := view.NewSet(w.Source)
		for _, c := range changes {
			if err := w.deliver(ctx, set, c); err != nil {
				return err
			}
			w.position = c.Event.Position
		}
		w.position = max(w.position, position)
	}
}

// followLog delivers the same from the log, folding the objects again.
func (w *objectWatch) followLog(ctx context.Context) error {
	prefix := domain.StreamPrefix(w.kind.GroupResource())
	if w.namespace != "" {
		prefix += w.namespace + "/"
	}
	states := map[string]*projections.Object{}
	return w.follow(ctx, w.position, eventstore.Filter{StreamPrefixes: []string{prefix}}, func(set *view.Set, e domain.Event) error {
		w.position = e.Position
		if e.Op == "" {
			return nil
		}
		before, known := states[e.Ref.Stream()]
		if !known {
			var err error
			if before, _, err = set.Before(ctx, e); err != nil {
				return err
			}
		}
		state := projections.StateOf(before)
		if state.Seen {
			state.Revision = e.Revision - 1 // facts that change no object may stand between
		}
		state, err := state.Apply(e)
		if err != nil {
			return err
		}
		c := projections.Change{Event: e, Before: before}
		if state.Exists {
			ref := e.Ref
			ref.UID = state.UID
			c.After = memory.Decoded(w.Source.Kinds, projections.Object{Kind: w.kind, Ref: ref, Position: e.Position, Revision: e.Revision, JSON: state.JSON})
		}
		states[e.Ref.Stream()] = c.After
		return w.deliver(ctx, set, c)
	})
}

// deliver tells of one change as the selector sees it: an object that begins to match is added, one that ceases to is deleted.
func (w *objectWatch) deliver(ctx context.Context, set *view.Set, c projections.Change) error {
	was, is := w.wanted(c.Before), w.wanted(c.After)
	if !was && !is {
		return nil
	}
	out := &model.ObjectChange{Type: model.ChangeTypeModified, Position: model.Position(c.Event.Position), Event: model.NewLogEvent(set, c.Event)}
	object, position := c.After, c.Event.Position
	switch {
	case !was:
		out.Type = model.ChangeTypeAdded
	case !is:
		out.Type = model.ChangeTypeDeleted
		if object == nil {
			object, position = c.Before, position-1
		}
	}
	v, err := set.At(ctx, position)
	if err != nil { // without a history what hangs on the object is answered as it is now
		if v, err = set.Of(ctx, "now"); err != nil {
			return err
		}
	}
	out.Object = model.Wrap(v, object)
	return send(ctx, w.out, out)
}
