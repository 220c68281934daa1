package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/ops/datadir"
	"github.com/shiplog/shiplog/projections/nodefeed"
	"github.com/shiplog/shiplog/runtime/agent"
)

// StopProcess asks the process that holds a data directory to end and waits until it has. It returns false when there was none.
func StopProcess(ctx context.Context, path string) (bool, error) {
	pid, held := datadir.Holder(path)
	if !held {
		return false, nil
	}
	if pid == 0 {
		return false, fmt.Errorf("the data directory %s is in use by a process that cannot be told: stop it by hand", path)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return false, fmt.Errorf("stopping process %d: %w", pid, err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if now, held := datadir.Holder(path); !held || now != pid {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return true, fmt.Errorf("process %d did not end: %w (kill -9 %d ends it; nothing that was acknowledged is lost)", pid, ctx.Err(), pid)
		case <-tick.C:
		}
	}
}

// Teardown removes everything that a stopped node left running on this machine: containers, mounts, network, rules, control
// groups. What the cluster has recorded stays.
func Teardown(ctx context.Context, path string, logger *slog.Logger) error {
	data, err := os.ReadFile(nodeSpecFile(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no node has run here
	}
	if err != nil {
		return fmt.Errorf("reading the node's settings: %w", err)
	}
	var spec nodeSpec
	if err := json.Unmarshal(data, &spec); err != nil {
		return fmt.Errorf("reading %s: %w", nodeSpecFile(path), err)
	}
	node, err := newAgent(path, spec, agent.Config{
		Upstream: agent.Upstream{Source: nobody{}, Bus: nobody{}}, NodeIP: netip.AddrFrom4([4]byte{127, 0, 0, 1}),
	}, logger)
	if err != nil {
		return err
	}
	return node.Teardown(ctx)
}

// nobody is the control plane of a node that is being taken down.
type nobody struct{}

var errNobody = errors.New("this node is being taken down")

func (nobody) Open(context.Context, string, uint64) (nodefeed.Stream, error) { return nil, errNobody }

func (nobody) Do(context.Context, commands.Command) (commands.Result, error) {
	return commands.Result{}, errNobody
}
