package probes

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Target is the container that is asked.
type Target struct {
	Pod       *corev1.Pod
	Container *corev1.Container
	ID        string // of the running container
	IP        string // of the pod
	StartedAt time.Time
	// Started: an earlier process has seen the startup probe succeed.
	Started bool
}

// Result is news about a container.
type Result struct {
	Target  Target
	Kind    Kind
	Passing bool
	Message string
}

// Asker asks one question; see Executor.
type Asker interface {
	Ask(ctx context.Context, t Target, p *corev1.Probe) Answer
}

// Config of a manager. The functions must not block.
type Config struct {
	Asker Asker
	// Report is told each decision: the first, and every change.
	Report func(Result)
	// Failed is told each failing answer, for the event Unhealthy.
	Failed func(t Target, k Kind, message string)
}

// Manager asks as long as containers run.
type Manager struct {
	cfg Config

	mu      sync.Mutex
	running map[string]context.CancelFunc
	wg      sync.WaitGroup
	closed  bool
}

// New returns a manager.
func New(cfg Config) *Manager { return &Manager{cfg: cfg, running: map[string]context.CancelFunc{}} }

// Start begins to ask a container that has just started, or been taken over. The startup probe goes first; the others wait
// for it.
func (m *Manager) Start(t Target) {
	c := t.Container
	if c.StartupProbe == nil && c.ReadinessProbe == nil && c.LivenessProbe == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, have := m.running[t.ID]; have || m.closed {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.running[t.ID] = cancel
	begin := func() {
		if c.ReadinessProbe != nil {
			m.loop(ctx, t, Readiness, c.ReadinessProbe, nil)
		}
		if c.LivenessProbe != nil {
			m.loop(ctx, t, Liveness, c.LivenessProbe, nil)
		}
	}
	if c.StartupProbe == nil || t.Started {
		begin()
		return
	}
	m.loop(ctx, t, Startup, c.StartupProbe, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if ctx.Err() == nil {
			begin()
		}
	})
}

// loop asks at every period; then is called once after the first success, which ends the loop.
func (m *Manager) loop(ctx context.Context, t Target, k Kind, p *corev1.Probe, then func()) {
	m.wg.Go(func() {
		state := First(k)
		// The delay counts from the container's start, also when the agent was away meanwhile.
		first := time.Until(t.StartedAt.Add(time.Duration(p.InitialDelaySeconds) * time.Second))
		timer := time.NewTimer(max(first, 0))
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			asked := time.Now()
			askCtx, cancel := context.WithTimeout(ctx, Timeout(p))
			a := m.cfg.Asker.Ask(askCtx, t, p)
			cancel()
			if ctx.Err() != nil {
				return
			}
			if !a.OK && m.cfg.Failed != nil {
				m.cfg.Failed(t, k, a.Message)
			}
			next, news := Next(p, state, a)
			state = next
			if news {
				m.cfg.Report(Result{Target: t, Kind: k, Passing: state.Passing, Message: a.Message})
				if state.Passing && then != nil {
					then()
					return
				}
				if !state.Passing && k != Readiness {
					return // it is going to be killed; the next one is asked anew
				}
			}
			timer.Reset(max(Period(p)-time.Since(asked), 0))
		}
	})
}

// Stop ends the questions to a container.
func (m *Manager) Stop(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if cancel, ok := m.running[id]; ok {
		cancel()
		delete(m.running, id)
	}
}

// Close ends all questions and waits for those under way.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	for id, cancel := range m.running {
		cancel()
		delete(m.running, id)
	}
	m.mu.Unlock()
	m.wg.Wait()
}
