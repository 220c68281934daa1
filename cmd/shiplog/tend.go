package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/shiplog/shiplog/cmd/internal/cluster"
)

func newRebuildCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rebuild [MODEL...]",
		Short: "Build read models again from the beginning of the log",
		Long: `Builds the named read models (all unless named) again from position 0, beside those that are in use, and swaps them in when
they have caught up. Works on a running cluster and on the data directory of one that is not.`,
		RunE: func(cmd *cobra.Command, args []string) error { return tend(cmd, "rebuild", args) },
	}
}

func newVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that the log is sound and that everything derived from it agrees with it",
		Long: `Checks the log as "shiplog verify log" does, builds the read models again beside those that are in use, and compares the two by
hash. Exits 0 only when the log is sound and they are equal.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return tend(cmd, "verify", nil) },
	}
	cmd.AddCommand(newVerifyLogCommand())
	return cmd
}

func tend(cmd *cobra.Command, what string, models []string) error {
	report := func(s cluster.Step) { fmt.Fprintln(os.Stderr, s.Message) }
	last, err := tendAnywhere(cmd.Context(), cmd, what, models, report)
	if err != nil {
		return err
	}
	if last.Failed {
		return errors.New(last.Message)
	}
	fmt.Println(last.Message)
	return nil
}

func tendAnywhere(ctx context.Context, cmd *cobra.Command, what string, models []string, report func(cluster.Step)) (cluster.Step, error) {
	t := targetOf(cmd)
	conn, err := t.connect()
	if err == nil {
		return cluster.Tend(ctx, conn.client, conn.server, what, models, report)
	}
	dir, ok := t.stoppedDir(err)
	if !ok {
		return cluster.Step{}, err
	}
	return cluster.TendStopped(ctx, dir, what, models, report)
}
