package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/internal/due"
	"github.com/shiplog/shiplog/internal/tasks"
	"github.com/shiplog/shiplog/projections"
)

// Options of simulated nodes. The zero value of a field stands for its default.
type Options struct {
	Nodes       int
	Capacity    corev1.ResourceList // of each node; default 32 cores, 256Gi of memory, 1Ti of ephemeral storage
	PodsPerNode int                 // default 110
	NamePrefix  string              // default "sim-": nodes are called sim-0, sim-1, ...
	Zones       int                 // how many zones the nodes are spread over; 0: they say none
	Taints      []corev1.Taint
	Stages      []Stage      // default DefaultStages
	PodCIDR     netip.Prefix // default 10.128.0.0/10; the simulator gives each pod an address of its own of it
	NodeCIDR    netip.Prefix // default 10.250.0.0/16
	Concurrency int          // how many commands about pods are in flight; default 64
	Version     string       // that the nodes say their kubelet is of; default "v1.37.2"
	Now         func() time.Time
	Log         *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if len(o.Capacity) == 0 {
		o.Capacity = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"),
			corev1.ResourceEphemeralStorage: resource.MustParse("1Ti"),
		}
	}
	o.PodsPerNode = cmp.Or(o.PodsPerNode, 110)
	o.NamePrefix = cmp.Or(o.NamePrefix, "sim-")
	o.PodCIDR = cmp.Or(o.PodCIDR, netip.MustParsePrefix("10.128.0.0/10"))
	o.NodeCIDR = cmp.Or(o.NodeCIDR, netip.MustParsePrefix("10.250.0.0/16"))
	o.Concurrency = cmp.Or(o.Concurrency, 64)
	o.Version = cmp.Or(o.Version, "v1.37.2")
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Stages == nil {
		var err error
		if o.Stages, err = DefaultStages(); err != nil {
			return o, err
		}
	}
	return o, nil
}

// Sim simulates nodes.
type Sim struct {
	live   projections.Live
	bus    commands.Bus
	opts   Options
	log    *slog.Logger
	resize chan resize
}

type resize struct {
	nodes int
	done  chan error
}

// New returns a simulator. Run starts it.
func New(live projections.Live, bus commands.Bus, opts Options) (*Sim, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("setting up simulated nodes: %w", err)
	}
	if _, err := nth(opts.NodeCIDR, max(0, opts.Nodes-1)); err != nil {
		return nil, fmt.Errorf("setting up %d simulated nodes: %w", opts.Nodes, err)
	}
	return &Sim{live: live, bus: bus, opts: opts, log: opts.Log.With("component", "sim"), resize: make(chan resize)}, nil
}

// The collections that the simulator reads.
var (
	podsResource   = domain.Resource{Resource: "pods"}
	nodesResource  = domain.Resource{Resource: "nodes"}
	leasesResource = domain.Resource{Group: "coordination.k8s.io", Resource: "leases"}
)

// retryAfter is how long the simulator waits before it tries again what failed.
const retryAfter = time.Second

// SetNodes adds or removes nodes until there are n. It returns once the commands are on their way; Run must be running.
func (s *Sim) SetNodes(ctx context.Context, n int) error {
	if _, err := nth(s.opts.NodeCIDR, max(0, n-1)); err != nil {
		return fmt.Errorf("setting up %d simulated nodes: %w", n, err)
	}
	r := resize{n, make(chan error, 1)}
	select {
	case s.resize <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run simulates until the context ends; it returns nil then. The nodes stay as they are: a simulator that is started again takes
// them over.
func (s *Sim) Run(ctx context.Context) error {
	nodes := s.opts.Nodes
	for ctx.Err() == nil {
		x := &session{
			Sim: s, wanted: nodes, nodes: map[string]*nodeState{}, pods: map[types.NamespacedName]*podState{},
			ips: newAddresses(s.opts.PodCIDR), done: make(chan func(), s.opts.Concurrency),
		}
		err := x.simulate(ctx)
		nodes = x.wanted
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, projections.ErrTooOld):
			s.log.Info("fell behind the live view: starting again from its current state")
		default:
			s.log.Error("following the live view", "err", err)
			wait(ctx, retryAfter)
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// session is one run from a snapshot of the live view on. All its fields belong to the goroutine of simulate.
type session struct {
	*Sim
	wanted int
	nodes  map[string]*nodeState
	byName []*nodeState // in the order in which they were added
	pods   map[types.NamespacedName]*podState
	due    due.Heap[*podState]
	ips    *addresses
	done   chan func()
	work   tasks.Pool // pods
	upkeep tasks.Pool // nodes and leases
	slot   int
}

func (x *session) simulate(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	x.work = tasks.Pool{Limit: x.opts.Concurrency, Done: x.done}
	x.upkeep = tasks.Pool{Limit: max(8, x.opts.Concurrency/2), Done: x.done}
	defer func() {
		cancel()
		for x.work.Running()+x.upkeep.Running() > 0 {
			(<-x.done)()
		}
	}()
	view := x.live.Snapshot()
	follower, err := x.live.Follow(view.Position(), podsResource, nodesResource)
	if err != nil {
		return fmt.Errorf("following from position %d: %w", view.Position(), err)
	}
	defer follower.Close()
	if err := x.load(ctx, view); err != nil {
		return err
	}
	deliveries := make(chan delivery)
	go deliver(ctx, follower, deliveries)
	renewals := time.NewTicker(renewSlot)
	defer renewals.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if at, ok := x.due.Next(); ok {
			timer.Reset(max(0, at.Sub(x.opts.Now())))
		} else {
			timer.Stop()
		}
		select {
		case d := <-deliveries:
			for i := range d.changes {
				x.changed(ctx, &d.changes[i])
			}
			if d.err != nil {
				return fmt.Errorf("following the live view: %w", d.err)
			}
		case f := <-x.done:
			f()
		case <-timer.C:
			now := x.opts.Now()
			for p, ok := x.due.Pop(now); ok; p, ok = x.due.Pop(now) {
				x.consider(ctx, p)
			}
		case <-renewals.C:
			x.renewSlot(ctx)
		case r := <-x.resize:
			r.done <- x.resized(ctx, r.nodes)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type delivery struct {
	changes []projections.Change
	err     error
}

func deliver(ctx context.Context, f projections.Follower, out chan<- delivery) {
	for {
		changes, _, err := f.Next(ctx)
		select {
		case out <- delivery{changes, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// load takes in a whole snapshot: the nodes that are to be there, the pods that are on them.
func (x *session) load(ctx context.Context, view projections.Reader) error {
	if err := x.setNodes(ctx, x.wanted); err != nil {
		return err
	}
	for n := range projections.List[*corev1.Node](view, nodesResource, "") {
		// Left over from a run with more nodes.
		if x.nodes[n.Name] == nil && n.Labels[Label] != "" && strings.HasPrefix(n.Name, x.opts.NamePrefix) {
			x.deregister(ctx, &nodeState{name: n.Name})
		}
	}
	var mine []*podState
	for o := range view.List(podsResource, "") {
		pod, ok := projections.As[*corev1.Pod](o)
		if !ok {
			continue
		}
		x.ips.reserve(pod.Status.PodIP)
		if p := x.see(pod, o.Position, origin{cause: domain.Cause{Position: o.Position}}); p != nil {
			mine = append(mine, p)
		}
	}
	for _, p := range mine {
		x.consider(ctx, p)
	}
	return nil
}

func (x *session) changed(ctx context.Context, c *projections.Change) {
	switch c.Event.Ref.GroupResource() {
	case nodesResource:
		if n := x.nodes[c.Event.Ref.Name]; n != nil && c.After == nil && n.registered {
			// Somebody deleted the node: it is switched off for good, or until SetNodes asks for it again.
			x.wanted--
			delete(x.nodes, n.name)
			x.byName = slices.DeleteFunc(x.byName, func(m *nodeState) bool { return m == n })
		}
	case podsResource:
		x.podChanged(ctx, c)
	}
}
