package informers

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/client-go/tools/cache"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// informer implements client-go's SharedIndexInformer for one kind.
type informer struct {
	factory *Factory
	kind    *domain.Kind // nil: a type that is not stored

	mu       sync.Mutex
	indexers cache.Indexers
}

var _ cache.SharedIndexInformer = (*informer)(nil)

func (i *informer) GetStore() cache.Store { return i.GetIndexer() }

func (i *informer) GetIndexer() cache.Indexer { return (*indexer)(i) }

func (i *informer) GetController() cache.Controller    { return nil }
func (i *informer) Run(stop <-chan struct{})           { <-stop }
func (i *informer) RunWithContext(ctx context.Context) { <-ctx.Done() }

func (i *informer) HasSynced() bool { return true }

func (i *informer) HasSyncedChecker() cache.DoneChecker { return synced{} }

func (i *informer) LastSyncResourceVersion() string { return "" }

func (i *informer) SetWatchErrorHandler(cache.WatchErrorHandler) error { return nil }

func (i *informer) SetWatchErrorHandlerWithContext(cache.WatchErrorHandlerWithContext) error {
	return nil
}

func (i *informer) SetTransform(cache.TransformFunc) error { return nil }

func (i *informer) IsStopped() bool { return i.factory.ctx.Err() != nil }

func (i *informer) AddIndexers(more cache.Indexers) error { return i.GetIndexer().AddIndexers(more) }

func (i *informer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandlerWithOptions(h, cache.HandlerOptions{})
}

func (i *informer) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, _ time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandlerWithOptions(h, cache.HandlerOptions{})
}

// AddEventHandlerWithOptions follows the live view on behalf of a handler. There are no resyncs.
func (i *informer) AddEventHandlerWithOptions(h cache.ResourceEventHandler, _ cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	ctx, cancel := context.WithCancel(i.factory.ctx)
	r := &registration{cancel: cancel, begun: make(chan struct{})}
	if i.kind == nil {
		close(r.begun)
		return r, nil
	}
	i.factory.wg.Go(func() { i.handle(ctx, h, r) })
	return r, nil
}

func (i *informer) RemoveEventHandler(r cache.ResourceEventHandlerRegistration) error {
	if reg, ok := r.(*registration); ok {
		reg.cancel()
	}
	return nil
}

// handle tells a handler what there is, and then what changes. A handler that falls too far behind is told the difference.
func (i *informer) handle(ctx context.Context, h cache.ResourceEventHandler, r *registration) {
	known := map[string]any{}
	for first := true; ctx.Err() == nil; first = false {
		snap := i.factory.live.Snapshot()
		seen := map[string]any{}
		for o := range snap.List(i.kind.GroupResource(), "") {
			typed, err := o.Typed()
			if err != nil {
				continue
			}
			stream := o.Ref.Stream()
			seen[stream] = typed
			if old, ok := known[stream]; ok {
				h.OnUpdate(old, typed)
			} else {
				h.OnAdd(typed, first)
			}
		}
		for stream, old := range known {
			if _, ok := seen[stream]; !ok {
				h.OnDelete(old)
			}
		}
		if first {
			close(r.begun)
		}
		if known = i.follow(ctx, h, snap.Position(), seen); known == nil {
			return
		}
	}
}

// follow tells a handler of changes until it falls behind; then it returns what the handler knows.
func (i *informer) follow(ctx context.Context, h cache.ResourceEventHandler, after uint64, known map[string]any) map[string]any {
	f, err := i.factory.live.Follow(after, i.kind.GroupResource())
	if err != nil {
		if errors.Is(err, projections.ErrTooOld) {
			return known
		}
		return nil
	}
	defer f.Close()
	for {
		changes, _, err := f.Next(ctx)
		if errors.Is(err, projections.ErrTooOld) {
			return known
		}
		if err != nil {
			return nil
		}
		for _, c := range changes {
			before, after := typedOf(c.Before), typedOf(c.After)
			stream := c.Event.Ref.Stream()
			switch {
			case after == nil && before != nil:
				delete(known, stream)
				h.OnDelete(before)
			case after != nil && before == nil:
				known[stream] = after
				h.OnAdd(after, false)
			case after != nil:
				known[stream] = after
				h.OnUpdate(before, after)
			}
		}
	}
}

func typedOf(o *projections.Object) any {
	if o == nil {
		return nil
	}
	typed, err := o.Typed()
	if err != nil {
		return nil
	}
	return typed
}

type registration struct {
	cancel context.CancelFunc
	begun  chan struct{}
}

func (r *registration) HasSynced() bool {
	select {
	case <-r.begun:
		return true
	default:
		return false
	}
}
func (r *registration) HasSyncedChecker() cache.DoneChecker { return checker{r.begun} }

type checker struct{ done chan struct{} }

func (c checker) Name() string          { return "live view" }
func (c checker) Done() <-chan struct{} { return c.done }

type synced struct{}

func (synced) Name() string { return "live view" }
func (synced) Done() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
