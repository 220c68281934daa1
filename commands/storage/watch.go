package storage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

const (
	// bookmarkEvery is how often a watch that asks for bookmarks is told how far it has come.
	bookmarkEvery = time.Minute
	// bookmarkBeforeEnd is how long before the end of its request a watch gets its last bookmark.
	bookmarkBeforeEnd = 2 * time.Second
	// watchBuffer is how many events wait for a slow client before its watch waits itself.
	watchBuffer = 64
	// replayBatch is how many events of the past are read at once.
	replayBatch = 1000
)

// Watch implements storage.Interface. A watch is ordered (by position), unique, complete (nothing between its start and its
// last event is missing) and resumable (from the resourceVersion of any event or bookmark that it sent).
func (s *Store) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	at, err := s.collection(key, opts.Recursive)
	if err != nil {
		return nil, err
	}
	after, err := s.parseVersion(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{
		store: s, at: at, pred: opts.Predicate, position: after, result: make(chan watch.Event, watchBuffer), cancel: cancel,
		initial:  opts.SendInitialEvents == nil && after == 0 || opts.SendInitialEvents != nil && *opts.SendInitialEvents,
		marked:   opts.SendInitialEvents != nil && *opts.SendInitialEvents,
		progress: opts.ProgressNotify,
	}
	if ctx.Err() != nil {
		close(w.result)
		cancel()
		return w, nil
	}
	if err := w.begin(ctx, opts.ResourceVersion); err != nil {
		cancel()
		return nil, err
	}
	go w.run(ctx)
	return w, nil
}

// watcher is one watch.
type watcher struct {
	store    *Store
	at       place
	pred     storage.SelectionPredicate
	initial  bool // begin with what there is
	marked   bool // and say where that ends
	progress bool // tell the position whenever it moves on
	snapshot projections.Reader
	position uint64 // up to which everything has been delivered

	result chan watch.Event
	cancel context.CancelFunc
	once   sync.Once
}

// ResultChan implements watch.Interface.
func (w *watcher) ResultChan() <-chan watch.Event { return w.result }

// Stop implements watch.Interface.
func (w *watcher) Stop() { w.once.Do(w.cancel) }

// begin finds where the watch starts.
func (w *watcher) begin(ctx context.Context, rv string) error {
	if _, past := AsOf(ctx); past {
		return nil
	}
	switch {
	case w.initial:
		snap, err := w.store.notOlder(ctx, rv)
		if err != nil {
			return err
		}
		w.snapshot, w.position = snap, snap.Position()
	case w.position == 0:
		snap, err := w.store.Current(ctx)
		if err != nil {
			return err
		}
		w.position = snap.Position()
	}
	return nil
}

func (w *watcher) run(ctx context.Context) {
	defer close(w.result)
	defer w.Stop()
	err := w.watch(ctx)
	if err == nil || ctx.Err() != nil {
		return
	}
	w.send(ctx, watch.Event{Type: watch.Error, Object: statusOf(err)})
}

func statusOf(err error) *metav1.Status {
	var api apierrors.APIStatus
	if errors.As(err, &api) {
		st := api.Status()
		return &st
	}
	return &apierrors.NewInternalError(err).ErrStatus
}

func (w *watcher) watch(ctx context.Context) error {
	if at, past := AsOf(ctx); past {
		return w.watchPast(ctx, at)
	}
	if w.initial {
		if err := w.sendInitial(ctx, source{position: w.position, reader: w.snapshot}); err != nil {
			return err
		}
		w.snapshot = nil
	}
	utilflowcontrol.WatchInitialized(ctx)
	for {
		f, err := w.store.live.Follow(w.position, w.store.gr)
		if err == nil {
			return w.follow(ctx, f)
		}
		if !errors.Is(err, projections.ErrTooOld) {
			return err
		}
		reached, err := w.replay(ctx, w.position, 0)
		if err != nil {
			return err
		}
		if reached == w.position {
			// History is no further than what the live view has dropped already: it is catching up.
			return apierrors.NewServiceUnavailable("the read model that knows the past is catching up; try again")
		}
		w.position = reached
	}
}

// follow delivers what happens from now on.
func (w *watcher) follow(ctx context.Context, f projections.Follower) error {
	defer f.Close()
	bookmark := w.nextBookmark(ctx, true)
	for {
		// Everything up to here has been delivered when Next finds nothing to deliver.
		reached := w.store.live.Snapshot().Position()
		changes, position, err := w.next(ctx, f, bookmark)
		switch {
		case errors.Is(err, projections.ErrTooOld):
			return apierrors.NewResourceExpired(fmt.Sprintf("this watch fell behind at resourceVersion %d; start again from a new list", w.position))
		case err != nil && ctx.Err() != nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			w.position = max(w.position, reached)
			if err := w.sendBookmark(ctx, w.position, false); err != nil {
				return err
			}
			bookmark = w.nextBookmark(ctx, false)
			continue
		case err != nil:
			return err
		}
		for _, c := range changes {
			if c.Event.Position <= w.position {
				continue
			}
			if err := w.deliver(ctx, c); err != nil {
				return err
			}
			w.position = c.Event.Position
		}
		if w.progress && len(changes) == 0 && position > w.position {
			if err := w.sendBookmark(ctx, position, false); err != nil {
				return err
			}
		}
		w.position = max(w.position, position)
	}
}

// next waits for changes until it is time for a bookmark.
func (w *watcher) next(ctx context.Context, f projections.Follower, bookmark time.Time) ([]projections.Change, uint64, error) {
	if bookmark.IsZero() {
		return f.Next(ctx)
	}
	timed, cancel := context.WithDeadline(ctx, bookmark)
	defer cancel()
	return f.Next(timed)
}

// nextBookmark says when the next bookmark is due; never for a watch that asked for none.
func (w *watcher) nextBookmark(ctx context.Context, first bool) time.Time {
	if !w.pred.AllowWatchBookmarks {
		return time.Time{}
	}
	now := time.Now()
	due := now.Add(bookmarkEvery)
	if end, ok := ctx.Deadline(); ok {
		last := end.Add(-bookmarkBeforeEnd)
		if last.Before(now) {
			if first {
				return now.Add(time.Until(end) / 2)
			}
			return time.Time{}
		}
		if last.Before(due) {
			return last
		}
	}
	return due
}

// sendInitial delivers what there is as if it had just been added.
func (w *watcher) sendInitial(ctx context.Context, src source) error {
	objects, _, err := w.store.candidates(ctx, src, w.at, w.pred)
	if err != nil {
		return err
	}
	for o := range objects {
		obj, err := w.selected(o)
		if err != nil || obj == nil {
			continue
		}
		if !w.send(ctx, watch.Event{Type: watch.Added, Object: obj}) {
			return nil
		}
	}
	if w.marked && w.pred.AllowWatchBookmarks {
		return w.sendBookmark(ctx, src.position, true)
	}
	return nil
}

// replay delivers what happened after a position, up to another (0: everything that history knows, to go on with the present), and
// returns how far it came. Who goes on with the present must not take a payload that was superseded meanwhile, and erased, for one that was
// emptied: such a watch has to start again from a list.
func (w *watcher) replay(ctx context.Context, after, through uint64) (uint64, error) {
	h := w.store.history
	if h == nil {
		return 0, expired(after, errNoHistory)
	}
	known, err := h.Position(ctx)
	if err != nil {
		return 0, pastError(after, err)
	}
	present := through == 0
	if through == 0 || through > known {
		through = known
	}
	if through <= after {
		return after, nil
	}
	state, err := h.ListAt(ctx, w.store.gr, w.at.namespace, after)
	if err != nil {
		return 0, pastError(after, err)
	}
	r := newReplay(w.store.kind, w.store.kinds, state)
	for from := after; ; {
		events, err := h.Events(ctx, projections.EventQuery{
			Group: w.store.gr.Group, Resource: w.store.gr.Resource, Namespace: w.at.namespace, Name: w.at.name,
			After: from, Through: through, Limit: replayBatch,
		})
		if err != nil {
			return 0, pastError(from, err)
		}
		for _, ev := range events {
			c, err := r.apply(ev)
			if err != nil {
				return 0, err
			}
			if c == nil {
				continue
			}
			if present && w.concerns(*c) && erasedIn(c.After) {
				return 0, expired(after, errErasedMeanwhile)
			}
			if err := w.deliver(ctx, *c); err != nil {
				return 0, err
			}
		}
		if len(events) < replayBatch {
			return through, nil
		}
		from = events[len(events)-1].Position
	}
}

// errErasedMeanwhile says why a watch cannot be resumed.
var errErasedMeanwhile = errors.New("what was sealed then has been superseded and erased")

func erasedIn(o *projections.Object) bool {
	if o == nil || !domain.IsSealed(o.JSON) {
		return false
	}
	typed, err := o.Typed()
	return err == nil && domain.Erased(typed)
}

// watchPast is a watch of the cluster as it was: what there was, what happened up to then, and no more.
func (w *watcher) watchPast(ctx context.Context, at uint64) error {
	if w.initial || w.position == 0 {
		if w.initial {
			if err := w.sendInitial(ctx, source{position: at}); err != nil {
				return err
			}
		}
	} else if _, err := w.replay(ctx, w.position, at); err != nil {
		return err
	}
	if w.pred.AllowWatchBookmarks && !w.marked {
		if err := w.sendBookmark(ctx, at, false); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// deliver sends what a change means to this watch: an object that begins to match is added, one that ceases to is deleted.
func (w *watcher) deliver(ctx context.Context, c projections.Change) error {
	if !w.concerns(c) {
		return nil
	}
	var before, after runtime.Object
	var err error
	if c.After != nil {
		if after, err = w.selected(c.After); err != nil {
			return err
		}
	}
	if c.Before != nil && (after == nil || !w.pred.Empty()) {
		if before, err = w.selected(c.Before); err != nil {
			return err
		}
	}
	switch {
	case after != nil && c.Before != nil && (before != nil || w.pred.Empty()):
		w.send(ctx, watch.Event{Type: watch.Modified, Object: after})
	case after != nil:
		w.send(ctx, watch.Event{Type: watch.Added, Object: after})
	case before != nil:
		// The object as it was when it left, with the version of its leaving.
		if err := w.store.setVersion(before, c.Event.Position); err != nil {
			return err
		}
		w.send(ctx, watch.Event{Type: watch.Deleted, Object: before})
	}
	return nil
}

func (w *watcher) concerns(c projections.Change) bool {
	if w.at.nowhere {
		return false
	}
	ref := c.Event.Ref
	return (w.at.namespace == "" || ref.Namespace == w.at.namespace) && (w.at.name == "" || ref.Name == w.at.name)
}

// selected returns an object in the caller's type if the watch's predicate selects it, nil if not.
func (w *watcher) selected(o *projections.Object) (runtime.Object, error) {
	typed, err := o.Typed()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", o.Ref, err)
	}
	if !labelled(w.pred.Label, typed) {
		return nil, nil
	}
	out := w.store.newObj()
	if err := w.store.convert(typed, out); err != nil {
		return nil, err
	}
	if !w.pred.Empty() {
		if match, err := w.pred.Matches(out); err != nil || !match {
			return nil, err
		}
	}
	return out, nil
}

func (w *watcher) sendBookmark(ctx context.Context, position uint64, initialEnd bool) error {
	obj := w.store.newObj()
	if err := w.store.setVersion(obj, position); err != nil {
		return err
	}
	if initialEnd {
		m, err := meta.Accessor(obj)
		if err != nil {
			return fmt.Errorf("making a bookmark: %w", err)
		}
		m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	w.send(ctx, watch.Event{Type: watch.Bookmark, Object: obj})
	return nil
}

// send hands an event to the client and says whether the watch goes on.
func (w *watcher) send(ctx context.Context, e watch.Event) bool {
	select {
	case w.result <- e:
		return true
	default:
	}
	select {
	case w.result <- e:
		return true
	case <-ctx.Done():
		return false
	}
}
