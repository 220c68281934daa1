package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/shiplog/shiplog/commands"
)

// leaseSeconds is how long the cluster believes in a node that does not renew its lease.
const leaseSeconds = 40

// retryFirst is the first wait before the control plane is asked again; it doubles.
const retryFirst = 250 * time.Millisecond

var leasesVersioned = coordinationv1.SchemeGroupVersion.WithResource("leases")

// renew says that the node lives. The first time it makes the lease, or takes over the one that is there.
func (n *node) renew(ctx context.Context) error {
	now := metav1.NewMicroTime(n.a.now())
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"renewTime": now, "holderIdentity": n.a.cfg.NodeName, "leaseDurationSeconds": leaseSeconds}})
	if err != nil {
		return err
	}
	_, err = n.a.cfg.Upstream.Bus.Do(ctx, commands.Command{
		Verb: commands.Patch, Resource: leasesVersioned, Namespace: corev1.NamespaceNodeLease, Name: n.a.cfg.NodeName,
		Patch: patch, PatchType: types.MergePatchType, Actor: n.a.cfg.actor(),
	})
	if !apierrors.IsNotFound(err) {
		return wrapLease(err)
	}
	seconds := int32(leaseSeconds)
	l := &coordinationv1.Lease{
		TypeMeta:   metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: n.a.cfg.NodeName},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &n.a.cfg.NodeName, LeaseDurationSeconds: &seconds, RenewTime: &now},
	}
	if n.known != nil {
		// The lease goes when the node does.
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.known.Name, UID: n.known.UID}}
	}
	_, err = n.a.cfg.Upstream.Bus.Do(ctx, commands.Command{
		Verb: commands.Create, Resource: leasesVersioned, Namespace: l.Namespace, Name: l.Name, Object: l, Actor: n.a.cfg.actor(),
	})
	return wrapLease(err)
}

func wrapLease(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("renewing the node's lease: %w", err)
}

// run registers the node, and then renews lease and status. Each failure is tried again; the node's pods run on meanwhile.
func (n *node) run(ctx context.Context, m machine, changed <-chan struct{}) {
	wait := retryFirst
	for {
		err := n.register(ctx, m)
		if err == nil {
			err = n.renew(ctx)
		}
		if err == nil {
			break
		}
		n.a.log.Warn("the control plane does not take the node yet", "error", err)
		select {
		case <-time.After(wait):
			wait = min(2*wait, 10*time.Second)
		case <-ctx.Done():
			return
		}
	}
	n.a.log.Info("node registered", "node", n.a.cfg.NodeName, "address", n.a.cfg.NodeIP)
	n.a.registered()
	n.a.events.onNode(n.known.UID, corev1.EventTypeNormal, "Starting", "Starting the node agent.")
	lease := time.NewTicker(n.a.cfg.LeasePeriod)
	defer lease.Stop()
	var retry <-chan time.Time
	wait = retryFirst
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-retry:
			err = n.send(ctx, m)
		case <-lease.C:
			if err = n.renew(ctx); err == nil {
				err = n.send(ctx, m)
			}
		case <-changed:
			err = n.send(ctx, m)
		}
		switch {
		case err == nil || ctx.Err() != nil:
			retry, wait = nil, retryFirst
		case apierrors.IsNotFound(err):
			// Somebody deleted the Node: this one is still here.
			if err := n.register(ctx, m); err != nil {
				n.a.log.Warn("registering the node anew", "error", err)
			}
		default:
			n.a.log.Warn("the control plane does not hear of the node", "error", err)
			retry = time.After(wait)
			wait = min(2*wait, 10*time.Second)
		}
	}
}

func labelPatch(labels map[string]string) ([]byte, error) {
	return json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
}

// nodePatch is what of a node's status differs; nil when nothing does.
func nodePatch(before, after corev1.NodeStatus) ([]byte, error) {
	b, err := json.Marshal(corev1.Node{Status: before})
	if err != nil {
		return nil, fmt.Errorf("writing the node's status: %w", err)
	}
	a, err := json.Marshal(corev1.Node{Status: after})
	if err != nil {
		return nil, fmt.Errorf("writing the node's status: %w", err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(b, a, corev1.Node{})
	if err != nil {
		return nil, fmt.Errorf("comparing the node's statuses: %w", err)
	}
	if string(patch) == "{}" {
		return nil, nil
	}
	return patch, nil
}
