package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/protocol"
	"github.com/shiplog/shiplog/eventstore/protocol/users"
)

// drainWithin is how long calls that run may go on when the event store stops.
const drainWithin = 5 * time.Second

// Store says how to serve a log by itself, over EventStoreDB's protocol.
type Store struct {
	Dir       string // of the log
	Listen    string
	Advertise string // what clients in cluster mode are told to connect to; "" for where they reached the server
	Insecure  bool
	Cert, Key string
	CA        string // of client certificates
	Users     string // a file of users; "" for none
	Metrics   string // address of metrics and health; "" for none
	Logger    *slog.Logger
}

// Check refuses what cannot work, before anything is touched.
func (s *Store) Check() error {
	switch {
	case s.Dir == "":
		return errors.New("name the log's directory with --dir")
	case s.Insecure && (s.Cert != "" || s.Key != "" || s.CA != ""):
		return errors.New("--insecure and certificates exclude each other")
	case s.Insecure && s.Users != "":
		return errors.New("--users needs TLS: official clients send no password without it, and nobody should: give --cert and --key instead of --insecure")
	case !s.Insecure && (s.Cert == "" || s.Key == ""):
		return errors.New("give a certificate with --cert and --key, or serve without TLS with --insecure")
	}
	for flag, address := range map[string]string{"listen": s.Listen, "metrics": s.Metrics, "advertise": s.Advertise} {
		if _, _, err := net.SplitHostPort(address); err != nil && (address != "" || flag == "listen") {
			return fmt.Errorf("--%s %s: give an address and a port, as in 127.0.0.1:2113", flag, address)
		}
	}
	return nil
}

func (s *Store) tls() (*tls.Config, error) {
	if s.Insecure {
		return nil, nil
	}
	if _, err := tls.LoadX509KeyPair(s.Cert, s.Key); err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	config := certificateFrom(s.Cert, s.Key)
	if s.CA != "" {
		pem, err := os.ReadFile(s.CA)
		if err != nil {
			return nil, fmt.Errorf("reading the authority: %w", err)
		}
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", s.CA)
		}
		if s.Users != "" {
			config.ClientAuth = tls.VerifyClientCertIfGiven // a password will do, too
		}
	}
	return config, nil
}

// certificateFrom serves with a certificate that is read again for each connection, so that a renewed one is used at once.
func certificateFrom(cert, key string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cert, key)
		return &pair, err
	}}
}

// Serve serves until the context ends. ready is called once, with the address, when it does.
func (s *Store) Serve(ctx context.Context, ready func(address string)) (err error) {
	config, err := s.tls()
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	opts := protocol.Options{TLS: config, Advertise: s.Advertise, Logger: s.Logger, Metrics: registry}
	if s.Users != "" {
		file, err := users.OpenFile(s.Users, s.Logger)
		if err != nil {
			return err
		}
		opts.Users = file.Users
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Listen)
	if err != nil {
		return fmt.Errorf("%w: stop what listens there, or choose another address with --listen", err)
	}
	log, err := embedded.Open(s.Dir, embedded.Options{Logger: s.Logger})
	if err != nil {
		listener.Close()
		return fmt.Errorf("opening the log: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	if s.Metrics != "" {
		stop, err := serveMetrics(ctx, s.Metrics, registry, s.Logger)
		if err != nil {
			listener.Close()
			return err
		}
		defer stop()
	}
	server := protocol.NewServer(log, opts)
	ready(listener.Addr().String())
	return serveUntil(ctx, server, listener)
}

// serveUntil serves until the context ends, and then lets calls that run come to their end.
func serveUntil(ctx context.Context, server *protocol.Server, listener net.Listener) error {
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainWithin)
		defer cancel()
		server.Drain(draining)
	})
	err := server.Serve(listener)
	if !stop() {
		<-drained
	}
	return err
}

// serveMetrics serves Prometheus' metrics, and answers probes at EventStoreDB's address for them.
func serveMetrics(ctx context.Context, address string, registry *prometheus.Registry, logger *slog.Logger) (stop func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serving metrics: %w: choose another address with --metrics", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/health/live", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	logger.Info("serving metrics", "address", listener.Addr().String())
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("metrics are not served any more", "error", err)
		}
	}()
	return func() { server.Close() }, nil
}
