package clustertest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// Cluster implements projections.Live and commands.Bus.
type Cluster struct {
	Kinds *domain.Set

	mu       sync.Mutex
	store    *memory.Store
	position uint64
	first    uint64 // changes after this position are kept
	changes  []projections.Change
	moved    chan struct{} // closed at each change
	refuse   func(commands.Command) error
	done     []commands.Command
	now      func() time.Time
}

var (
	_ projections.Live = (*Cluster)(nil)
	_ commands.Bus     = (*Cluster)(nil)
)

// New returns a cluster that holds the given objects.
func New(objects ...runtime.Object) *Cluster {
	c := &Cluster{Kinds: domain.NewSet(domain.Kinds()), store: memory.NewStore(), moved: make(chan struct{}), now: time.Now}
	for _, o := range objects {
		c.Put(o)
	}
	return c
}

// Refuse makes the bus ask the function first; a command for which it returns an error is refused with it. Nil: none is.
func (c *Cluster) Refuse(f func(commands.Command) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = f
}

// Done returns the commands that were carried out.
func (c *Cluster) Done() []commands.Command {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]commands.Command(nil), c.done...)
}

// Events returns what happened.
func (c *Cluster) Events() []domain.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]domain.Event, len(c.changes))
	for i := range c.changes {
		list[i] = c.changes[i].Event
	}
	return list
}

// Forget drops the buffer of changes: whoever follows from an earlier position gets ErrTooOld.
func (c *Cluster) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.first, c.changes = c.position, nil
	c.wake()
}

// Put adds or replaces an object, status included, past the bus.
func (c *Cluster) Put(obj runtime.Object) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	obj = obj.DeepCopyObject()
	k := c.kindOf(obj)
	m, err := meta.Accessor(obj)
	if err != nil {
		panic(err)
	}
	op := domain.Created
	if old, ok := c.store.Get(k.GroupResource(), m.GetNamespace(), m.GetName()); ok {
		op = domain.Changed
		if m.GetUID() == "" {
			m.SetUID(old.Ref.UID)
		}
	}
	if m.GetUID() == "" {
		m.SetUID(types.UID(uuid.NewString()))
	}
	c.write(k, obj, op, commands.Command{Verb: commands.Update, Actor: domain.Actor{User: "admin"}})
	return c.position
}

// Remove deletes an object at once, past the bus.
func (c *Cluster) Remove(gr domain.Resource, namespace, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o, ok := c.store.Get(gr, namespace, name); ok {
		c.erase(o, commands.Command{Verb: commands.Delete, Actor: domain.Actor{User: "admin"}})
	}
}

func (c *Cluster) kindOf(obj runtime.Object) *domain.Kind {
	if k, ok := c.Kinds.ByKind(obj.GetObjectKind().GroupVersionKind().GroupKind()); ok {
		return k
	}
	for _, k := range c.Kinds.All() {
		if fmt.Sprintf("%T", k.New()) == fmt.Sprintf("%T", obj) {
			return k
		}
	}
	panic(fmt.Sprintf("clustertest: no kind is a %T", obj))
}

// write stores a new state of an object; the caller holds the lock.
func (c *Cluster) write(k *domain.Kind, obj runtime.Object, op domain.Op, cmd commands.Command) *projections.Object {
	ref, err := domain.ObjectRef(k, obj)
	if err != nil {
		panic(err)
	}
	data, err := domain.Encode(k, obj)
	if err != nil {
		panic(err)
	}
	c.position++
	after, ok := memory.Known(projections.Object{Kind: k, Ref: ref, Position: c.position, JSON: data}, obj)
	if !ok {
		panic(fmt.Sprintf("clustertest: %T is not a %s", obj, k.Kind))
	}
	before := c.store.Put(after)
	var typedBefore runtime.Object
	if before != nil {
		typedBefore, _ = before.Typed()
	}
	typedAfter, _ := after.Typed()
	ev := c.event(ref, op, domain.EventType(k, typedBefore, typedAfter), cmd)
	if op == domain.Created {
		ev.Change = data
	}
	c.append(projections.Change{Event: ev, Before: before, After: after})
	return after
}

func (c *Cluster) erase(o *projections.Object, cmd commands.Command) {
	c.store.Delete(o.Ref.GroupResource(), o.Ref.Namespace, o.Ref.Name)
	c.position++
	typed, _ := o.Typed()
	c.append(projections.Change{Event: c.event(o.Ref, domain.Deleted, domain.EventType(o.Kind, typed, nil), cmd), Before: o})
}

func (c *Cluster) event(ref domain.Ref, op domain.Op, typ string, cmd commands.Command) domain.Event {
	correlation := cmd.Correlation
	if correlation == "" {
		correlation = uuid.NewString()
	}
	return domain.Event{
		ID: uuid.NewString(), Type: typ, Ref: ref, Op: op, Actor: cmd.Actor,
		Command:     domain.CommandInfo{Verb: string(cmd.Verb), Subresource: cmd.Subresource},
		Correlation: correlation, Cause: cmd.Cause, Evidence: cmd.Evidence,
		Time: c.now().UTC(), Version: domain.SchemaVersion, Position: c.position,
	}
}

func (c *Cluster) append(ch projections.Change) {
	c.changes = append(c.changes, ch)
	c.wake()
}

func (c *Cluster) wake() {
	close(c.moved)
	c.moved = make(chan struct{})
}

// Snapshot implements projections.Live.
func (c *Cluster) Snapshot() projections.Reader {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.store.Snapshot(c.position)
}

// Expect implements projections.Live; hints are not needed here.
func (c *Cluster) Expect(string, runtime.Object) {}

// WaitFor implements projections.Live.
func (c *Cluster) WaitFor(ctx context.Context, position uint64) error {
	for {
		c.mu.Lock()
		reached, moved := c.position >= position, c.moved
		c.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Follow implements projections.Live.
func (c *Cluster) Follow(after uint64, resources ...domain.Resource) (projections.Follower, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if after < c.first {
		return nil, fmt.Errorf("following from position %d: %w", after, projections.ErrTooOld)
	}
	f := &follower{cluster: c, after: after, resources: map[domain.Resource]bool{}}
	for _, r := range resources {
		f.resources[r] = true
	}
	return f, nil
}

type follower struct {
	cluster   *Cluster
	after     uint64
	resources map[domain.Resource]bool
}

func (f *follower) Close() {}

func (f *follower) Next(ctx context.Context) ([]projections.Change, uint64, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		changes, position, moved, err := f.read()
		if err != nil || position > f.after {
			f.after = max(f.after, position)
			return changes, position, err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

func (f *follower) read() ([]projections.Change, uint64, <-chan struct{}, error) {
	c := f.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.after < c.first {
		return nil, 0, nil, fmt.Errorf("following from position %d: %w", f.after, projections.ErrTooOld)
	}
	var list []projections.Change
	for _, ch := range c.changes[f.after-c.first:] {
		if len(f.resources) == 0 || f.resources[ch.Event.Ref.GroupResource()] {
			list = append(list, ch)
		}
	}
	return list, c.position, c.moved, nil
}

// Wait blocks until a condition holds in the view, and fails the test when it does not come to hold.
func (c *Cluster) Wait(t testing.TB, what string, holds func(projections.Reader) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		c.mu.Lock()
		view, moved := c.store.Snapshot(c.position), c.moved
		c.mu.Unlock()
		if holds(view) {
			return
		}
		select {
		case <-moved:
		case <-ctx.Done():
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}
