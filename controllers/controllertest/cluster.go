package controllertest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// Cluster keeps objects in memory as the API would: uids, generations, resourceVersions, conflicts, finalizers, graceful
// deletion of pods that are on a node. It admits everything that Refuse does not refuse. It implements commands.Bus and
// projections.Live.
type Cluster struct {
	// Refuse, when set, may refuse a command by returning an API status. It is called with the cluster locked.
	Refuse func(commands.Command) error
	// Now is the cluster's clock; nil: time.Now.
	Now func() time.Time
	// Lag is how long the live view takes to show a change. Set it before the first one.
	Lag time.Duration

	kinds *domain.Set

	mu       sync.Mutex
	store    *memory.Store
	position uint64
	visible  uint64 // what the live view shows; position without a lag
	uids     int
	changes  []projections.Change
	views    map[uint64]*memory.Snapshot // of the last positions, for stale reads
	log      []commands.Command
	moved    chan struct{} // closed and replaced at every change
}

// keptViews is how many of the last states Cluster.View knows.
const keptViews = 64

// NewCluster makes a cluster of some objects, created in their order.
func NewCluster(objects ...runtime.Object) *Cluster {
	c := &Cluster{kinds: domain.NewSet(domain.Kinds()), store: memory.NewStore(), views: map[uint64]*memory.Snapshot{}, moved: make(chan struct{})}
	for _, o := range objects {
		c.MustCreate(o)
	}
	return c
}

// Kinds are those of the cluster.
func (c *Cluster) Kinds() *domain.Set { return c.kinds }

// MustCreate creates an object as an administrator does, its status included, and panics when it cannot.
func (c *Cluster) MustCreate(o runtime.Object) runtime.Object {
	k := c.kindOf(o)
	m, err := meta.Accessor(o)
	if err != nil {
		panic(err)
	}
	return c.MustDo(commands.Command{
		Verb: commands.Create, Resource: k.GroupVersionResource(), Namespace: m.GetNamespace(), Name: m.GetName(), Object: o,
		Actor: domain.Actor{User: "admin"},
	})
}

// MustDo carries out a command and panics when it is refused.
func (c *Cluster) MustDo(cmd commands.Command) runtime.Object {
	r, err := c.Do(context.Background(), cmd)
	if err != nil {
		panic(fmt.Sprintf("%s %s %s/%s: %v", cmd.Verb, cmd.Resource.Resource, cmd.Namespace, cmd.Name, err))
	}
	return r.Object
}

func (c *Cluster) kindOf(o runtime.Object) *domain.Kind {
	for _, k := range c.kinds.All() {
		if fmt.Sprintf("%T", k.New()) == fmt.Sprintf("%T", o) {
			return k
		}
	}
	panic(fmt.Sprintf("no kind is a %T", o))
}

// Commands returns the commands that were carried out, in order.
func (c *Cluster) Commands() []commands.Command {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.log)
}

// Changes returns what happened after a position.
func (c *Cluster) Changes(after uint64) []projections.Change {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.since(after))
}

func (c *Cluster) since(after uint64) []projections.Change {
	i, _ := slices.BinarySearchFunc(c.changes, after+1, func(ch projections.Change, p uint64) int {
		return int(ch.Event.Position) - int(p)
	})
	return c.changes[i:]
}

// View returns the cluster as it was at one of the last positions.
func (c *Cluster) View(position uint64) (projections.Reader, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.views[position]
	return v, ok
}

// Snapshot implements projections.Live.
func (c *Cluster) Snapshot() projections.Reader {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.visible < c.position {
		if v, ok := c.views[c.visible]; ok {
			return v
		}
		return memory.NewStore().Snapshot(0)
	}
	return c.store.Snapshot(c.position)
}

// WaitFor implements projections.Live.
func (c *Cluster) WaitFor(ctx context.Context, position uint64) error {
	for {
		c.mu.Lock()
		reached, moved := c.visible >= position, c.moved
		c.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		}
	}
}

// Expect implements projections.Live; the cluster has no use for hints.
func (c *Cluster) Expect(string, runtime.Object) {}

// Follow implements projections.Live. It delivers the changes of all resources.
func (c *Cluster) Follow(after uint64, _ ...domain.Resource) (projections.Follower, error) {
	return &follower{cluster: c, after: after}, nil
}

type follower struct {
	cluster *Cluster
	after   uint64
}

func (f *follower) Next(ctx context.Context) ([]projections.Change, uint64, error) {
	for {
		f.cluster.mu.Lock()
		changes, moved := slices.Clone(f.cluster.since(f.after)), f.cluster.moved
		changes = changes[:len(changes)-int(f.cluster.position-max(f.after, f.cluster.visible))]
		f.cluster.mu.Unlock()
		if len(changes) > 0 {
			f.after = changes[len(changes)-1].Event.Position
			return changes, f.after, nil
		}
		select {
		case <-ctx.Done():
			return nil, f.after, ctx.Err()
		case <-moved:
		}
	}
}

func (f *follower) Close() {}

// Do implements commands.Bus.
func (c *Cluster) Do(ctx context.Context, cmd commands.Command) (commands.Result, error) {
	if err := ctx.Err(); err != nil {
		return commands.Result{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Refuse != nil {
		if err := c.Refuse(cmd); err != nil {
			return commands.Result{}, err
		}
	}
	kind, ok := c.kinds.ByResource(cmd.Resource.GroupResource())
	if !ok {
		return commands.Result{}, apierrors.NewNotFound(cmd.Resource.GroupResource(), cmd.Name)
	}
	before, exists := c.store.Get(cmd.Resource.GroupResource(), cmd.Namespace, cmd.Name)
	if cmd.Verb != commands.Create && !exists {
		return commands.Result{}, apierrors.NewNotFound(cmd.Resource.GroupResource(), cmd.Name)
	}
	var result commands.Result
	var err error
	switch cmd.Verb {
	case commands.Create:
		result, err = c.create(cmd, kind, exists)
	case commands.Update:
		result, err = c.update(cmd, kind, before, cmd.Object)
	case commands.Patch:
		result, err = c.patch(cmd, kind, before)
	case commands.Delete:
		result, err = c.delete(cmd, kind, before)
	default:
		err = apierrors.NewBadRequest("unknown verb " + string(cmd.Verb))
	}
	if err == nil {
		c.log = append(c.log, cmd)
	}
	return result, err
}

func (c *Cluster) now() metav1.Time {
	if c.Now != nil {
		return metav1.NewTime(c.Now())
	}
	return metav1.NewTime(time.Now())
}

func (c *Cluster) create(cmd commands.Command, kind *domain.Kind, exists bool) (commands.Result, error) {
	gr := cmd.Resource.GroupResource()
	if cmd.Subresource == "binding" || cmd.Subresource == "eviction" {
		return commands.Result{}, apierrors.NewBadRequest("the cluster of controllertest has no " + cmd.Subresource)
	}
	if exists {
		return commands.Result{}, apierrors.NewAlreadyExists(gr, cmd.Name)
	}
	if ns, ok := c.store.Get(domain.Resource{Resource: "namespaces"}, "", cmd.Namespace); ok && kind.Namespaced {
		if n, ok := projections.As[*corev1.Namespace](ns); ok && n.DeletionTimestamp != nil {
			err := apierrors.NewForbidden(gr, cmd.Name, fmt.Errorf("namespace %s is being terminated", cmd.Namespace))
			err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
			return commands.Result{}, err
		}
	}
	obj := cmd.Object.DeepCopyObject()
	m, err := meta.Accessor(obj)
	if err != nil {
		return commands.Result{}, apierrors.NewBadRequest(err.Error())
	}
	if m.GetUID() == "" {
		c.uids++
		m.SetUID(types.UID(fmt.Sprintf("uid-%d", c.uids)))
	}
	if ts := m.GetCreationTimestamp(); ts.IsZero() {
		m.SetCreationTimestamp(c.now())
	}
	if m.GetGeneration() == 0 {
		m.SetGeneration(1)
	}
	m.SetResourceVersion("")
	return c.put(cmd, kind, nil, obj)
}

// put writes an object and returns it as it can be read from now on.
func (c *Cluster) put(cmd commands.Command, kind *domain.Kind, before *projections.Object, obj runtime.Object) (commands.Result, error) {
	data, err := domain.Encode(kind, obj)
	if err != nil {
		return commands.Result{}, apierrors.NewBadRequest(err.Error())
	}
	if before != nil && string(before.JSON) == string(data) {
		typed, _ := before.Typed()
		return commands.Result{Object: typed, Position: before.Position}, nil
	}
	c.position++
	ref, err := domain.ObjectRef(kind, obj)
	if err != nil {
		return commands.Result{}, apierrors.NewBadRequest(err.Error())
	}
	after := memory.Decoded(c.kinds, projections.Object{Kind: kind, Ref: ref, Position: c.position, JSON: data})
	typed, err := after.Typed()
	if err != nil {
		return commands.Result{}, apierrors.NewBadRequest(err.Error())
	}
	c.store.Put(after)
	op := domain.Changed
	if before == nil {
		op = domain.Created
	}
	c.happened(cmd, op, ref, before, after)
	return commands.Result{Object: typed, Position: c.position}, nil
}

func (c *Cluster) happened(cmd commands.Command, op domain.Op, ref domain.Ref, before, after *projections.Object) {
	c.changes = append(c.changes, projections.Change{
		Event: domain.Event{
			ID: fmt.Sprintf("event-%d", c.position), Type: kindWord(op), Ref: ref, Op: op, Position: c.position, Actor: cmd.Actor,
			Correlation: cmd.Correlation, Cause: cmd.Cause, Command: domain.CommandInfo{Verb: string(cmd.Verb), Subresource: cmd.Subresource},
		},
		Before: before, After: after,
	})
	c.views[c.position] = c.store.Snapshot(c.position)
	if c.Lag == 0 {
		delete(c.views, c.position-keptViews)
		c.show(c.position)
		return
	}
	position := c.position
	time.AfterFunc(c.Lag, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.show(position)
	})
}

func (c *Cluster) show(position uint64) {
	c.visible = max(c.visible, position)
	close(c.moved)
	c.moved = make(chan struct{})
}

func kindWord(op domain.Op) string { return "Object" + string(op) }

func (c *Cluster) update(cmd commands.Command, kind *domain.Kind, before *projections.Object, object runtime.Object) (commands.Result, error) {
	gr := cmd.Resource.GroupResource()
	typed, err := before.Typed()
	if err != nil {
		return commands.Result{}, apierrors.NewInternalError(err)
	}
	old, err := meta.Accessor(typed)
	if err != nil {
		return commands.Result{}, apierrors.NewInternalError(err)
	}
	obj := object.DeepCopyObject()
	m, err := meta.Accessor(obj)
	if err != nil {
		return commands.Result{}, apierrors.NewBadRequest(err.Error())
	}
	if rv := m.GetResourceVersion(); rv != "" && rv != strconv.FormatUint(before.Position, 10) {
		return commands.Result{}, apierrors.NewConflict(gr, cmd.Name, fmt.Errorf("resourceVersion %s is not %d", rv, before.Position))
	}
	if m.GetUID() != "" && m.GetUID() != old.GetUID() {
		return commands.Result{}, apierrors.NewConflict(gr, cmd.Name, fmt.Errorf("uid %s is not %s", m.GetUID(), old.GetUID()))
	}
	if obj, err = merge(cmd.Subresource, typed, obj); err != nil {
		return commands.Result{}, apierrors.NewBadRequest(err.Error())
	}
	m, _ = meta.Accessor(obj)
	m.SetUID(old.GetUID())
	m.SetCreationTimestamp(old.GetCreationTimestamp())
	m.SetDeletionTimestamp(old.GetDeletionTimestamp())
	m.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	m.SetGeneration(old.GetGeneration())
	if !equality.Semantic.DeepEqual(part(typed, "spec"), part(obj, "spec")) {
		m.SetGeneration(old.GetGeneration() + 1)
	}
	if m.GetDeletionTimestamp() != nil && len(m.GetFinalizers()) == 0 && !waits(obj) {
		return c.remove(cmd, before)
	}
	return c.put(cmd, kind, before, obj)
}

// waits says whether an object that is being deleted stays although it has no metadata.finalizers.
func waits(obj runtime.Object) bool {
	switch o := obj.(type) {
	case *corev1.Namespace:
		return len(o.Spec.Finalizers) > 0
	case *corev1.Pod:
		return o.DeletionGracePeriodSeconds != nil && *o.DeletionGracePeriodSeconds > 0
	}
	return false
}

// merge returns the wanted object with the parts that the subresource cannot change as they were.
func merge(subresource string, old, wanted runtime.Object) (runtime.Object, error) {
	from, into := wanted, old
	var fields []string
	switch subresource {
	case "": // all but the status
		from, into, fields = old, wanted, []string{"status"}
	case "status":
		fields = []string{"status", "metadata"}
	case "finalize":
		fields = []string{"spec"}
	default:
		return nil, fmt.Errorf("the cluster of controllertest has no %s", subresource)
	}
	a, err := asMap(from)
	if err != nil {
		return nil, err
	}
	b, err := asMap(into)
	if err != nil {
		return nil, err
	}
	b = maps.Clone(b)
	for _, f := range fields {
		if v, ok := a[f]; ok {
			b[f] = v
		} else {
			delete(b, f)
		}
	}
	data, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	out := old.DeepCopyObject()
	clearInto(out)
	if err := json.Unmarshal(data, out); err != nil {
		return nil, err
	}
	return out, nil
}

func part(obj runtime.Object, field string) any {
	m, err := asMap(obj)
	if err != nil {
		return nil
	}
	return m[field]
}

func asMap(obj runtime.Object) (map[string]any, error) {
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	return m, json.Unmarshal(data, &m)
}

func (c *Cluster) patch(cmd commands.Command, kind *domain.Kind, before *projections.Object) (commands.Result, error) {
	if cmd.PatchType != types.MergePatchType {
		return commands.Result{}, apierrors.NewBadRequest("the cluster of controllertest takes merge patches only")
	}
	data, err := jsonpatch.MergePatch(before.JSON, cmd.Patch)
	if err != nil {
		return commands.Result{}, apierrors.NewBadRequest(err.Error())
	}
	obj := kind.New()
	if err := json.Unmarshal(data, obj); err != nil {
		return commands.Result{}, apierrors.NewBadRequest(err.Error())
	}
	return c.update(cmd, kind, before, obj)
}

func (c *Cluster) delete(cmd commands.Command, kind *domain.Kind, before *projections.Object) (commands.Result, error) {
	typed, err := before.Typed()
	if err != nil {
		return commands.Result{}, apierrors.NewInternalError(err)
	}
	obj := typed.DeepCopyObject()
	m, err := meta.Accessor(obj)
	if err != nil {
		return commands.Result{}, apierrors.NewInternalError(err)
	}
	o := metav1.DeleteOptions{}
	if cmd.DeleteOptions != nil {
		o = *cmd.DeleteOptions
	}
	if p := o.Preconditions; p != nil && ((p.UID != nil && *p.UID != m.GetUID()) || (p.ResourceVersion != nil && *p.ResourceVersion != m.GetResourceVersion())) {
		return commands.Result{}, apierrors.NewConflict(cmd.Resource.GroupResource(), cmd.Name, fmt.Errorf("precondition failed"))
	}
	finalizers := slices.Clone(m.GetFinalizers())
	if o.PropagationPolicy != nil && m.GetDeletionTimestamp() == nil {
		switch *o.PropagationPolicy {
		case metav1.DeletePropagationOrphan:
			finalizers = append(finalizers, metav1.FinalizerOrphanDependents)
		case metav1.DeletePropagationForeground:
			finalizers = append(finalizers, metav1.FinalizerDeleteDependents)
		}
	}
	m.SetFinalizers(finalizers)
	grace := int64(0)
	if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		grace = 30
		if pod.Spec.TerminationGracePeriodSeconds != nil {
			grace = *pod.Spec.TerminationGracePeriodSeconds
		}
		if o.GracePeriodSeconds != nil {
			grace = *o.GracePeriodSeconds
		}
		if old := m.GetDeletionGracePeriodSeconds(); old != nil {
			grace = min(grace, *old)
		}
	}
	m.SetDeletionGracePeriodSeconds(&grace)
	if m.GetDeletionTimestamp() == nil {
		at := metav1.NewTime(c.now().Add(time.Duration(grace) * time.Second))
		m.SetDeletionTimestamp(&at)
		m.SetGeneration(m.GetGeneration() + 1)
	}
	if ns, ok := obj.(*corev1.Namespace); ok {
		ns.Status.Phase = corev1.NamespaceTerminating
	}
	if len(finalizers) == 0 && !waits(obj) {
		return c.remove(cmd, before)
	}
	return c.put(cmd, kind, before, obj)
}

func (c *Cluster) remove(cmd commands.Command, before *projections.Object) (commands.Result, error) {
	c.store.Delete(before.Ref.GroupResource(), before.Ref.Namespace, before.Ref.Name)
	c.position++
	c.happened(cmd, domain.Deleted, before.Ref, before, nil)
	typed, err := before.Typed()
	if err != nil {
		return commands.Result{}, apierrors.NewInternalError(err)
	}
	return commands.Result{Object: typed, Position: c.position}, nil
}
