package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/internal/tasks"
	"github.com/shiplog/shiplog/projections"
)

// Leader says when this process may act. Where several control planes share a log only one places pods; should two do so for
// a moment, the bindings of one of them conflict and are tried again.
type Leader interface {
	// Lead calls run whenever this process leads, one call at a time, with a context that ends when it no longer does and the
	// position that an earlier leader's writes do not exceed. It returns when its context has ended, after run has returned.
	Lead(ctx context.Context, run func(ctx context.Context, since uint64)) error
}

// Config of a Scheduler. The zero value is usable.
type Config struct {
	Options
	// Leader, nil: this process always leads.
	Leader Leader
	// Concurrency is how many bindings (and other commands about pods) are in flight at a time; default 64.
	Concurrency int
	// Now is the clock; time.Now unless set.
	Now func() time.Time
	Log *slog.Logger
}

// Scheduler follows the live view and commits placements.
type Scheduler struct {
	live projections.Live
	bus  commands.Bus
	cfg  Config
	log  *slog.Logger
}

// New returns a scheduler. Run starts it.
func New(live projections.Live, bus commands.Bus, cfg Config) *Scheduler {
	cfg.Options = cfg.Options.withDefaults()
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = 64
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Scheduler{live: live, bus: bus, cfg: cfg, log: cfg.Log.With("component", "scheduler")}
}

// The collections that the scheduler reads.
var (
	podsResource       = domain.Resource{Resource: "pods"}
	nodesResource      = domain.Resource{Resource: "nodes"}
	servicesResource   = domain.Resource{Resource: "services"}
	namespacesResource = domain.Resource{Resource: "namespaces"}
	claimsResource     = domain.Resource{Resource: "persistentvolumeclaims"}
	volumesResource    = domain.Resource{Resource: "persistentvolumes"}
	classesResource    = domain.Resource{Group: "storage.k8s.io", Resource: "storageclasses"}
	budgetsResource    = domain.Resource{Group: "policy", Resource: "poddisruptionbudgets"}
	eventsResource     = domain.Resource{Resource: "events"}
)

// retryAfter is how long the scheduler waits after an error of the live view or the leadership.
const retryAfter = time.Second

// Run schedules while this process leads, until the context ends; it returns nil then.
func (s *Scheduler) Run(ctx context.Context) error {
	if s.cfg.Leader == nil {
		s.lead(ctx, 0)
		return nil
	}
	if err := s.cfg.Leader.Lead(ctx, s.lead); err != nil && ctx.Err() == nil {
		return fmt.Errorf("waiting to lead: %w", err)
	}
	return nil
}

// lead schedules until this process no longer leads.
func (s *Scheduler) lead(ctx context.Context, since uint64) {
	for ctx.Err() == nil {
		err := s.live.WaitFor(ctx, since)
		if err == nil {
			err = s.session(ctx)
		}
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, projections.ErrTooOld):
			s.log.Info("fell behind the live view: starting again from its current state")
		default:
			s.log.Error("following the live view", "err", err)
			wait(ctx, retryAfter)
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// session is one run from a snapshot of the live view on. All its fields belong to the goroutine of run.
type session struct {
	*Scheduler
	state    *State
	position uint64 // up to which state reflects the log
	queue    *queue
	assumed  map[types.NamespacedName]types.UID // placed, not yet seen bound
	done     chan func()                        // what is left to do after a command, run by this goroutine
	bind     tasks.Pool
	notes    tasks.Pool // conditions and Events: never in the way of bindings
}

func (s *Scheduler) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := &session{
		Scheduler: s, state: NewState(), queue: newQueue(), assumed: map[types.NamespacedName]types.UID{},
		done: make(chan func(), s.cfg.Concurrency),
	}
	x.bind = tasks.Pool{Limit: s.cfg.Concurrency, Done: x.done}
	x.notes = tasks.Pool{Limit: max(1, s.cfg.Concurrency/8), Done: x.done}
	err := x.run(ctx)
	// What was sent is waited for, so that the next session starts from a snapshot that has it.
	cancel()
	for x.bind.Running()+x.notes.Running() > 0 {
		(<-x.done)()
	}
	return err
}

// maxNotes bounds how many conditions and Events may wait to be written: in a storm Events are dropped.
const maxNotes = 10_000

func (x *session) run(ctx context.Context) error {
	view := x.live.Snapshot()
	x.load(view)
	follower, err := x.live.Follow(x.position, podsResource, nodesResource, servicesResource, namespacesResource, budgetsResource,
		claimsResource, volumesResource, classesResource)
	if err != nil {
		return fmt.Errorf("following from position %d: %w", x.position, err)
	}
	defer follower.Close()
	deliveries := make(chan delivery)
	go deliver(ctx, follower, deliveries)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		x.schedule(ctx)
		if at, ok := x.queue.next(); ok {
			timer.Reset(max(0, at.Sub(x.cfg.Now())))
		} else {
			timer.Stop()
		}
		select {
		case d := <-deliveries:
			if err := x.take(d); err != nil {
				return err
			}
		case f := <-x.done:
			f()
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		// Take in all that is there before the next round, so that rounds are few and large under load.
		for more := true; more; {
			select {
			case d := <-deliveries:
				if err := x.take(d); err != nil {
					return err
				}
			case f := <-x.done:
				f()
			default:
				more = false
			}
		}
		x.queue.wake(x.cfg.Now())
	}
}

// delivery is what the follower's goroutine hands over.
type delivery struct {
	changes  []projections.Change
	position uint64
	err      error
}

func deliver(ctx context.Context, f projections.Follower, out chan<- delivery) {
	for {
		changes, position, err := f.Next(ctx)
		select {
		case out <- delivery{changes, position, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// load takes in a whole snapshot.
func (x *session) load(view projections.Reader) {
	for n := range projections.List[*corev1.Node](view, nodesResource, "") {
		x.state.SetNode(n)
	}
	for n := range projections.List[*corev1.Namespace](view, namespacesResource, "") {
		x.state.SetNamespace(n)
	}
	for s := range projections.List[*corev1.Service](view, servicesResource, "") {
		x.state.SetService(s)
	}
	for b := range projections.List[*policyv1.PodDisruptionBudget](view, budgetsResource, "") {
		x.state.SetBudget(b)
	}
	for c := range projections.List[*storagev1.StorageClass](view, classesResource, "") {
		x.state.SetStorageClass(c)
	}
	for v := range projections.List[*corev1.PersistentVolume](view, volumesResource, "") {
		x.state.SetVolume(v)
	}
	for c := range projections.List[*corev1.PersistentVolumeClaim](view, claimsResource, "") {
		x.state.SetClaim(c)
	}
	for o := range view.List(podsResource, "") {
		pod, ok := projections.As[*corev1.Pod](o)
		if !ok {
			continue
		}
		x.state.SetPod(pod)
		if Wants(pod, x.cfg.Name) {
			e := &entry{pending: NewPending(pod), cause: &domain.Cause{Position: o.Position}}
			x.nominate(e, pod.Status.NominatedNodeName)
			x.queue.add(e)
		}
	}
	x.position = view.Position()
}

// schedule decides on all pods that are ready and sends the decisions off.
func (x *session) schedule(ctx context.Context) {
	ready := x.queue.takeReady()
	if len(ready) == 0 {
		return
	}
	now := x.cfg.Now()
	byKey := make(map[types.NamespacedName]*entry, len(ready))
	pods := make([]Pending, len(ready))
	for i, e := range ready {
		pods[i] = e.pending
		byKey[podKey(e.pending.Pod())] = e
	}
	for _, p := range Schedule(x.state.Snapshot(x.position), pods, x.cfg.Options) {
		e := byKey[podKey(p.Pending.Pod())]
		if p.Node == "" {
			x.queue.wait(e, now, p.Reasons)
			x.nominate(e, p.Nominated)
			x.sayUnschedulable(ctx, e)
			x.preempt(ctx, e, p)
			continue
		}
		x.assume(ctx, e, p)
	}
}

// assume counts a pod as bound and sends its binding.
func (x *session) assume(ctx context.Context, e *entry, p Placement) {
	pod := p.Pending.Pod()
	key := podKey(pod)
	x.nominate(e, "")
	x.state.Assume(p.Pending, p.Node)
	x.assumed[key] = pod.UID
	e.state = binding
	x.queue.wakeFor(x.cfg.Now(), nil, PodTopologySpread, InterPodAffinity)
	cmd, err := x.bindCommand(e, p)
	if err != nil {
		x.log.Error("describing a binding", "pod", key, "err", err)
		x.forget(key, e, err)
		return
	}
	x.bind.Submit(ctx, func(ctx context.Context) func() {
		err := x.chooseNode(ctx, e, p)
		if err == nil {
			_, err = x.bus.Do(ctx, cmd)
		}
		return func() {
			if err != nil {
				x.log.Debug("binding refused", "pod", key, "node", p.Node, "err", err)
				x.forget(key, e, err)
				return
			}
			x.queue.remove(key, e)
			x.sayScheduled(ctx, e, p.Node)
		}
	})
}

// selectedNode is the annotation by which a provisioner learns where to make the volume of a claim.
const selectedNode = "volume.kubernetes.io/selected-node"

// chooseNode tells those who make volumes on which node the pod will be.
func (x *session) chooseNode(ctx context.Context, e *entry, p Placement) error {
	for _, name := range p.Claims {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{selectedNode: p.Node}}})
		if err != nil {
			return fmt.Errorf("choosing a node for claim %s: %w", name, err)
		}
		_, err = x.bus.Do(ctx, commands.Command{
			Verb: commands.Patch, Resource: corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"),
			Namespace: p.Pending.Pod().Namespace, Name: name, Patch: patch, PatchType: types.StrategicMergePatchType,
			Actor: x.actor(), Cause: e.cause, Correlation: e.correlation,
		})
		if err != nil {
			return fmt.Errorf("choosing a node for claim %s: %w", name, err)
		}
	}
	return nil
}

func (x *session) bindCommand(e *entry, p Placement) (commands.Command, error) {
	pod := p.Pending.Pod()
	evidence, err := json.Marshal(p.Reasons)
	if err != nil {
		return commands.Command{}, fmt.Errorf("encoding the reasons: %w", err)
	}
	return commands.Command{
		Verb: commands.Create, Resource: podsVersioned, Subresource: "binding",
		Namespace: pod.Namespace, Name: pod.Name,
		Object: &corev1.Binding{
			// The UID makes sure that it is this pod and not a later one of the same name.
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: p.Node},
		},
		Actor: x.actor(), Cause: e.cause, Correlation: e.correlation, Evidence: evidence,
	}, nil
}

// forget drops an assumption after a refused binding and tries again later, unless the pod was seen bound or gone meanwhile.
func (x *session) forget(key types.NamespacedName, e *entry, _ error) {
	if x.assumed[key] != e.pending.Pod().UID {
		return
	}
	delete(x.assumed, key)
	x.state.RemovePod(key)
	if x.queue.has(key, e) {
		x.queue.backOff(e, x.cfg.Now())
	}
	x.queue.wakeFor(x.cfg.Now(), nil, NodeResourcesFit, NodePorts, PodTopologySpread, InterPodAffinity)
}

var podsVersioned = corev1.SchemeGroupVersion.WithResource("pods")

func (x *session) actor() domain.Actor {
	return domain.Actor{User: "system:kube-scheduler", Groups: []string{"system:authenticated"}, UserAgent: x.cfg.Name}
}
