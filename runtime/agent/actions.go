package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/runtime/agent/plan"
	"github.com/shiplog/shiplog/runtime/containers"
	"github.com/shiplog/shiplog/runtime/images"
)

// makeTimeout bounds what is never to take long: making sandboxes and containers, and removing them.
const makeTimeout = 2 * time.Minute

// execute carries an action out and notes what came of it. What makes or removes is not broken off by the agent's end: it
// is soon through, and half-made things are worse.
func (p *pod) execute(ctx context.Context, act plan.Action) {
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeTimeout)
	defer cancel()
	switch act.Kind {
	case plan.MakeSandbox:
		p.makeSandbox(whole)
	case plan.RemoveSandbox:
		p.removeSandbox(whole)
	case plan.MountVolumes:
		p.mountVolumes(ctx)
	case plan.Pull:
		p.pull(ctx, act)
	case plan.Start:
		p.start(whole, act)
	case plan.Kill:
		p.kill(ctx, act)
	case plan.Cleanup:
		p.cleanup(whole)
	case plan.DeletePod:
		p.deletePod(ctx)
	}
}

// again notes a failure that will be tried again.
func again(f plan.Failure, reason string, err error, now time.Time) plan.Failure {
	return plan.Failure{Reason: reason, Message: err.Error(), At: now, Count: f.Count + 1}
}

func (p *pod) makeSandbox(ctx context.Context) {
	api := p.snapshot()
	ips, err := p.a.makeSandbox(ctx, api)
	if err != nil {
		p.a.events.warn(api, "", "FailedCreatePodSandBox", err.Error())
		p.with(func(o *plan.Observed) {
			o.Sandbox, o.SandboxFail = plan.Absent, again(o.SandboxFail, "FailedCreatePodSandBox", err, p.a.now())
		})
		return
	}
	p.with(func(o *plan.Observed) {
		o.Sandbox, o.SandboxFail, o.SandboxLost = plan.Ready, plan.Failure{}, false
		if ips != nil {
			o.PodIPs = ips
		}
		for i := range api.Spec.InitContainers {
			// What was initialised was so in a sandbox that is gone.
			if c := o.Containers[api.Spec.InitContainers[i].Name]; c != nil && c.Last != nil && !c.Last.Running {
				c.Previous, c.Last = c.Last, nil
			}
		}
	})
	p.a.touchFor(api)
}

// makeSandbox makes a pod's namespaces, its pause container and, meanwhile, its place in the network.
func (a *Agent) makeSandbox(ctx context.Context, api *corev1.Pod) (ips []string, err error) {
	sysctls := map[string]string{}
	if sc := api.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			sysctls[s.Name] = s.Value
		}
	}
	host, _ := a.hostname(api)
	box, err := a.containers.CreateSandbox(ctx, containers.SandboxConfig{ID: a.newID(), Pod: api, Hostname: host, Sysctls: sysctls})
	if err != nil {
		return nil, err
	}
	var g errgroup.Group
	g.Go(func() error { return a.containers.StartPause(ctx, box) })
	if box.NetnsPath != "" {
		g.Go(func() error {
			if a.cfg.Network == nil {
				return errors.New("this node has no pod network: only pods with hostNetwork can run on it")
			}
			at, err := a.cfg.Network.AttachPod(ctx, string(api.UID), box.NetnsPath)
			if err != nil {
				return err
			}
			ips = []string{at.IP.String()}
			return nil
		})
	}
	err = g.Wait()
	if err == nil {
		err = a.writePodFiles(api, firstOf(ips))
	}
	if err != nil {
		return nil, errors.Join(err, a.dropSandbox(ctx, string(api.UID)))
	}
	return ips, nil
}

func (a *Agent) podDir(uid string) string { return filepath.Join(a.cfg.DataDir, "pods", uid) }

func (a *Agent) logDir(api *corev1.Pod) string {
	return filepath.Join(a.cfg.DataDir, "logs", api.Namespace+"_"+api.Name+"_"+string(api.UID))
}

func (a *Agent) dropSandbox(ctx context.Context, uid string) error {
	var detach error
	if box, ok := a.containers.Sandbox(uid); ok && box.NetnsPath != "" && a.cfg.Network != nil {
		detach = a.cfg.Network.DetachPod(ctx, uid)
	}
	return errors.Join(detach, a.containers.RemoveSandbox(ctx, uid))
}

func (p *pod) removeSandbox(ctx context.Context) {
	api := p.snapshot()
	if err := p.a.dropSandbox(ctx, p.uid); err != nil {
		p.a.log.Error("removing a sandbox", "pod", api.Namespace+"/"+api.Name, "error", err)
		p.with(func(o *plan.Observed) {
			o.Sandbox, o.SandboxFail = plan.Ready, again(o.SandboxFail, "FailedKillPod", err, p.a.now())
		})
		return
	}
	p.with(func(o *plan.Observed) { o.Sandbox, o.SandboxLost = plan.Absent, false })
	p.a.touchFor(api)
}

func (p *pod) mountVolumes(ctx context.Context) {
	api := p.snapshot()
	refresh, err := p.a.volumes.Setup(ctx, api)
	if err != nil {
		if ctx.Err() == nil {
			p.a.events.warn(api, "", "FailedMount", "MountVolume.SetUp failed for "+err.Error())
		}
		p.with(func(o *plan.Observed) {
			o.Volumes, o.VolumeFail = plan.Absent, again(o.VolumeFail, "FailedMount", err, p.a.now())
		})
		return
	}
	p.mu.Lock()
	p.refresh = refresh
	p.mu.Unlock()
	p.with(func(o *plan.Observed) { o.Volumes, o.VolumeFail = plan.Ready, plan.Failure{} })
}

// refreshVolumes brings the files of the pod's volumes up to date.
func (p *pod) refreshVolumes(ctx context.Context) {
	api := p.snapshot()
	refresh, err := p.a.volumes.Refresh(ctx, api)
	if err != nil {
		p.a.log.Warn("refreshing volumes", "pod", api.Namespace+"/"+api.Name, "error", err)
		refresh = p.a.now().Add(time.Minute)
	}
	p.mu.Lock()
	p.refresh = refresh
	p.mu.Unlock()
	p.poke()
}

func (p *pod) pull(ctx context.Context, act plan.Action) {
	api := p.snapshot()
	spec := findContainer(api, act.Container)
	p.a.events.normal(api, act.Container, "Pulling", fmt.Sprintf("Pulling image %q", spec.Image))
	began := p.a.now()
	img, err := p.a.images.Pull(ctx, spec.Image, p.a.pullCredentials(api), nil)
	if err == nil {
		took := p.a.now().Sub(began).Round(time.Millisecond)
		p.a.events.normal(api, act.Container, "Pulled", fmt.Sprintf("Successfully pulled image %q in %s. Image size: %d bytes.", spec.Image, took, img.Size))
		p.with(func(*plan.Observed) {
			c := p.container(act.Container)
			c.Pulling, c.Pulled, c.PullFail = false, true, plan.Failure{}
		})
		return
	}
	if ctx.Err() == nil {
		p.a.events.warn(api, act.Container, "Failed", fmt.Sprintf("Failed to pull image %q: %v", spec.Image, err))
	}
	reason := plan.ErrImagePull
	if errors.Is(err, images.ErrInvalidName) {
		reason = plan.InvalidImageName
	}
	p.with(func(*plan.Observed) {
		c := p.container(act.Container)
		c.Pulling, c.PullFail = false, again(c.PullFail, reason, err, p.a.now())
	})
	p.a.events.warn(api, act.Container, "BackOff", fmt.Sprintf("Back-off pulling image %q", spec.Image))
}

// pullCredentials are those of the pod's pull secrets and of its service account's.
func (a *Agent) pullCredentials(api *corev1.Pod) images.Credentials {
	refs := append([]corev1.LocalObjectReference(nil), api.Spec.ImagePullSecrets...)
	if sa, ok := a.cluster.serviceAccount(api.Namespace, api.Spec.ServiceAccountName); ok && len(refs) == 0 {
		refs = append(refs, sa.ImagePullSecrets...)
	}
	var all []images.Credentials
	for _, ref := range refs {
		s, ok := a.cluster.Secret(api.Namespace, ref.Name)
		if !ok {
			a.events.warn(api, "", "FailedToRetrieveImagePullSecret", fmt.Sprintf("Unable to retrieve the image pull secret %q; attempting to pull the image may not succeed.", ref.Name))
			continue
		}
		var c images.Credentials
		var err error
		if data, ok := s.Data[corev1.DockerConfigJsonKey]; ok {
			c, err = images.ParseDockerConfigJSON(data)
		} else {
			c, err = images.ParseDockerCfg(s.Data[corev1.DockerConfigKey])
		}
		if err != nil {
			a.events.warn(api, "", "FailedToRetrieveImagePullSecret", fmt.Sprintf("image pull secret %q: %v", ref.Name, err))
			continue
		}
		all = append(all, c)
	}
	return images.Join(all...)
}

func (p *pod) cleanup(ctx context.Context) {
	api := p.snapshot()
	err := p.a.cleanup(ctx, p.uid, p.a.logDir(api))
	if err != nil {
		p.a.log.Error("removing a pod", "pod", api.Namespace+"/"+api.Name, "error", err)
		p.a.events.warn(api, "", "FailedKillPod", err.Error())
		select {
		case <-time.After(5 * time.Second):
		case <-p.a.ctx.Done():
		}
		p.with(func(o *plan.Observed) { o.Cleaned = plan.Absent })
		return
	}
	p.with(func(o *plan.Observed) { o.Cleaned, o.Sandbox = plan.Ready, plan.Absent })
	p.a.touchFor(api)
}

// cleanup removes everything of a pod from the node.
func (a *Agent) cleanup(ctx context.Context, uid, logs string) error {
	var failed []error
	for _, st := range a.containers.List() {
		if st.PodUID == uid {
			failed = append(failed, a.containers.Remove(ctx, st.ID))
		}
	}
	failed = append(failed, a.dropSandbox(ctx, uid), a.volumes.Remove(uid))
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if logs == "" {
		return nil
	}
	return os.RemoveAll(logs)
}

func (p *pod) deletePod(ctx context.Context) {
	api := p.snapshot()
	zero := int64(0)
	uid := api.UID
	_, err := p.a.cfg.Upstream.Bus.Do(ctx, commands.Command{
		Verb: commands.Delete, Resource: podsVersioned, Namespace: api.Namespace, Name: api.Name, Actor: p.a.cfg.actor(),
		DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid}},
	})
	switch {
	case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err):
		p.removed()
	default:
		p.a.log.Warn("deleting a pod", "pod", api.Namespace+"/"+api.Name, "error", err)
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
		}
		p.with(func(o *plan.Observed) { o.Deleted = false })
	}
}
