package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/shiplog/shiplog/cmd/internal/cluster"
)

func newDownCommand() *cobra.Command {
	var deleteData bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop a cluster and everything it runs on this machine; the data stays",
		Long: `Stops the process that runs in the data directory, if one does, and removes what its node has left running: containers,
mounts, network namespaces, the bridge, iptables rules and control groups. The log, images and certificates stay, unless
--delete-data is given.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir := dataDir(cmd)
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			stopped, err := cluster.StopProcess(ctx, dir)
			if err != nil {
				return err
			}
			if err := cluster.Teardown(cmd.Context(), dir, slog.New(slog.NewTextHandler(io.Discard, nil))); err != nil {
				return fmt.Errorf("taking the node down: %w", err)
			}
			switch {
			case deleteData:
				if err := os.RemoveAll(dir); err != nil {
					return fmt.Errorf("deleting the data: %w", err)
				}
				fmt.Printf("the cluster is down, and its data in %s is deleted\n", dir)
			case stopped:
				fmt.Printf("the cluster is down; its data stays in %s\n", dir)
			default:
				fmt.Printf("no cluster was running in %s\n", dir)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&deleteData, "delete-data", false, "delete the data directory too")
	return cmd
}
