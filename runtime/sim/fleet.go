package sim

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// setNodes registers and removes nodes until there are n.
func (x *session) setNodes(ctx context.Context, n int) error {
	x.wanted = n
	for len(x.byName) > n {
		last := x.byName[len(x.byName)-1]
		x.byName = x.byName[:len(x.byName)-1]
		delete(x.nodes, last.name)
		x.deregister(ctx, last)
	}
	for i := 0; len(x.byName) < n; i++ {
		name := fmt.Sprintf("%s%d", x.opts.NamePrefix, i)
		if x.nodes[name] != nil {
			continue
		}
		ip, err := nth(x.opts.NodeCIDR, i)
		if err != nil {
			return err
		}
		state := &nodeState{name: name, index: i, ip: ip}
		x.nodes[state.name] = state
		x.byName = append(x.byName, state)
		x.registerLater(ctx, state)
	}
	return nil
}

// resized is setNodes while the simulation runs: pods may be bound to the new nodes' names already.
func (x *session) resized(ctx context.Context, n int) error {
	before := len(x.byName)
	if err := x.setNodes(ctx, n); err != nil {
		return err
	}
	if before >= len(x.byName) {
		return nil
	}
	view := x.live.Snapshot()
	for _, node := range x.byName[before:] {
		for o := range view.Index(podsResource, domain.NodeIndex, node.name) {
			if pod, ok := projections.As[*corev1.Pod](o); ok {
				if p := x.see(pod, o.Position, origin{cause: domain.Cause{Position: o.Position}}); p != nil {
					x.consider(ctx, p)
				}
			}
		}
	}
	return nil
}

// registerLater has a node written and its first lease.
func (x *session) registerLater(ctx context.Context, n *nodeState) {
	if n.busy {
		return
	}
	n.busy = true
	x.upkeep.Submit(ctx, func(ctx context.Context) func() {
		err := x.register(ctx, n)
		return func() {
			n.busy = false
			if err != nil {
				if ctx.Err() == nil {
					x.log.Warn("a simulated node is not registered yet", "node", n.name, "err", err)
				}
				return // the next slot tries again
			}
			n.registered = true
			x.renewLater(ctx, n)
		}
	})
}

// deregister has a node's object deleted. What becomes of its pods is the controllers' business, as with a real node.
func (x *session) deregister(ctx context.Context, n *nodeState) {
	x.upkeep.Submit(ctx, func(ctx context.Context) func() {
		_, err := x.bus.Do(ctx, commands.Command{Verb: commands.Delete, Resource: nodesVersioned, Name: n.name, Actor: n.actor()})
		if err == nil || apierrors.IsNotFound(err) {
			_, err = x.bus.Do(ctx, commands.Command{
				Verb: commands.Delete, Resource: leasesVersioned, Namespace: corev1.NamespaceNodeLease, Name: n.name, Actor: n.actor(),
			})
		}
		return func() {
			if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
				x.log.Warn("removing a simulated node", "node", n.name, "err", err)
			}
		}
	})
}

// renewSlot renews the leases of one slot and registers those nodes of it that are not yet.
func (x *session) renewSlot(ctx context.Context) {
	for i := x.slot; i < len(x.byName); i += renewEvery {
		if n := x.byName[i]; n.registered {
			x.renewLater(ctx, n)
		} else {
			x.registerLater(ctx, n)
		}
	}
	x.slot = (x.slot + 1) % renewEvery
}

func (x *session) renewLater(ctx context.Context, n *nodeState) {
	if n.renewing {
		return
	}
	n.renewing = true
	lease := n.lease
	x.upkeep.Submit(ctx, func(ctx context.Context) func() {
		written, err := x.renew(ctx, n, lease)
		return func() {
			n.renewing = false
			n.lease = written // nil after an error: it is read again
			if err != nil && ctx.Err() == nil {
				x.log.Debug("renewing a lease", "node", n.name, "err", err)
			}
		}
	})
}
