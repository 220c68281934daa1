package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/esdb"
	"github.com/shiplog/shiplog/ops/backup/logcopy"
)

func newEventStoreCopyCommand() *cobra.Command {
	var from, to, output string
	cmd := &cobra.Command{
		Use:   "copy --from (DIR | esdb://...) --to (DIR | esdb://...)",
		Short: "Copy a log into a directory or an event store, and go on with a copy",
		Long: `Copies everything up to the source's head, and compares both sides at the end. A directory is that of a log, or a cluster's data
directory; nobody may have it open. Nobody may write to the target meanwhile.

A copy that broke off, or whose source has grown, is gone on with by the same command: it finds out from the target where that is.

In a directory everything stands as it stood: revisions, positions (resourceVersions), dates. An event store gives positions and dates of its own:
revisions, contents and metadata are the same there, resourceVersions are not. To move to another Shiplog's ` + "`eventstore serve`" + ` and keep them, copy
into a directory and serve that.`,
		Example: `  shiplog down --data-dir /var/lib/shiplog
  shiplog eventstore copy --from /var/lib/shiplog --to esdb://admin:changeit@es1:2113
  shiplog up --data-dir /var/lib/shiplog --eventstore esdb://admin:changeit@es1:2113`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" || to == "" {
				return errors.New("name the source with --from and the target with --to")
			}
			if output != "table" && output != "json" {
				return fmt.Errorf("-o %s: choose table or json", output)
			}
			return copyEventStore(cmd.Context(), from, to, output)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "directory or address of the log to copy")
	flags.StringVar(&to, "to", "", "directory or address of the copy")
	flags.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func copyEventStore(ctx context.Context, from, to, output string) (err error) {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	// What expires by its age while it is copied would be missing in the copy: the source is read as it was at one moment.
	now := time.Now()
	source, err := openEventStore(ctx, from, embedded.Options{ReadOnly: true, Logger: logger, Now: func() time.Time { return now }})
	if err != nil {
		return fmt.Errorf("opening the source: %w", err)
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	target, err := openEventStore(ctx, to, embedded.Options{Logger: logger, ScavengeEvery: -1})
	if err != nil {
		return fmt.Errorf("opening the target: %w", err)
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	said := newProgress(logcopy.Copying)
	result, err := logcopy.Copy(ctx, source, target, func(p logcopy.Progress) {
		said.what = p.Step
		said.at(p.At, p.Head)
	})
	said.end()
	if err != nil {
		return fmt.Errorf("copying %s to %s: %w (the same command goes on where it ended)", esdb.WithoutPassword(from), esdb.WithoutPassword(to), err)
	}
	if output == "json" {
		return printJSON(result)
	}
	fmt.Printf("copied %d events, after position %d up to %d; %d are equal on both sides (digest %s)\n",
		result.Copied, result.After, result.Head, result.Compared, result.Digest)
	if result.Fillers > 0 {
		fmt.Printf("%d fillers stand hidden where the source has forgotten events, so that revisions are the same\n", result.Fillers)
	}
	if !result.SamePositions {
		fmt.Println("Positions are the target's own: resourceVersions of before mean nothing there, so clients that hold some (watches, informers) list again. Read models are built anew.")
	}
	return nil
}

func openEventStore(ctx context.Context, where string, o embedded.Options) (eventstore.Log, error) {
	if strings.HasPrefix(where, "esdb://") || strings.HasPrefix(where, "esdb+discover://") {
		return esdb.Open(ctx, where, esdb.Options{Logger: o.Logger, Timeout: time.Minute})
	}
	dir := logDirIn(where)
	if o.ReadOnly {
		return embedded.Open(dir, o)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return nil, err
	}
	return embedded.Open(dir, o)
}
