package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/shiplog/shiplog/cmd/internal/cluster"
)

func newVerifyLogCommand() *cobra.Command {
	var place cluster.LogPlace
	var question cluster.LogQuestion
	var publicKey, output string
	var printKey bool
	cmd := &cobra.Command{
		Use:   "log [--dir D | --eventstore esdb://...]",
		Short: "Check that nobody has changed the log",
		Long: `Reads the whole log and checks its hash chain, its indices, what was scavenged, and every signed checkpoint, and says what is wrong
and where. It ends with the head's position and digest. Keep that elsewhere and give it back with --expect: then even who holds
the cluster's key cannot change what came before without being noticed.

It asks a running cluster, or reads the data directory of one that is stopped, the directory of a stopped
"shiplog eventstore serve" (--dir), or an event store (--eventstore). Exits 0 only when nothing is wrong.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("-o %s is not known: give json, or nothing", output)
			}
			if place.Dir != "" && place.EventStore != "" {
				return errors.New("--dir and --eventstore exclude each other")
			}
			if printKey {
				return printPublicKey(cmd)
			}
			if publicKey != "" {
				pem, err := os.ReadFile(publicKey)
				if err != nil {
					return fmt.Errorf("reading the public key: %w", err)
				}
				question.PublicKey = string(pem)
			}
			report := func(s cluster.Step) { fmt.Fprintln(os.Stderr, s.Message) }
			r, err := verifyLogAnywhere(cmd.Context(), cmd, place, question, report)
			if err != nil {
				return fmt.Errorf("verifying the log: %w", err)
			}
			if output == "json" {
				err = printJSON(r)
			} else {
				printLogReport(os.Stdout, r)
			}
			if err == nil && !r.Sound {
				err = &exitError{code: 1}
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&place.Dir, "dir", "", `directory of a log that "shiplog eventstore serve" serves and that is not in use`)
	flags.StringVar(&place.EventStore, "eventstore", "", "esdb://... of an event store that holds a log")
	flags.StringArrayVar(&question.Expected, "expect", nil, "POSITION:DIGEST that an earlier verification has printed; may be repeated")
	flags.StringVar(&publicKey, "public-key", "", "file with the key to check signatures with (default: the one in the data directory, which somebody may have replaced)")
	flags.BoolVar(&printKey, "print-public-key", false, "print the key that signatures are checked with, to be kept elsewhere, and do nothing else")
	flags.StringVarP(&output, "output", "o", "", "json, for programs")
	return cmd
}

func printPublicKey(cmd *cobra.Command) error {
	pem, err := cluster.PublicLogKey(dataDir(cmd))
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(pem)
	return err
}

func verifyLogAnywhere(
	ctx context.Context, cmd *cobra.Command, place cluster.LogPlace, q cluster.LogQuestion, report func(cluster.Step),
) (*cluster.LogReport, error) {
	if place != (cluster.LogPlace{}) {
		return cluster.VerifyLogAt(ctx, place, q, report)
	}
	t := targetOf(cmd)
	conn, err := t.connect()
	if err == nil {
		return cluster.VerifyLog(ctx, conn.client, conn.server, q, report)
	}
	dir, ok := t.stoppedDir(err)
	if !ok {
		return nil, err
	}
	return cluster.VerifyLogAt(ctx, cluster.LogPlace{DataDir: dir}, q, report)
}

// printLogReport says for people what was found.
func printLogReport(out io.Writer, r *cluster.LogReport) {
	for _, f := range r.Faults {
		fmt.Fprintln(out, f)
	}
	if c := r.Contents; c != nil {
		fmt.Fprintf(out, "read        %d events of %d streams, and the traces of %d that were scavenged\n", c.Events, c.Streams, c.Scavenged)
	} else {
		fmt.Fprintf(out, "read        everything but the streams that a server may shorten\n")
	}
	switch {
	case r.Signed.Checkpoints == 0:
		fmt.Fprintln(out, "signed      not yet")
	case r.KeyID == "":
		fmt.Fprintf(out, "signed      %d checkpoints; their signatures were not checked: give --public-key\n", r.Signed.Checkpoints)
	case r.Signed.SignedTo == 0:
		fmt.Fprintf(out, "signed      %d checkpoints, none of which is good\n", r.Signed.Checkpoints)
	default:
		fmt.Fprintf(out, "signed      %d checkpoints, the last good one up to position %d on %s, with the key %s\n",
			r.Signed.Checkpoints, r.Signed.SignedTo, r.Signed.SignedAt.Format(time.RFC3339), r.KeyID)
	}
	if r.Sound {
		fmt.Fprintf(out, "the log is sound. Keep this elsewhere, for --expect:\n%s\n", r.Expect)
		return
	}
	fmt.Fprintf(out, "THE LOG IS NOT SOUND: %d faults\n", len(r.Faults))
}
