package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/api"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/keystore"
	"github.com/shiplog/shiplog/ops/datadir"
	"github.com/shiplog/shiplog/ops/pki"
	"github.com/shiplog/shiplog/projections/live"
	"github.com/shiplog/shiplog/projections/logreplay"
)

// OpenLog opens the log of a stopped cluster for reading. Close releases the directory too.
func OpenLog(path string, logger *slog.Logger) (eventstore.Log, func() error, error) {
	if _, err := os.Stat(filepath.Join(path, logDir)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("the cluster of %s is not running and its log is not in there: start it, or read the event store that it uses", path)
	}
	dir, err := datadir.Open(path)
	if err != nil {
		return nil, nil, err
	}
	log, err := embedded.Open(dir.Join(logDir), embedded.Options{ReadOnly: true, Logger: logger})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("opening the log: %w", err), dir.Close())
	}
	return log, func() error { return errors.Join(log.Close(), dir.Close()) }, nil
}

// OpenKinds returns the kinds of a stopped cluster with the keys that open what is sealed. Without the key-encryption key, or without
// keys, everything sealed reads as erased.
func OpenKinds(path, kekFile string) (*domain.Set, func() error, error) {
	all, err := sealedKinds(filepath.Join(path, keysDir))
	if err != nil {
		return nil, nil, err
	}
	kinds := domain.NewSet(all)
	keys, err := keystore.Open(filepath.Join(path, keysDir), keystore.Options{KEKFile: kekFile, ReadOnly: true})
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, keystore.ErrNoKEK):
		return kinds, func() error { return nil }, nil
	case err != nil:
		return nil, nil, err
	}
	return kinds.WithKeys(keys), keys.Close, nil
}

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
	view := live.New(log, kinds, live.Options{Logger: logger})
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
