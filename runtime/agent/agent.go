package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/shiplog/shiplog/eventstore/keystore"
	"github.com/shiplog/shiplog/projections/nodefeed"
	"github.com/shiplog/shiplog/runtime/containers"
	"github.com/shiplog/shiplog/runtime/images"
	"github.com/shiplog/shiplog/runtime/probes"
	"github.com/shiplog/shiplog/runtime/server"
	"github.com/shiplog/shiplog/runtime/volumes"
)

// Agent is a node.
type Agent struct {
	cfg Config
	log *slog.Logger

	images     *images.Store
	containers *containers.Runtime
	volumes    *volumes.Manager
	probes     *probes.Manager
	events     *recorder
	store      *nodefeed.Store
	keys       *keystore.File // of what is secret in store's file
	cluster    cluster
	fields     fields
	machine    machine
	lock       *os.File

	hookTransport http.RoundTripper
	own           []*discoveryv1.EndpointSlice // what this node serves itself

	ctx        context.Context // of Run
	background sync.WaitGroup
	network    chan struct{} // services are to be applied
	nodeNews   chan struct{} // the node's status may have changed
	isReady    chan struct{} // closed when the node is registered and its feed complete
	readyOnce  sync.Once

	mu       sync.Mutex
	pods     map[string]*pod
	begun    bool // the network stands
	synced   bool
	register bool
	address  string // of the kubelet API
}

// ErrInUse says that another process has the data directory.
var ErrInUse = errors.New("data directory is in use by another agent")

// New opens a node's data directory, finds the programs that it needs and takes over the containers that still run. Run
// comes next.
func New(cfg Config) (*Agent, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("configuring the node agent: %w", err)
	}
	for _, d := range []string{"pods", "logs"} {
		if err := os.MkdirAll(filepath.Join(cfg.DataDir, d), 0o755); err != nil {
			return nil, fmt.Errorf("opening the node's data directory: %w", err)
		}
	}
	lock, err := lockDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, log: cfg.Logger, lock: lock, pods: map[string]*pod{}, network: make(chan struct{}, 1), nodeNews: make(chan struct{}, 1),
		isReady: make(chan struct{}), ctx: context.Background(),
	}
	if err := a.open(); err != nil {
		if a.keys != nil {
			_ = a.keys.Close()
		}
		_ = lock.Close()
		return nil, err
	}
	return a, nil
}

func (a *Agent) open() (err error) {
	cfg := &a.cfg
	registry := cfg.Registry
	registry.Logger = a.log
	if a.images, err = images.Open(filepath.Join(cfg.DataDir, "images"), registry); err != nil {
		return err
	}
	if a.containers, err = containers.New(containers.Config{
		Dir: cfg.DataDir, NetnsDir: cfg.NetnsDir, CgroupRoot: cfg.CgroupRoot, RuntimePath: cfg.RuntimePath, ConmonPath: cfg.ConmonPath,
		PodPidsLimit: cfg.PodPids, Images: a.images, OnExit: a.exited, Logger: a.log,
	}); err != nil {
		return err
	}
	if a.keys, err = keystore.Open(filepath.Join(cfg.DataDir, "keys"), keystore.Options{Logger: a.log}); err != nil {
		return err
	}
	a.store = nodefeed.NewStore(filepath.Join(cfg.DataDir, "desired.json"), cfg.Kinds)
	a.store.SealBy(a.keys)
	held, err := a.store.Load()
	if err != nil {
		a.log.Warn("what the node was to run cannot be read; the control plane is asked for all of it", "error", err)
	}
	a.cluster = cluster{held}
	a.fields = fields{
		nodeName: cfg.NodeName, hostIPs: []string{cfg.NodeIP.String()}, podIPs: a.podIPs,
		allocatable: func() corev1.ResourceList {
			_, allocatable := a.machine.capacity(a.disk(), cfg.MaxPods)
			return allocatable
		},
	}
	a.volumes = volumes.New(volumes.Config{
		Dir: filepath.Join(cfg.DataDir, "pods"), Objects: a.cluster, Tokens: tokens{a}, Fields: a.fields, Logger: a.log,
	})
	executor := probes.NewExecutor(a.exec)
	a.hookTransport = executor.Transport()
	a.probes = probes.New(probes.Config{Asker: executor, Report: a.probed, Failed: a.unhealthy})
	a.events = newRecorder(cfg, a.now)
	return nil
}

// now is the clock of the agent's edge. Deciders get it as an argument.
func (a *Agent) now() time.Time { return time.Now() }

// newID is the randomness of the agent's edge: 64 hexadecimal digits, as container ids are.
func (a *Agent) newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Images is the node's image store.
func (a *Agent) Images() *images.Store { return a.images }

// ImageSocket is where the agent of a data directory serves its image API.
func ImageSocket(dataDir string) string { return filepath.Join(dataDir, "images.sock") }

// Ready is closed when the node is registered and knows what it is to run.
func (a *Agent) Ready() <-chan struct{} { return a.isReady }

// Address is where the kubelet API listens, once Run has begun; "" before.
func (a *Agent) Address() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.address
}

// Run is the node, until the context is done: then it returns, and the containers run on. It returns earlier only when the
// node cannot begin.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.ctx = ctx
	defer func() {
		cancel()
		a.background.Wait()
		a.probes.Close()
		if err := a.containers.Close(); err != nil {
			a.log.Warn("closing the runtime", "error", err)
		}
		if err := a.store.Save(a.cluster.copy); err != nil {
			a.log.Warn("keeping what the node is to run", "error", err)
		}
		if err := a.keys.Close(); err != nil {
			a.log.Warn("closing the node's keys", "error", err)
		}
		_ = a.lock.Close()
	}()
	srv, err := a.listen(ctx)
	if err != nil {
		return err
	}
	a.background.Go(func() { srv.Run(ctx) })
	found, err := a.containers.Recover(ctx)
	if err != nil {
		return fmt.Errorf("taking over what runs: %w", err)
	}
	if found.Rebooted {
		a.log.Info("the machine was restarted: all pods get new sandboxes")
	}
	// The network first: a node that comes back says nothing before it can say that it is ready, and so gets no taints.
	if err := a.begin(ctx); err != nil {
		return err
	}
	n := &node{a: a, ready: a.readiness}
	a.background.Go(func() { n.run(ctx, a.machine, a.nodeNews) })
	a.background.Go(func() { a.events.run(ctx) })
	a.background.Go(func() { a.serve(ctx) })
	a.background.Go(func() { a.rotateLogs(ctx) })
	a.adoptPods()
	a.touchNode()
	a.follow(ctx)
	return nil
}

// listen begins to serve the kubelet API and the image API.
func (a *Agent) listen(ctx context.Context) (*server.Server, error) {
	srv, err := server.New(ctx, server.Config{
		Node: a, Images: a.images, Listen: a.cfg.Listen, Cert: a.cfg.Cert, ClientCA: a.cfg.ClientCA, ImageSocket: ImageSocket(a.cfg.DataDir),
		ImageNews: a.touchNode, Logger: a.log,
	})
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.address = srv.Address().String()
	a.mu.Unlock()
	at, err := netip.ParseAddrPort(srv.Address().String())
	if err != nil {
		return nil, fmt.Errorf("reading the address of the node's API: %w", err)
	}
	a.machine, err = a.describe(int32(at.Port()))
	return srv, err
}

// begin sets the network up, with what this node serves in it.
func (a *Agent) begin(ctx context.Context) error {
	if a.cfg.Network == nil {
		a.note(func() { a.begun = true })
		return nil
	}
	if err := a.cfg.Network.Setup(ctx); err != nil {
		return fmt.Errorf("setting up the pod network: %w", err)
	}
	gateway := a.cfg.Network.GatewayIP()
	var relayPort int32
	if a.cfg.Upstream.Address != "" {
		r, err := newRelay(ctx, gateway, a.cfg.Upstream.Address, a.log)
		if err != nil {
			return err
		}
		relayPort = r.port()
		a.background.Go(func() { r.run(ctx) })
	}
	a.own = syntheticSlices(gateway, a.cfg.DNS != nil, relayPort)
	if a.cfg.DNS != nil {
		a.background.Go(func() {
			for ctx.Err() == nil {
				if err := a.cfg.DNS.Run(ctx); err != nil && ctx.Err() == nil {
					a.log.Error("the cluster's name server ended", "error", err)
					select {
					case <-time.After(time.Second):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	a.note(func() { a.begun = true })
	return nil
}

func (a *Agent) note(change func()) {
	a.mu.Lock()
	change()
	a.mu.Unlock()
}

// readiness says why the node cannot run pods, or nil.
func (a *Agent) readiness() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.begun {
		return errors.New("the pod network is being set up")
	}
	return nil
}

func (a *Agent) touchNode() {
	select {
	case a.nodeNews <- struct{}{}:
	default:
	}
}

func (a *Agent) registered() {
	a.note(func() { a.register = true })
	a.checkReady()
}

func (a *Agent) checkReady() {
	a.mu.Lock()
	ready := a.register && a.begun && a.synced
	a.mu.Unlock()
	if ready {
		a.readyOnce.Do(func() { close(a.isReady) })
	}
}

func (a *Agent) pod(uid string) *pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pods[uid]
}

func (a *Agent) podIPs(api *corev1.Pod) []string {
	if api.Spec.HostNetwork {
		return []string{a.cfg.NodeIP.String()}
	}
	p := a.pod(string(api.UID))
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.obs.PodIPs...)
}

func (a *Agent) forget(p *pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pods[p.uid] == p {
		delete(a.pods, p.uid)
	}
}

// exited is told by the runtime that a container has ended.
func (a *Agent) exited(st containers.Status) {
	if p := a.pod(st.PodUID); p != nil {
		p.exited(st)
	}
}

func (a *Agent) unhealthy(t probes.Target, k probes.Kind, message string) {
	a.events.warn(t.Pod, t.Container.Name, "Unhealthy", fmt.Sprintf("%s probe failed: %s", k, message))
}

// Teardown removes every pod of this node from the machine: processes, mounts, namespaces, control groups, network and rules.
// Images and the record of what was to run stay. The agent does not run meanwhile, nor afterwards.
func (a *Agent) Teardown(ctx context.Context) error {
	var failed []error
	if _, err := a.containers.Recover(ctx); err != nil {
		failed = append(failed, err)
	}
	failed = append(failed, a.containers.Teardown(ctx))
	if a.cfg.Policy != nil {
		failed = append(failed, a.cfg.Policy.Teardown(ctx))
	}
	if a.cfg.Proxy != nil {
		failed = append(failed, a.cfg.Proxy.Teardown(ctx))
	}
	if a.cfg.Network != nil {
		failed = append(failed, a.cfg.Network.Teardown(ctx))
	}
	dirs, err := os.ReadDir(filepath.Join(a.cfg.DataDir, "pods"))
	failed = append(failed, err)
	for _, d := range dirs {
		failed = append(failed, a.volumes.Remove(d.Name()))
	}
	failed = append(failed, a.containers.Close(), a.keys.Close(), a.lock.Close())
	return errors.Join(failed...)
}
