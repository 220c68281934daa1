package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/shiplog/shiplog/cmd/internal/cluster"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/ops/history"
	"github.com/shiplog/shiplog/projections/historyhttp"
	"github.com/shiplog/shiplog/projections/logreplay"
)

// newLookBackCommands are history, why, blame, diff and audit. named returns the cluster that the user named.
func newLookBackCommands(named func() target) []*cobra.Command {
	return history.NewCommands(func(context.Context) (history.Access, error) { return openPast(named()) })
}

// openPast reads the past from a running cluster, or from the log of one that is not.
func openPast(t target) (history.Access, error) {
	kinds := domain.NewSet(domain.Kinds())
	conn, err := t.connect()
	if err == nil {
		return history.Access{History: historyhttp.NewClient(conn.server, conn.client, kinds), Kinds: kinds}, nil
	}
	dir, ok := t.stoppedDir(err)
	if !ok {
		return history.Access{}, err
	}
	log, closeLog, err := cluster.OpenLog(dir, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		return history.Access{}, err
	}
	kinds, closeKeys, err := cluster.OpenKinds(dir, os.Getenv(cluster.KEKFileEnv))
	if err != nil {
		return history.Access{}, errors.Join(err, closeLog())
	}
	closeAll := func() error { return errors.Join(closeKeys(), closeLog()) }
	return history.Access{History: logreplay.New(log, kinds), Kinds: kinds, Close: closeAll}, nil
}
