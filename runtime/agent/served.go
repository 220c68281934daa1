package agent

import (
	"context"
	"fmt"
	"sort"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/runtime/containers"
	"github.com/shiplog/shiplog/runtime/server"
)

// Name implements server.Node.
func (a *Agent) Name() string { return a.cfg.NodeName }

// Pods implements server.Node.
func (a *Agent) Pods() []*corev1.Pod {
	a.mu.Lock()
	list := make([]*pod, 0, len(a.pods))
	for _, p := range a.pods {
		list = append(list, p)
	}
	a.mu.Unlock()
	out := make([]*corev1.Pod, 0, len(list))
	for _, p := range list {
		out = append(out, p.snapshot())
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].Namespace < out[j].Namespace || out[i].Namespace == out[j].Namespace && out[i].Name < out[j].Name
	})
	return out
}

func (a *Agent) find(namespace, name, uid string) (*pod, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.pods {
		if p.namespace == namespace && p.name == name && (uid == "" || uid == p.uid) {
			return p, nil
		}
	}
	return nil, fmt.Errorf("pod %s/%s: %w on node %s", namespace, name, server.ErrNotFound, a.cfg.NodeName)
}

// Container implements server.Node.
func (a *Agent) Container(namespace, name, uid, container string, previous bool) (containers.Status, error) {
	p, err := a.find(namespace, name, uid)
	if err != nil {
		return containers.Status{}, err
	}
	api := p.snapshot()
	spec := findContainer(api, container)
	if spec == nil {
		return containers.Status{}, fmt.Errorf("container %s is not valid for pod %s: %w", container, name, server.ErrNotFound)
	}
	var runs []containers.Status
	for _, st := range a.containers.List() {
		if st.PodUID == p.uid && st.Name == container {
			runs = append(runs, st)
		}
	}
	sort.Slice(runs, func(i, j int) bool { return runs[i].Attempt > runs[j].Attempt })
	if previous {
		// The one before the present; when it is between two runs, the one that ended last.
		if len(runs) > 0 && runs[0].State == containers.Running {
			runs = runs[1:]
		}
		if len(runs) == 0 {
			return containers.Status{}, fmt.Errorf("%w: previous terminated container %q in pod %q", containers.ErrNotRunning, container, name)
		}
		return runs[0], nil
	}
	if len(runs) == 0 {
		why := "waiting to start"
		for _, cs := range append(append([]corev1.ContainerStatus(nil), api.Status.InitContainerStatuses...), api.Status.ContainerStatuses...) {
			if cs.Name == container && cs.State.Waiting != nil {
				why = "waiting to start: " + cs.State.Waiting.Reason
				if cs.State.Waiting.Message != "" {
					why += ": " + cs.State.Waiting.Message
				}
			}
		}
		return containers.Status{}, fmt.Errorf("%w: container %q in pod %q is %s", containers.ErrNotRunning, container, name, why)
	}
	return runs[0], nil
}

// Wait implements server.Node.
func (a *Agent) Wait(ctx context.Context, id string) (containers.Status, error) {
	return a.containers.Wait(ctx, id)
}

// Exec implements server.Node.
func (a *Agent) Exec(ctx context.Context, id string, o containers.ExecOptions) error {
	return a.containers.Exec(ctx, id, o)
}

// Attach implements server.Node.
func (a *Agent) Attach(ctx context.Context, id string, o containers.AttachOptions) error {
	return a.containers.Attach(ctx, id, o)
}

// Netns implements server.Node.
func (a *Agent) Netns(namespace, name, uid string) (string, error) {
	p, err := a.find(namespace, name, uid)
	if err != nil {
		return "", err
	}
	box, ok := a.containers.Sandbox(p.uid)
	if !ok {
		return "", fmt.Errorf("%w: pod %s/%s", containers.ErrNotRunning, namespace, name)
	}
	return box.NetnsPath, nil
}

// ImageInUse implements server.Node.
func (a *Agent) ImageInUse(id string) bool {
	for _, st := range a.containers.List() {
		if st.ImageID == id {
			return true
		}
	}
	return false
}

// Stats implements server.Node.
func (a *Agent) Stats() server.NodeStats {
	d := a.disk()
	out := server.NodeStats{DiskTotal: uint64(d.total), DiskFree: uint64(d.free), MemoryTotal: uint64(a.machine.memory)}
	if u, started, err := a.containers.MachineUsage(); err == nil {
		out.Node, out.Started = u, started
	}
	all := a.containers.List()
	for _, b := range a.containers.Sandboxes() {
		u, err := a.containers.PodUsage(b)
		if err != nil {
			continue
		}
		p := server.PodStats{Namespace: b.Namespace, Name: b.Name, UID: b.PodUID, Started: b.CreatedAt, Usage: u}
		for _, st := range all {
			if st.PodUID != b.PodUID || st.State != containers.Running {
				continue
			}
			if cu, err := a.containers.Usage(st); err == nil {
				p.Containers = append(p.Containers, server.ContainerStats{Name: st.Name, Started: st.StartedAt, Usage: cu})
			}
		}
		out.Pods = append(out.Pods, p)
	}
	sort.Slice(out.Pods, func(i, j int) bool { return out.Pods[i].UID < out.Pods[j].UID })
	return out
}
