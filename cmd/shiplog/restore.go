package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/ops/backup"
)

func newRestoreCommand() *cobra.Command {
	r := backup.Restore{Stdin: os.Stdin, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	var passphraseFile, output string
	cmd := &cobra.Command{
		Use:   "restore FILE [INCREMENTAL...] --data-dir D",
		Short: "Make a data directory of a backup",
		Long: `Makes the data directory D, which must be empty or not there, of a full backup and the incremental ones that carry on from it,
oldest first. FILE may be "-" for standard input. Everything is checked while it is read; when anything is wrong nothing is left behind.
Afterwards ` + "`shiplog up --data-dir D`" + ` starts the cluster: its read models are built again from the log.`,
		Example: `  shiplog restore monday.backup tuesday.backup --data-dir /var/lib/shiplog --keys-passphrase-file /root/passphrase`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r.Files, r.Dir = args, dataDir(cmd)
			if r.Passphrase, err = backup.PassphraseFor(passphraseFile); err != nil {
				return err
			}
			return runRestore(cmd.Context(), &r, output)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&passphraseFile, "keys-passphrase-file", "", "file with the passphrase of the backup's keys")
	flags.BoolVar(&r.WithoutKeys, "without-keys", false, "leave the backup's keys out")
	flags.StringVarP(&output, "output", "o", "table", "table or json")
	cmd.MarkFlagsMutuallyExclusive("keys-passphrase-file", "without-keys")
	return cmd
}

func runRestore(ctx context.Context, r *backup.Restore, output string) error {
	if output != "table" && output != "json" {
		return fmt.Errorf("-o %s: choose table or json", output)
	}
	said := newProgress("restoring")
	r.Progress = func(file string, at, head eventstore.Position) {
		said.what = "restoring " + file
		said.at(at, head)
	}
	done, err := r.Run(ctx)
	said.end()
	if err != nil {
		return err
	}
	if output == "json" {
		return printJSON(done)
	}
	fmt.Printf("restored %d entries into %s, up to position %d (digest %s)\n", done.Entries, done.Dir, done.Head.Position, done.Head.Digest)
	if !done.Keys {
		fmt.Println(`No keys were restored: the cluster gets a new certificate authority at its first start (give out kubeconfigs and join nodes anew),
service-account tokens of before are not valid, and Secrets of before cannot be read.`)
	}
	fmt.Printf("Start it with: shiplog up --data-dir %s\n", done.Dir)
	return nil
}
