package controllertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Faults are how often things go wrong in a Simulation, each as one in so many; 0: never.
type Faults struct {
	Conflict int // a command is refused with a conflict
	Lost     int // a command is carried out, but its issuer is told that it failed
	Stale    int // a key is reconciled on an old view, though never one older than its own last write
	Crash    int // the controllers stop in the middle of a decision and start again knowing nothing
}

// Simulation runs controllers and simulated nodes on a Cluster, one step at a time, in an order drawn from a seed: the same
// seed gives the same run.
type Simulation struct {
	Cluster *Cluster
	Faults  Faults
	// Check is called after every change; an error ends the run.
	Check func(projections.Reader) error
	// Broken says which pods never become ready.
	Broken func(*corev1.Pod) bool
	// Ends says how the containers of a pod that runs will end: with corev1.PodSucceeded or PodFailed, or "" for not at all.
	Ends func(*corev1.Pod) corev1.PodPhase

	controllers []controllers.Controller
	rng         *rand.Rand
	now         time.Time
	pending     []*pendingKey
	wrote       map[written]uint64 // position of the last own write of a key
	broken      error              // a law that a controller has broken
	handed      uint64             // position up to which changes were turned into keys
	checked     uint64
	trace       []string
}

type written struct {
	controller string
	key        controllers.Key
}

type pendingKey struct {
	controller controllers.Controller
	key        controllers.Key
	due        time.Time // zero: at once
	since      uint64    // the view must not be older
	failures   int
}

// NewSimulation makes a simulation from a seed.
func NewSimulation(seed uint64, cluster *Cluster, cs ...controllers.Controller) *Simulation {
	s := &Simulation{Cluster: cluster, controllers: cs, rng: rand.New(rand.NewPCG(seed, 1)), now: Epoch, wrote: map[written]uint64{}}
	cluster.Now = func() time.Time { return s.now }
	s.restart()
	return s
}

// Now is the simulation's time.
func (s *Simulation) Now() time.Time { return s.now }

// Trace tells the last steps.
func (s *Simulation) Trace() string {
	return strings.Join(s.trace[max(0, len(s.trace)-60):], "\n")
}

func (s *Simulation) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%s "+format, append([]any{s.now.Sub(Epoch)}, args...)...))
}

// ErrSteps says that a simulation did not come to rest.
var ErrSteps = errors.New("the simulation did not come to rest")

// Settle runs until nothing is left to do before the horizon, and lets the time until then pass. ErrSteps says that so many
// steps were not enough.
func (s *Simulation) Settle(steps int, horizon time.Duration) error {
	end := s.now.Add(horizon)
	for range steps {
		rest, err := s.step(end)
		if err != nil {
			return err
		}
		if rest {
			s.now = end
			return s.untouched()
		}
	}
	return ErrSteps
}

// Steps runs so many steps, or fewer when there is nothing left to do.
func (s *Simulation) Steps(n int) error {
	for range n {
		if rest, err := s.step(s.now); err != nil || rest {
			return err
		}
	}
	return nil
}

func (s *Simulation) one(in int) bool { return in > 0 && s.rng.IntN(in) == 0 }

// step does one thing; rest says that there was nothing to do until the end.
func (s *Simulation) step(end time.Time) (rest bool, err error) {
	s.hand()
	var ready []*pendingKey
	var next time.Time
	for _, p := range s.pending {
		if !p.due.After(s.now) {
			ready = append(ready, p)
		} else if next.IsZero() || p.due.Before(next) {
			next = p.due
		}
	}
	kubelet := s.kubeletWork()
	choices := len(ready)
	if len(kubelet) > 0 {
		choices += 1 + len(ready)/2 // nodes get about a third of the turns
	}
	switch {
	case choices == 0 && (next.IsZero() || next.After(end)):
		return true, nil
	case choices == 0:
		s.now = next
		return false, nil
	}
	if s.rng.IntN(4) == 0 {
		s.now = s.now.Add(time.Duration(s.rng.IntN(2000)) * time.Millisecond)
	}
	if n := s.rng.IntN(choices); n < len(ready) {
		s.reconcile(ready[n])
	} else {
		s.kubelet(kubelet[s.rng.IntN(len(kubelet))])
	}
	return false, s.check()
}

// check calls Check for every state since the last call.
func (s *Simulation) check() error {
	if s.broken != nil {
		return s.broken
	}
	head := s.Cluster.Snapshot().Position()
	for ; s.checked < head; s.checked++ {
		view, ok := s.Cluster.View(s.checked + 1)
		if !ok || s.Check == nil {
			continue
		}
		if err := s.Check(view); err != nil {
			return fmt.Errorf("at position %d: %w", s.checked+1, err)
		}
	}
	return nil
}

// hand turns new changes into keys.
func (s *Simulation) hand() {
	view := s.Cluster.Snapshot()
	for _, ch := range s.Cluster.Changes(s.handed) {
		s.dispatch(view, ch)
		s.handed = ch.Event.Position
	}
}

func (s *Simulation) dispatch(view projections.Reader, ch projections.Change) {
	for _, c := range s.controllers {
		for _, key := range controllers.KeysOf(c, view, ch) {
			s.ask(c, key, ch.Event.Position)
		}
	}
}

func (s *Simulation) ask(c controllers.Controller, key controllers.Key, since uint64) *pendingKey {
	for _, p := range s.pending {
		if p.controller == c && p.key == key {
			p.since = max(p.since, since)
			if p.failures == 0 {
				p.due = time.Time{}
			}
			return p
		}
	}
	p := &pendingKey{controller: c, key: key, since: max(since, s.wrote[written{c.Name(), key}])}
	s.pending = append(s.pending, p)
	return p
}

// restart forgets all keys and asks for those of everything there is, as a runtime does when it starts.
func (s *Simulation) restart() {
	s.pending = nil
	view := s.Cluster.Snapshot()
	s.handed = view.Position()
	for _, gr := range controllers.Resources(view) {
		for o := range view.List(gr, "") {
			s.dispatch(view, projections.Change{Event: domain.Event{Ref: o.Ref, Op: domain.Created, Position: view.Position()}, After: o})
		}
	}
}

func (s *Simulation) reconcile(p *pendingKey) {
	s.pending = slices.DeleteFunc(s.pending, func(q *pendingKey) bool { return q == p })
	view := s.Cluster.Snapshot()
	if s.one(s.Faults.Stale) && p.since < view.Position() {
		at := p.since + uint64(s.rng.Int64N(int64(view.Position()-p.since)+1))
		if old, ok := s.Cluster.View(at); ok {
			view = old
		}
	}
	d, err := p.controller.Reconcile(view, p.key, s.now)
	if again, errAgain := p.controller.Reconcile(view, p.key, s.now); !sameDecision(d, again) || (err == nil) != (errAgain == nil) {
		s.broken = fmt.Errorf("%s decides differently about %s when it is asked again: it is not pure", p.controller.Name(), p.key)
	}
	if err != nil {
		s.note("%s %s at %d: %v", p.controller.Name(), p.key, view.Position(), err)
		s.retry(p)
		return
	}
	wrote, failed, crashed := s.carryOut(p, d)
	if wrote > 0 {
		s.wrote[written{p.controller.Name(), p.key}] = wrote
	}
	switch {
	case crashed:
		s.note("%s %s: CRASH", p.controller.Name(), p.key)
		s.restart()
	case failed:
		s.retry(p)
	case !d.Again.IsZero():
		s.ask(p.controller, p.key, p.since).due = d.Again
	}
}

func (s *Simulation) retry(p *pendingKey) {
	again := s.ask(p.controller, p.key, p.since)
	again.failures = p.failures + 1
	again.due = s.now.Add(time.Duration(5<<min(again.failures, 10)) * time.Millisecond)
}

func (s *Simulation) carryOut(p *pendingKey, d controllers.Decision) (wrote uint64, failed, crashed bool) {
	for {
		outcomes := make([]controllers.Outcome, len(d.Commands))
		for i := range outcomes {
			outcomes[i] = controllers.Outcome{Command: d.Commands[i], Err: controllers.ErrSkipped}
		}
		for _, i := range s.rng.Perm(len(d.Commands)) {
			if s.one(s.Faults.Crash) {
				return wrote, failed, true
			}
			c := d.Commands[i]
			c.Actor = controllers.Actor(p.controller.Name())
			r, err := s.do(c)
			s.note("%s: %s -> %v", p.controller.Name(), Line(c), err)
			outcomes[i].Result, outcomes[i].Err = r, err
			wrote = max(wrote, r.Position)
			if err != nil && !(apierrors.IsNotFound(err) && c.Verb != commands.Create) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				failed = true
				if d.Careful {
					break
				}
			}
		}
		if d.Then == nil {
			return wrote, failed, false
		}
		d = d.Then(outcomes)
	}
}

func (s *Simulation) do(c commands.Command) (commands.Result, error) {
	if s.one(s.Faults.Conflict) {
		return commands.Result{}, apierrors.NewConflict(c.Resource.GroupResource(), c.Name, errors.New("injected"))
	}
	r, err := s.Cluster.Do(context.Background(), c)
	if err == nil && s.one(s.Faults.Lost) {
		return commands.Result{}, apierrors.NewTimeoutError("injected: the answer was lost", 1)
	}
	return r, err
}

// kubeletWork lists the pods of which something is to be done by scheduler or node.
func (s *Simulation) kubeletWork() []*corev1.Pod {
	var work []*corev1.Pod
	for p := range projections.List[*corev1.Pod](s.Cluster.Snapshot(), pods.Resource, "") {
		switch {
		case p.DeletionTimestamp != nil:
			// What a finalizer holds is not the node's to end a second time.
			if p.DeletionGracePeriodSeconds == nil || *p.DeletionGracePeriodSeconds > 0 {
				work = append(work, p)
			}
		case p.Spec.NodeName == "",
			!pods.Ready(p) && !pods.Finished(p) && (s.Broken == nil || !s.Broken(p)),
			pods.Ready(p) && !pods.Finished(p) && s.Ends != nil && s.Ends(p) != "":
			work = append(work, p)
		}
	}
	return work
}

// kubelet binds a pod, makes a bound one ready, or ends one that is being deleted.
func (s *Simulation) kubelet(p *corev1.Pod) {
	next := p.DeepCopy()
	next.ResourceVersion = ""
	switch {
	case p.DeletionTimestamp != nil:
		s.note("node: ends %s", p.Name)
		zero := int64(0)
		s.Cluster.MustDo(commands.Command{
			Verb: commands.Delete, Resource: resources.Pods, Namespace: p.Namespace, Name: p.Name,
			DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: &zero},
		})
	case p.Spec.NodeName == "":
		s.note("scheduler: binds %s", p.Name)
		if next.Spec.NodeName = pinned(p); next.Spec.NodeName == "" {
			next.Spec.NodeName = fmt.Sprintf("node-%d", s.rng.IntN(3))
		}
		s.Cluster.MustDo(controllers.Update(resources.Pods, next))
	case pods.Ready(p):
		next.Status.Phase = s.Ends(p)
		pods.Condition(next, corev1.PodReady).Status = corev1.ConditionFalse
		at := metav1.NewTime(s.now)
		exit := int32(0)
		if next.Status.Phase == corev1.PodFailed {
			exit = 1
		}
		next.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: exit, FinishedAt: at}}}}
		s.note("node: %s has %s", p.Name, next.Status.Phase)
		s.Cluster.MustDo(controllers.UpdateStatus(resources.Pods, next))
	default:
		s.note("node: %s is ready", p.Name)
		MakeReady(next, s.now)
		s.Cluster.MustDo(controllers.UpdateStatus(resources.Pods, next))
	}
}

// pinned is the one node that a pod's affinity names, or "".
func pinned(p *corev1.Pod) string {
	if p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil || p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

// MakeReady sets a pod's status to running and ready since a time.
func MakeReady(p *corev1.Pod, since time.Time) {
	at := metav1.NewTime(since)
	p.Status.Phase = corev1.PodRunning
	p.Status.PodIP = "10.0.0.1"
	p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}}
	p.Status.StartTime = &at
	p.Status.Conditions = []corev1.PodCondition{
		{Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: at},
		{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at},
	}
}
