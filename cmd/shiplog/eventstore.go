package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/shiplog/shiplog/cmd/internal/cluster"
	"github.com/shiplog/shiplog/eventstore/protocol/users"
)

func newEventStoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "eventstore",
		Short: "Serve a log to others, and copy one",
	}
	cmd.AddCommand(newEventStoreServeCommand(), newEventStorePasswdCommand(), newEventStoreCopyCommand())
	return cmd
}

// servingGCPercent is by how much the heap of a server grows between two collections, in percent of what is alive.
const servingGCPercent = 400

func newEventStoreServeCommand() *cobra.Command {
	var store cluster.Store
	cmd := &cobra.Command{
		Use:   "serve --dir D (--insecure | --cert F --key F [--ca F] [--users F])",
		Short: "Serve an embedded log over EventStoreDB's protocol",
		Long: `Serves the log in a directory over EventStoreDB's gRPC protocol, for the official clients and for "shiplog up --eventstore".
It prints one line "ready ADDRESS" to stdout when it serves. On SIGTERM and SIGINT it ends subscriptions, lets other calls come
to their end for some seconds, and stops.

Without --users everything is open to everybody who can connect. With it, streams have access lists in their metadata; make users
with "shiplog eventstore passwd". The file is read again when it changes.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := store.Check(); err != nil {
				return err
			}
			store.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
			if os.Getenv("GOGC") == "" {
				// Calls make garbage and leave little: a third of the time under load would go into collecting it, to save some 100 MB.
				debug.SetGCPercent(servingGCPercent)
			}
			return store.Serve(cmd.Context(), func(address string) { fmt.Println("ready " + address) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&store.Dir, "dir", "", "directory of the log")
	flags.StringVar(&store.Listen, "listen", "127.0.0.1:2113", "address to serve on; port 0 picks one")
	flags.StringVar(&store.Advertise, "advertise", "", "address that clients in cluster mode are told to connect to (default: where they reached the server)")
	flags.BoolVar(&store.Insecure, "insecure", false, "serve without TLS")
	flags.StringVar(&store.Cert, "cert", "", "file with the server's certificate; it is read again for each connection")
	flags.StringVar(&store.Key, "key", "", "file with its key")
	flags.StringVar(&store.CA, "ca", "", "file with the authority of client certificates; clients must then show one, or with --users a password")
	flags.StringVar(&store.Users, "users", "", "file of users")
	flags.StringVar(&store.MaxBytes, "max-bytes", "", "how much disk the log may take, as in 20Gi (default: all but a reserve of the disk)")
	flags.StringVar(&store.Metrics, "metrics", "", "address of /metrics (Prometheus) and /health/live; empty for none")
	return cmd
}

func newEventStorePasswdCommand() *cobra.Command {
	var file string
	var groups []string
	var generate bool
	cmd := &cobra.Command{
		Use:   "passwd NAME [--users F] [--group G]... [--generate]",
		Short: "Make a user of an event store, or change a password",
		Long: `Reads a password from the terminal, or one line from stdin, and puts a line for the user into a file of users, in place of the one
that was there; without --users it prints the line. Groups are replaced too. The user admin is in $admins, who may do everything,
and the user ops in $ops, who manage persistent subscriptions.`,
		Example: `  shiplog eventstore passwd --users users admin
  shiplog eventstore passwd --users users --group readers --generate billing`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			password, err := choosePassword(generate, cmd.InOrStdin())
			if err != nil {
				return err
			}
			line, err := users.Line(args[0], password, groups, 0)
			if err != nil {
				return err
			}
			if file == "" {
				fmt.Println(line)
			} else if err := users.Put(file, line); err != nil {
				return err
			}
			if generate {
				fmt.Fprintln(os.Stderr, "password of "+args[0]+": "+password)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "users", "", "file of users to change; it is made if there is none")
	flags.StringSliceVar(&groups, "group", nil, "group of the user")
	flags.BoolVar(&generate, "generate", false, "make up a password, and say it on stderr")
	return cmd
}

// choosePassword makes up a password, or asks for one: twice where somebody sits at a terminal.
func choosePassword(generate bool, in io.Reader) (string, error) {
	if generate {
		return rand.Text(), nil
	}
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		ask := func(what string) (string, error) {
			fmt.Fprint(os.Stderr, what+": ")
			password, err := term.ReadPassword(int(f.Fd()))
			fmt.Fprintln(os.Stderr)
			return string(password), err
		}
		first, err := ask("password")
		if err != nil {
			return "", fmt.Errorf("reading the password: %w", err)
		}
		second, err := ask("again")
		if err != nil {
			return "", fmt.Errorf("reading the password: %w", err)
		}
		if first != second {
			return "", errors.New("the passwords differ: nothing was changed")
		}
		return first, nil
	}
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading the password from stdin: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
