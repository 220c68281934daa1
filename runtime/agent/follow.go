package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections/nodefeed"
	"github.com/shiplog/shiplog/runtime/agent/plan"
	"github.com/shiplog/shiplog/runtime/containers"
	"github.com/shiplog/shiplog/runtime/volumes"
)

// saveAfter is how long changes of what is wanted may wait to be written to disk: the feed gives again what is lost.
const saveAfter = 2 * time.Second

// follow takes in the feed until the context is done. When it breaks off, it goes on from where it was.
func (a *Agent) follow(ctx context.Context) {
	a.background.Go(func() { a.saver(ctx) })
	wait := 100 * time.Millisecond
	for ctx.Err() == nil {
		began := a.now()
		err := a.followOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if a.now().Sub(began) > 10*time.Second {
			wait = 100 * time.Millisecond
		}
		a.log.Warn("the control plane is away; the node's pods run on", "error", err)
		select {
		case <-time.After(wait):
			wait = min(2*wait, 5*time.Second)
		case <-ctx.Done():
		}
	}
}

func (a *Agent) followOnce(ctx context.Context) error {
	after := a.cluster.copy.Position()
	if !a.cluster.copy.Synced() {
		after = 0
	}
	stream, err := a.cfg.Upstream.Source.Open(ctx, a.cfg.NodeName, after)
	if err != nil {
		return fmt.Errorf("opening the node's feed: %w", err)
	}
	defer func() { _ = stream.Close() }()
	for {
		items, err := stream.Next(ctx)
		if err != nil {
			return fmt.Errorf("reading the node's feed: %w", err)
		}
		a.take(items)
	}
}

// take applies items of the feed and wakes those whom they concern.
func (a *Agent) take(items []nodefeed.Item) {
	causes := map[domain.Ref]*domain.Cause{}
	for i := range items {
		if c := causeOf(items[i].EventID, items[i].Position); c != nil {
			ref := items[i].Ref
			ref.UID = ""
			causes[ref] = c
		}
	}
	changed := a.cluster.copy.Apply(items...)
	services := false
	objects := map[string]bool{} // namespaces in which something changed that pods may use
	for _, ref := range changed {
		switch ref.Resource {
		case "pods":
			a.takePod(ref, causes[ref])
			services = services || a.cfg.Policy != nil // labels may have changed
		case "networkpolicies", "namespaces":
			services = services || a.cfg.Policy != nil
		case "nodes":
			if ref.Name == a.cfg.NodeName {
				a.touchNode()
			}
		case "services", "endpointslices":
			services = true
		case "configmaps", "secrets", "serviceaccounts", "persistentvolumeclaims":
			objects[ref.Namespace] = true
		case "persistentvolumes":
			objects[""] = true
		}
	}
	if services {
		a.touchNetwork()
	}
	if len(objects) > 0 {
		a.objectsChanged(objects)
	}
	// Only now is it known what the node is not to run: what is on disk may be older than what an earlier process has started.
	if slices.ContainsFunc(items, func(i nodefeed.Item) bool { return i.Op == nodefeed.Synced }) {
		a.mu.Lock()
		first := !a.synced
		a.synced = true
		a.mu.Unlock()
		if first {
			a.sweep()
			a.checkReady()
		}
	}
}

func (a *Agent) takePod(ref domain.Ref, cause *domain.Cause) {
	api, ok := nodefeed.Get[*corev1.Pod](a.cluster.copy, core("pods"), ref.Namespace, ref.Name)
	a.mu.Lock()
	var current *pod
	var stale []*pod
	for _, p := range a.pods {
		if p.namespace == ref.Namespace && p.name == ref.Name {
			if ok && p.uid == string(api.UID) {
				current = p
			} else {
				stale = append(stale, p)
			}
		}
	}
	fresh := ok && current == nil
	if fresh {
		current = newPod(a, api)
		a.pods[current.uid] = current
	}
	a.mu.Unlock()
	for _, p := range stale {
		p.removed()
	}
	switch {
	case fresh:
		current.mu.Lock()
		current.cause = cause
		current.mu.Unlock()
		a.restore(current)
		a.background.Go(func() { current.run(a.ctx) })
	case current != nil:
		current.update(api, cause)
	}
}

// objectsChanged has the pods of some namespaces look at their volumes and environment again. "" means all.
func (a *Agent) objectsChanged(namespaces map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.pods {
		if !namespaces[p.namespace] && !namespaces[""] {
			continue
		}
		p.mu.Lock()
		if p.obs.Volumes == plan.Ready && refersToObjects(p.api) {
			p.refresh = a.now()
		}
		p.obs.VolumeFail.Count = 0
		for _, c := range p.obs.Containers {
			c.StartFail.At = time.Time{}
		}
		p.mu.Unlock()
		p.poke()
	}
}

func refersToObjects(api *corev1.Pod) bool {
	for i := range api.Spec.Volumes {
		v := &api.Spec.Volumes[i]
		if v.ConfigMap != nil || v.Secret != nil || v.Projected != nil {
			return true
		}
	}
	return false
}

// adoptPods begins with what the node was to run when it was last told, before it hears from the control plane.
func (a *Agent) adoptPods() {
	if !a.cluster.copy.Synced() {
		return
	}
	for _, api := range a.cluster.pods() {
		a.takePod(domain.Ref{Resource: "pods", Namespace: api.Namespace, Name: api.Name}, nil)
	}
	a.touchNetwork()
}

// restore notes what there is of a pod from an earlier process.
func (a *Agent) restore(p *pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if box, ok := a.containers.Sandbox(p.uid); ok {
		p.obs.Sandbox = plan.Ready
		p.obs.Volumes = plan.Absent // made again where a part is missing, left as they are where not
		if box.NetnsPath != "" && a.cfg.Network != nil {
			at, err := a.cfg.Network.AttachPod(a.ctx, p.uid, box.NetnsPath)
			if err != nil {
				a.log.Warn("a pod's place in the network is lost", "pod", p.namespace+"/"+p.name, "error", err)
				p.obs.SandboxLost = true
			} else {
				p.obs.PodIPs = []string{at.IP.String()}
			}
		}
		// The process before may have ended between the sandbox and its files.
		if !p.obs.SandboxLost && !a.hasPodFiles(p.uid) {
			if err := a.writePodFiles(p.api, firstOf(p.obs.PodIPs)); err != nil {
				a.log.Warn("a pod's files are lost", "pod", p.namespace+"/"+p.name, "error", err)
				p.obs.SandboxLost = true
			}
		}
	}
	told := map[string]corev1.ContainerStatus{}
	for _, cs := range append(append([]corev1.ContainerStatus(nil), p.api.Status.InitContainerStatuses...), p.api.Status.ContainerStatuses...) {
		told[cs.Name] = cs
		c := p.container(cs.Name)
		c.Restarts = int(cs.RestartCount)
		c.Crashes = min(c.Restarts, 6)
		if t := cs.LastTerminationState.Terminated; t != nil {
			c.Previous = &plan.Instance{
				ID: trimScheme(t.ContainerID), Attempt: max(c.Restarts-1, 0), StartedAt: t.StartedAt.Time, FinishedAt: t.FinishedAt.Time,
				ExitCode: t.ExitCode, Reason: t.Reason, Message: t.Message,
			}
		}
	}
	for _, st := range a.containers.List() { // the earliest attempt first, whatever the order of their ids
		if st.PodUID != p.uid {
			continue
		}
		c := p.container(st.Name)
		if c.Last != nil && c.Last.Attempt > st.Attempt {
			continue
		}
		spec := findContainer(p.api, st.Name)
		if spec == nil {
			continue
		}
		cs := told[st.Name]
		same := trimScheme(cs.ContainerID) == st.ID
		c.Last = &plan.Instance{
			ID: st.ID, Attempt: st.Attempt, ImageID: st.ImageRef, Running: st.State == containers.Running, StartedAt: st.StartedAt,
			FinishedAt: st.FinishedAt, ExitCode: int32(st.ExitCode), Reason: st.Reason, Message: st.Message,
			Started: spec.StartupProbe == nil || same && cs.Started != nil && *cs.Started, Passing: spec.ReadinessProbe == nil || same && cs.Ready,
		}
		c.Restarts = max(c.Restarts, st.Attempt)
		if c.Previous != nil && c.Previous.ID == st.ID {
			c.Previous = nil
		}
	}
	for name, c := range p.obs.Containers {
		if c.Last != nil && c.Last.Running {
			spec := findContainer(p.api, name)
			ip := firstOf(p.obs.PodIPs)
			if p.api.Spec.HostNetwork {
				ip = a.cfg.NodeIP.String()
			}
			a.probes.Start(probeTarget(p.api, spec, c.Last, ip))
		}
	}
}

// sweep removes what belongs to no pod that the node is to run: the remains of those that were deleted while it was away.
func (a *Agent) sweep() {
	wanted := map[string]bool{}
	for _, api := range a.cluster.pods() {
		wanted[string(api.UID)] = true
	}
	orphans := map[string]bool{}
	for _, b := range a.containers.Sandboxes() {
		orphans[b.PodUID] = true
	}
	for _, c := range a.containers.List() {
		orphans[c.PodUID] = true
	}
	if dirs, err := os.ReadDir(filepath.Join(a.cfg.DataDir, "pods")); err == nil {
		for _, d := range dirs {
			orphans[d.Name()] = true
		}
	}
	if a.cfg.Network != nil {
		if err := a.cfg.Network.Sweep(a.ctx, wanted); err != nil {
			a.log.Warn("sweeping the network", "error", err)
		}
	}
	for uid := range orphans {
		if wanted[uid] || a.pod(uid) != nil {
			continue
		}
		a.background.Go(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), makeTimeout)
			defer cancel()
			for _, st := range a.containers.List() {
				if st.PodUID == uid && st.State == containers.Running {
					_, _ = a.containers.Stop(ctx, st.ID, "", leastGrace)
				}
			}
			if err := a.cleanup(ctx, uid, ""); err != nil {
				a.log.Warn("removing a pod that the cluster has no more", "pod", uid, "error", err)
				return
			}
			a.log.Info("removed a pod that the cluster has no more", "pod", uid)
			logs, _ := filepath.Glob(filepath.Join(a.cfg.DataDir, "logs", "*_"+uid))
			for _, l := range logs {
				_ = os.RemoveAll(l)
			}
		})
	}
}

// saver writes what is wanted to disk, some time after it changed.
func (a *Agent) saver(ctx context.Context) {
	tick := time.NewTicker(saveAfter)
	defer tick.Stop()
	seen := a.cluster.copy.Version()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now := a.cluster.copy.Version()
			if now == seen {
				continue
			}
			if err := a.store.Save(a.cluster.copy); err != nil {
				a.log.Warn("keeping what the node is to run", "error", err)
				continue
			}
			seen = now
		}
	}
}

// tokens asks the control plane for tokens.
type tokens struct{ a *Agent }

// Token implements volumes.Tokens.
func (t tokens) Token(ctx context.Context, pod *corev1.Pod, audience string, seconds int64) (volumes.Token, error) {
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	req := &authenticationv1.TokenRequest{
		TypeMeta:   metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"},
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: account},
		Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: &seconds,
			BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
		},
	}
	if audience != "" {
		req.Spec.Audiences = []string{audience}
	}
	asked := t.a.now()
	r, err := t.a.cfg.Upstream.Bus.Do(ctx, commands.Command{
		Verb: commands.Create, Resource: accountsVersion, Subresource: "token", Namespace: pod.Namespace, Name: account, Object: req, Actor: t.a.cfg.actor(),
	})
	if err != nil {
		return volumes.Token{}, err
	}
	answer, ok := r.Object.(*authenticationv1.TokenRequest)
	if !ok || answer.Status.Token == "" {
		return volumes.Token{}, fmt.Errorf("the control plane answered with a %T that holds no token", r.Object)
	}
	return volumes.Token{Value: answer.Status.Token, Issued: asked, Expires: answer.Status.ExpirationTimestamp.Time}, nil
}

// lockPatience is how long the longest wait for the data directory is.
const lockPatience = 640 * time.Millisecond

// lockDir makes sure that one process at a time is the node of a data directory.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "agent.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the node's data directory: %w", err)
	}
	// A process that was killed may live on for a moment in a child that it had just forked.
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || wait > lockPatience {
			break
		}
		time.Sleep(wait)
	}
	if err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s: stop it, or choose another --data-dir", ErrInUse, dir)
		}
		return nil, fmt.Errorf("locking the node's data directory: %w", err)
	}
	return f, nil
}
