package cluster

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/shiplog/shiplog/cmd/internal/early"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/standard"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/runtime/sim"
	"github.com/shiplog/shiplog/scheduler"
)

var nodes = domain.Resource{Resource: "nodes"}

// runActors runs those who command: controllers, scheduler and nodes. It returns when the context ends or one of them, or a
// lower layer, fails.
func (cp *controlPlane) runActors(ctx, lower context.Context, ready func(url string)) error {
	group, acting := errgroup.WithContext(ctx)
	acting, stop := context.WithCancelCause(acting)
	defer stop(nil)
	defer context.AfterFunc(lower, func() { stop(context.Cause(lower)) })()

	cp.stage("controllers and scheduler")
	registry, err := standard.Registry(standard.Options{Kinds: cp.kinds, RootCA: cp.pki.CA()})
	if err != nil {
		return fmt.Errorf("assembling the controllers: %w", err)
	}
	bus := cp.server.Bus()
	runtime, err := controllers.New(registry, cp.view, bus, controllers.Options{
		Leader: cp.leader(controllers.LeaseName), Logger: cp.logger, Meter: prometheus.DefaultRegisterer,
	})
	if err != nil {
		return fmt.Errorf("assembling the controllers: %w", err)
	}
	group.Go(func() error { return runtime.Run(acting) })
	placing := scheduler.New(cp.view, bus, scheduler.Config{Leader: cp.leader("shiplog-scheduler"), Log: cp.logger})
	group.Go(func() error { return placing.Run(acting) })
	if cp.SimNodes > 0 {
		cp.stage(fmt.Sprintf("%d simulated nodes", cp.SimNodes))
		pretending, err := sim.New(cp.view, bus, sim.Options{Nodes: cp.SimNodes, Log: cp.logger})
		if err != nil {
			return fmt.Errorf("making simulated nodes: %w", err)
		}
		group.Go(func() error { return pretending.Run(acting) })
	}
	if cp.Node {
		cp.stage("the node agent")
		if err := cp.runNode(acting, group); err != nil {
			stop(err)
			return fmt.Errorf("starting the node: %w", ignoreCanceledBut(err, group.Wait()))
		}
	}
	group.Go(func() error {
		if err := cp.waitNodes(acting); err != nil {
			return err
		}
		ready(cp.server.URL())
		// Starting needs far more memory than running (OpenAPI documents, the replay of the log): give it back.
		early.Over()
		debug.FreeOSMemory()
		return nil
	})
	err = group.Wait()
	if cause := context.Cause(lower); lower.Err() != nil && ctx.Err() == nil {
		return cause
	}
	return ignoreCanceled(err)
}

func ignoreCanceledBut(err, other error) error {
	if ignoreCanceled(other) != nil {
		return fmt.Errorf("%w (and then: %w)", err, other)
	}
	return err
}

// leader elects by lease where several control planes may share a log. Only this process can hold an embedded log, so it leads.
func (cp *controlPlane) leader(lease string) controllers.Leader {
	if cp.EventStore == "" {
		return controllers.Always{}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return controllers.Lease{
		Bus: cp.server.Bus(), Live: cp.view, Name: lease, Logger: cp.logger,
		Identity: fmt.Sprintf("%s_%d", host, os.Getpid()),
	}
}

// waitNodes waits until every node that this process runs is Ready.
func (cp *controlPlane) waitNodes(ctx context.Context) error {
	want := cp.SimNodes
	if cp.Node {
		want++
	}
	if want == 0 {
		return nil
	}
	cp.stage("waiting for the nodes to be Ready")
	for {
		snapshot := cp.view.Snapshot()
		follower, err := cp.view.Follow(snapshot.Position(), nodes)
		if err != nil {
			continue // the buffer moved on meanwhile; look again
		}
		if cp.readyNodes(snapshot) >= want {
			follower.Close()
			return nil
		}
		_, _, err = follower.Next(ctx)
		follower.Close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			cp.logger.Debug("waiting for the nodes", "error", err)
		}
	}
}

func (cp *controlPlane) readyNodes(view projections.Reader) int {
	n := 0
	for node := range projections.List[*corev1.Node](view, nodes, "") {
		_, simulated := node.Labels[sim.Label]
		ours := simulated && cp.SimNodes > 0 || cp.Node && node.Name == cp.NodeName
		if ours && isReady(node) {
			n++
		}
	}
	return n
}

func isReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// nodeName is what this machine's node is called unless a name was given.
func nodeName(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("finding a name for the node: %w: give one with --node-name", err)
	}
	return strings.ToLower(strings.ReplaceAll(host, "_", "-")), nil
}
