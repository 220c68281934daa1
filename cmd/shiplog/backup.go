package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/shiplog/shiplog/cmd/internal/cluster"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/ops/backup"
	"github.com/shiplog/shiplog/ops/datadir"
)

func newBackupCommand() *cobra.Command {
	var c backupCommand
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Back up the log, of a running cluster too",
		Long: `Writes everything up to the log's head as it is now into FILE, or to standard output when FILE is "-". The cluster may be running
and goes on meanwhile. FILE gets its name when all of it is on disk; a file of that name is never overwritten.

With --since or --after only what came later is written: such a backup is restored after the one that it carries on from.

The keys of the cluster (its authority, the key of service-account tokens, the keys of Secrets) are in a backup only with
--keys-passphrase-file, encrypted with that passphrase. They are read from the data directory, so the command runs on its machine.`,
		Example: `  shiplog backup /backups/monday.backup --keys-passphrase-file /root/passphrase
  shiplog backup /backups/tuesday.backup --since /backups/monday.backup --keys-passphrase-file /root/passphrase
  shiplog backup - --kubeconfig prod.kubeconfig | ssh store 'cat > prod.backup'
  shiplog backup events.backup --dir /var/lib/eventstore      # of a stopped ` + "`shiplog eventstore serve`" + `
  shiplog backup inspect /backups/monday.backup`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.file, c.target = args[0], targetOf(cmd)
			return c.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&c.since, "since", "", "only what came after this backup")
	flags.Uint64Var(&c.after, "after", 0, "only what came after this position")
	flags.StringVar(&c.passphraseFile, "keys-passphrase-file", "", "put the cluster's keys in, encrypted with the passphrase in this file")
	flags.StringVar(&c.dir, "dir", "", "back up the log in this directory, which nobody has open, instead of a cluster's")
	flags.StringVarP(&c.output, "output", "o", "table", "table or json")
	cmd.MarkFlagsMutuallyExclusive("since", "after")
	cmd.MarkFlagsMutuallyExclusive("dir", "keys-passphrase-file")
	cmd.AddCommand(newInspectBackupCommand())
	return cmd
}

type backupCommand struct {
	file, since, passphraseFile, dir, output string
	after                                    uint64
	target                                   target
}

// made is what `backup -o json` prints.
type made struct {
	File string `json:"file"`
	backup.Trailer
	Base backup.Mark `json:"base,omitzero"`
	Keys bool        `json:"keys"`
}

func (c *backupCommand) run(ctx context.Context) error {
	if c.output != "table" && c.output != "json" {
		return fmt.Errorf("-o %s: choose table or json", c.output)
	}
	o := backup.Options{Shiplog: version, Now: time.Now().UTC(), Base: backup.Mark{Position: eventstore.Position(c.after)}}
	var err error
	if o.Passphrase, err = backup.PassphraseFor(c.passphraseFile); err != nil {
		return err
	}
	if c.since != "" {
		if o.Base, o.Log, err = backup.BaseOf(ctx, c.since); err != nil {
			return fmt.Errorf("carrying on from a backup: %w", err)
		}
	}
	said := newProgress("backing up")
	o.Progress = said.at
	var trailer backup.Trailer
	write := func(w io.Writer) (err error) {
		trailer, err = c.write(ctx, w, o)
		return err
	}
	if c.file == backup.Stdio {
		err = write(os.Stdout)
	} else {
		err = backup.Create(c.file, write)
	}
	said.end()
	if err != nil {
		return err
	}
	result := made{File: c.file, Trailer: trailer, Base: o.Base, Keys: o.Passphrase != ""}
	switch {
	case c.file == backup.Stdio: // what is on standard output is the backup
	case c.output == "json":
		return printJSON(result)
	default:
		fmt.Printf("backed up %d entries to %s, up to position %d (digest %s)\n", trailer.Entries, c.file, trailer.Head.Position, trailer.Head.Digest)
	}
	if !result.Keys {
		fmt.Fprintln(os.Stderr, withoutKeys)
	}
	return nil
}

const withoutKeys = `The backup holds no keys: a cluster made of it has a new certificate authority (kubeconfigs and nodes have to be given out anew),
service-account tokens are no longer valid, and Secrets cannot be read. --keys-passphrase-file puts them in.`

// write makes a backup of a directory, of a running cluster, or of one that is stopped.
func (c *backupCommand) write(ctx context.Context, w io.Writer, o backup.Options) (backup.Trailer, error) {
	quiet := slog.New(slog.DiscardHandler)
	if c.dir != "" {
		log, err := embedded.Open(logDirIn(c.dir), embedded.Options{ReadOnly: true, Logger: quiet})
		if err != nil {
			return backup.Trailer{}, err
		}
		return writeAndClose(ctx, w, log, log.Close, o)
	}
	conn, err := c.target.connect()
	dir, isDir := c.target.localDir()
	if o.Passphrase != "" {
		if !isDir {
			return backup.Trailer{}, errors.New("--keys-passphrase-file: the keys are read from the cluster's data directory: run the command on its machine and name it with --data-dir, or leave the keys out")
		}
		o.KeysOf = dir
	}
	if err == nil {
		return backup.Fetch(ctx, w, conn.client, conn.server, o)
	}
	// A cluster that was restored and has not been started yet has no kubeconfig.
	if !isDir || !errors.Is(err, errNotRunning) && !errors.Is(err, errNoCluster) {
		return backup.Trailer{}, err
	}
	log, closeLog, err := cluster.OpenLog(dir, quiet)
	if err != nil {
		return backup.Trailer{}, err
	}
	return writeAndClose(ctx, w, log, closeLog, o)
}

func writeAndClose(ctx context.Context, w io.Writer, log eventstore.Log, closeLog func() error, o backup.Options) (backup.Trailer, error) {
	trailer, err := backup.Write(ctx, w, backup.SourceOf(log), o)
	return trailer, errors.Join(err, closeLog())
}

// logDirIn is the directory of a log: the one that is named or, when that is a cluster's data directory, the log in it.
func logDirIn(dir string) string {
	if _, err := os.Stat(filepath.Join(dir, "version")); errors.Is(err, fs.ErrNotExist) {
		return dir
	}
	return filepath.Join(dir, datadir.Log)
}

func newInspectBackupCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Check a backup from beginning to end, and say what is in it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := backup.Open(args[0], os.Stdin)
			if err != nil {
				return err
			}
			defer in.Close()
			said := newProgress("reading")
			s, err := backup.Inspect(cmd.Context(), args[0], in, said.at)
			said.end()
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			switch output {
			case "json":
				return printJSON(s)
			case "table":
				return s.Text(os.Stdout)
			}
			return fmt.Errorf("-o %s: choose table or json", output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}
