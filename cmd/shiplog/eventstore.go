package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/protocol"
)

func newEventStoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "eventstore",
		Short: "Serve a log to others, and copy one",
	}
	cmd.AddCommand(newEventStoreServeCommand(), newEventStoreCopyCommand())
	return cmd
}

func newEventStoreServeCommand() *cobra.Command {
	var dir, listen, cert, key, ca string
	var insecure bool
	cmd := &cobra.Command{
		Use:   "serve --dir D (--insecure | --cert F --key F [--ca F])",
		Short: "Serve an embedded log over EventStoreDB's protocol",
		Long: `Serves the log in a directory over EventStoreDB's gRPC protocol, for the official clients and for "shiplog up --eventstore".
It prints one line "ready ADDRESS" to stdout when it serves, and stops on SIGTERM and SIGINT.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return errors.New("name the log's directory with --dir")
			}
			config, err := serverTLS(insecure, cert, key, ca)
			if err != nil {
				return err
			}
			return serveEventStore(cmd.Context(), dir, listen, config)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dir, "dir", "", "directory of the log")
	flags.StringVar(&listen, "listen", "127.0.0.1:2113", "address to serve on; port 0 picks one")
	flags.BoolVar(&insecure, "insecure", false, "serve without TLS")
	flags.StringVar(&cert, "cert", "", "file with the server's certificate")
	flags.StringVar(&key, "key", "", "file with its key")
	flags.StringVar(&ca, "ca", "", "file with the authority of client certificates; clients must then show one")
	return cmd
}

func serverTLS(insecure bool, cert, key, ca string) (*tls.Config, error) {
	if insecure {
		if cert != "" || key != "" || ca != "" {
			return nil, errors.New("--insecure and certificates exclude each other")
		}
		return nil, nil
	}
	if cert == "" || key == "" {
		return nil, errors.New("give a certificate with --cert and --key, or serve without TLS with --insecure")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("reading the authority: %w", err)
		}
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", ca)
		}
	}
	return config, nil
}

func serveEventStore(ctx context.Context, dir, listen string, config *tls.Config) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	log, err := embedded.Open(dir, embedded.Options{Logger: logger})
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	server := protocol.NewServer(log, protocol.Options{TLS: config, Logger: logger})
	defer context.AfterFunc(ctx, server.Stop)()
	fmt.Println("ready " + listener.Addr().String())
	err = server.Serve(listener)
	if ctx.Err() != nil {
		err = nil // it was asked to stop
	}
	return errors.Join(err, log.Close())
}
