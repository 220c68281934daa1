package cluster

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/api"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/keystore"
	"github.com/shiplog/shiplog/ops/backup"
	"github.com/shiplog/shiplog/ops/datadir"
	"github.com/shiplog/shiplog/ops/pki"
	"github.com/shiplog/shiplog/projections/historyhttp"
	"github.com/shiplog/shiplog/projections/live"
	"github.com/shiplog/shiplog/projections/nodefeed"
	"github.com/shiplog/shiplog/projections/snapshot"
)

// Where things lie in the data directory.
const (
	keysDir         = "keys"
	logDir          = datadir.Log
	postgresDir     = "postgres"
	pkiDir          = datadir.PKI
	nodeDir         = "node"
	snapshotsDir    = "snapshots"
	adminKubeconfig = "admin.kubeconfig"
)

// stopWithin bounds a clean stop; what has not ended by then ends with the process.
const stopWithin = 30 * time.Second

// controlPlane is what a running control plane is made of.
type controlPlane struct {
	Config
	dir    *datadir.Dir
	kinds  *domain.Set
	pki    *pki.PKI
	keys   *keystore.File
	log    eventstore.Log
	view   *live.View
	models *readModels
	server *api.Server
	logger *slog.Logger
	logKey ed25519.PublicKey // that the log's signatures are checked with

	// closers run in reverse order when everything that used them has ended.
	closers []func(context.Context) error
}

// Run runs a cluster until the context ends. ready is called once, with the API's address, when the API serves and the cluster's
// own nodes are Ready. A cluster that cannot start returns one clear error.
func Run(ctx context.Context, config Config, ready func(url string)) (err error) {
	cp := &controlPlane{Config: config, logger: config.Logger}
	api.RouteLibraryLogs(cp.logger)
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		err = errors.Join(err, cp.close(stopping))
	}()
	// Layers end in the reverse order of their start: those who command before those who carry out.
	lower, endLower := context.WithCancel(context.WithoutCancel(ctx))
	defer endLower()
	base, lower := errgroup.WithContext(lower)
	if err := cp.open(ctx, base, lower); err != nil {
		endLower()
		return joinOther(err, ignoreCanceled(base.Wait()))
	}
	err = cp.runActors(ctx, lower, ready)
	cp.logger.Info("stopping")
	endLower()
	return joinOther(err, ignoreCanceled(base.Wait()))
}

// joinOther joins errors, unless the second is what the first came of: nobody reads the same twice.
func joinOther(err, other error) error {
	if other != nil && errors.Is(err, other) {
		return err
	}
	return errors.Join(err, other)
}

func (cp *controlPlane) stage(what string) { cp.logger.Info("starting: " + what) }

func (cp *controlPlane) closeLater(f func(context.Context) error) {
	cp.closers = append(cp.closers, f)
}

func (cp *controlPlane) close(ctx context.Context) error {
	var errs []error
	for i := len(cp.closers) - 1; i >= 0; i-- {
		errs = append(errs, cp.closers[i](ctx))
	}
	return errors.Join(errs...)
}

// open starts the layers below the API and the API itself.
func (cp *controlPlane) open(ctx context.Context, group *errgroup.Group, running context.Context) error {
	var err error
	cp.stage("the data directory " + cp.DataDir)
	if cp.dir, err = datadir.Open(cp.DataDir); err != nil {
		return err
	}
	cp.closeLater(func(context.Context) error { return cp.dir.Close() })
	// A port in use must be said before minutes are spent on anything else.
	if err := cp.probeListen(ctx); err != nil {
		return err
	}
	if err := cp.ensurePKI(); err != nil {
		return err
	}
	cp.stage("the log")
	if err := cp.openLog(ctx); err != nil {
		return err
	}
	if err := cp.openKeys(ctx); err != nil {
		return err
	}
	if err := cp.startNotary(group, running); err != nil {
		return err
	}
	keepModels, err := cp.openModels(ctx, running)
	if err != nil {
		return err
	}
	cp.stage("the live view")
	keeper := &snapshot.Keeper{Dir: &snapshot.Dir{Path: cp.dir.Join(snapshotsDir), Log: cp.log, Kinds: cp.kinds, Logger: cp.logger}}
	cp.view = live.New(cp.log, cp.kinds, live.Options{Logger: cp.logger, Base: keeper.Dir.Base, Offer: keeper.Offer})
	group.Go(func() error { return cp.view.Run(running) })
	if err := cp.view.WaitReady(ctx); err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	cp.stage("the API server")
	if err := cp.serveAPI(ctx, group, running); err != nil {
		return err
	}
	// Only now: the start needs the processors more than those do who ask for the past, or the next start.
	group.Go(keepModels)
	group.Go(func() error {
		keeper.Run(running)
		return nil
	})
	return cp.serveLog(ctx, group, running)
}

func (cp *controlPlane) probeListen(ctx context.Context) error {
	for _, addr := range []string{cp.Listen, cp.GraphQL, cp.StoreListen} {
		if addr == "" {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("%w: stop what listens there, or choose another address with --listen, --graphql or --eventstore-listen", err)
		}
		l.Close()
	}
	return nil
}

func (cp *controlPlane) ensurePKI() (err error) {
	serviceIP, err := api.ServiceIP(cp.ServiceCIDR.String(), 1)
	if err != nil {
		return err
	}
	options := pki.Options{Dir: cp.dir.Join(pkiDir), ServiceIP: serviceIP, ClusterDomain: cp.ClusterDom}
	names := cp.AllowedNames
	for _, address := range []string{cp.Listen, cp.StoreListen} {
		if host, _, err := net.SplitHostPort(address); err == nil {
			names = append(names, host)
		}
	}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip == nil {
			if name != "" {
				options.Names = append(options.Names, name)
			}
		} else if !ip.IsUnspecified() {
			options.IPs = append(options.IPs, ip)
		}
	}
	options.IPs = append(options.IPs, hostAddresses()...)
	cp.pki, err = pki.Ensure(options)
	return err
}

// hostAddresses are the addresses under which other machines reach this one.
func hostAddresses() []net.IP {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var ips []net.IP
	for _, a := range addrs {
		if ipnet, ok := a.(*net.IPNet); ok && ipnet.IP.IsGlobalUnicast() {
			ips = append(ips, ipnet.IP)
		}
	}
	return ips
}

func (cp *controlPlane) serveAPI(ctx context.Context, group *errgroup.Group, running context.Context) error {
	server, err := api.New(ctx, api.Config{
		Listen: cp.Listen, PKI: cp.pki, Log: cp.log, Live: cp.view, History: fresh{cp.models, cp.log}, Kinds: cp.kinds, Keys: cp.keys,
		ServiceCIDR: cp.ServiceCIDR.String(), ClusterDomain: cp.ClusterDom,
		Feed: nodefeed.NewSource(cp.view, cp.kinds),
		Extra: map[string]http.Handler{
			historyhttp.Prefix: historyhttp.NewHandler(fresh{cp.models, cp.log}),
			TendPrefix:         cp.tendHandler(),
			backup.Prefix:      backup.NewHandler(cp.log, cp.Version, cp.logger),
			"/graphql":         cp.graphQLHandler(),
		},
		Logger: cp.logger,
	})
	if err != nil {
		return err
	}
	cp.server = server
	group.Go(func() error { return server.Run(running) })
	select {
	case <-server.Ready():
	case <-running.Done():
		return context.Cause(running)
	case <-ctx.Done():
		return ctx.Err()
	}
	kubeconfig := cp.dir.Join(adminKubeconfig)
	if err := cp.pki.WriteAdminKubeconfig(kubeconfig, server.URL()); err != nil {
		return fmt.Errorf("writing %s: %w", kubeconfig, err)
	}
	return cp.serveGraphQL(ctx, group, running)
}

// ignoreCanceled drops the error that every part of a stopped cluster ends with.
func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
