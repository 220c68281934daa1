// Command shiplog is a container orchestrator with the Kubernetes API whose every change is an immutable event. This package
// holds flags and wiring only.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/shiplog/shiplog/cmd/internal/early"
	_ "github.com/shiplog/shiplog/cmd/internal/early/english"
	"github.com/shiplog/shiplog/runtime/containers"
)

// version is set by the linker.
var version = "dev"

func main() {
	// Where there is no small program for it, this binary holds the namespaces of pods.
	if len(os.Args) == 2 && os.Args[1] == "pause" {
		containers.PauseMain()
		return
	}
	if len(os.Args) < 2 || os.Args[1] != "up" { // which says itself when it has started
		early.Over()
	}
	err := run(os.Args[1:])
	if err == nil {
		return
	}
	var exit *exitError
	if errors.As(err, &exit) {
		os.Exit(exit.code)
	}
	fmt.Fprintln(os.Stderr, "shiplog: "+err.Error())
	os.Exit(1)
}

// exitError ends the process with a code after everything worth saying has been said.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRootCommand()
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "shiplog",
		Short: "A container orchestrator with the Kubernetes API whose every change is an immutable event",
		Long: `Shiplog runs containers behind the Kubernetes API. Every change to the cluster is an event in a log that is never
changed, and everything else is derived from it: so the cluster can be read as it was at any moment of its past.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	var named target
	root.PersistentFlags().StringVar(&named.dir, "data-dir", "", "directory of the cluster's data (default $SHIPLOG_DATA_DIR, or "+defaultDataDir()+")")
	root.PersistentFlags().StringVar(&named.kubeconfig, "kubeconfig", "", "kubeconfig of a cluster, for commands that ask a running one (default: the data directory's, or $KUBECONFIG)")
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Running a cluster:"},
		&cobra.Group{ID: "use", Title: "Using it:"},
		&cobra.Group{ID: "look", Title: "Looking back:"},
		&cobra.Group{ID: "tend", Title: "Tending it:"},
	)
	for group, commands := range map[string][]*cobra.Command{
		"run":  {newUpCommand(), newDownCommand(), newAgentCommand(), newTokenCommand()},
		"use":  {newKubectlCommand(), newImageCommand()},
		"look": append([]*cobra.Command{newAtCommand()}, newLookBackCommands(func() target { return named })...),
		"tend": {newBackupCommand(), newRestoreCommand(), newVerifyCommand(), newRebuildCommand(), newControllersCommand(), newEventStoreCommand(), newKeysCommand()},
	} {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	return root
}
