package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/shiplog/shiplog/cmd/internal/cluster"
)

func newKeysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "The keys that Secrets are sealed with",
	}
	cmd.AddCommand(newKeysRotateCommand())
	return cmd
}

func newKeysRotateCommand() *cobra.Command {
	var kekFile string
	cmd := &cobra.Command{
		Use:   "rotate [--kek-file F]",
		Short: "Wrap every data key by a new key-encryption key, and destroy the old one",
		Long: `Makes a new key-encryption key, wraps every data key by it and destroys the old one. Copies of the old key then open nothing that is
in the key store. The log is not touched. Works on a running cluster and on the data directory of one that is not; when it is interrupted, the
next start goes on with it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			last, err := rotateKeys(cmd, kekFile)
			if err != nil {
				return err
			}
			if last.Failed {
				return errors.New(last.Message)
			}
			fmt.Println(last.Message)
			return nil
		},
	}
	cmd.Flags().StringVar(&kekFile, "kek-file", os.Getenv(cluster.KEKFileEnv), "file of the key-encryption key of a cluster that is not running (default: in the data directory, or $"+cluster.KEKFileEnv+")")
	return cmd
}

func rotateKeys(cmd *cobra.Command, kekFile string) (cluster.Step, error) {
	t := targetOf(cmd)
	conn, err := t.connect()
	if err == nil {
		return cluster.Tend(cmd.Context(), conn.client, conn.server, "rotate", nil, func(cluster.Step) {})
	}
	dir, ok := t.stoppedDir(err)
	if !ok {
		return cluster.Step{}, err
	}
	return cluster.RotateStopped(cmd.Context(), dir, kekFile)
}
