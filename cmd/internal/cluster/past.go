package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/api"
	"github.com/shiplog/shiplog/ops/pki"
	"github.com/shiplog/shiplog/projections/live"
	"github.com/shiplog/shiplog/projections/logreplay"
	"github.com/shiplog/shiplog/projections/snapshot"
)

// Past is the API of a cluster that is not running, for reading only.
type Past struct {
	Kubeconfig string // of an administrator, in a temporary file
	Close      func()
}

// OpenPast serves the past of a stopped cluster on a loopback address.
func OpenPast(ctx context.Context, path string) (_ *Past, err error) {
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	api.RouteLibraryLogs(logger)
	log, closeLog, err := OpenLog(path, logger)
	if err != nil {
		return nil, err
	}
	kinds, closeKeys, err := OpenKinds(path, os.Getenv(KEKFileEnv))
	if err != nil {
		return nil, errors.Join(err, closeLog())
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var group errgroup.Group
	closeAll := func() {
		stop()
		_ = group.Wait() // what was only read needs no clean end
		_ = closeKeys()
		_ = closeLog()
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	snapshots := snapshot.Dir{Path: filepath.Join(path, snapshotsDir), Log: log, Kinds: kinds, ReadOnly: true, Logger: logger}
	view := live.New(log, kinds, live.Options{Logger: logger, Base: snapshots.Base})
	group.Go(func() error { return view.Run(running) })
	if err := view.WaitReady(ctx); err != nil {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	certificates, err := pki.Ensure(pki.Options{Dir: filepath.Join(path, pkiDir)})
	if err != nil {
		return nil, err
	}
	server, err := api.New(ctx, api.Config{
		Listen: "127.0.0.1:0", PKI: certificates, Log: log, Live: view, Kinds: kinds,
		History: logreplay.New(log, kinds), ReadOnly: true, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	failed := make(chan error, 1)
	group.Go(func() error {
		err := server.Run(running)
		failed <- err
		return err
	})
	select {
	case <-server.Ready():
	case err := <-failed:
		return nil, fmt.Errorf("serving the past of %s: %w", path, err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	file, err := os.CreateTemp("", "shiplog-past-*.kubeconfig")
	if err != nil {
		return nil, err
	}
	file.Close()
	if err := certificates.WriteAdminKubeconfig(file.Name(), server.URL()); err != nil {
		return nil, err
	}
	return &Past{Kubeconfig: file.Name(), Close: func() {
		closeAll()
		os.Remove(file.Name())
	}}, nil
}
