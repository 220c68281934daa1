// Package apitest starts an API server for tests: a log and certificates in a directory of the test's own, the live view, a free port.
package apitest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/shiplog/shiplog/api"
	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/keystore"
	"github.com/shiplog/shiplog/ops/pki"
	"github.com/shiplog/shiplog/projections/live"
	"github.com/shiplog/shiplog/projections/logreplay"
)

// WithHistory lets the API answer for the past, from the log alone.
func WithHistory(c *api.Config) { c.History = logreplay.New(c.Log, c.Kinds) }

// WithShortMemory lets the live view forget all but the last few changes.
func WithShortMemory(c *api.Config) { c.Live = live.New(c.Log, c.Kinds, live.Options{MaxChanges: 4}) }

// Cluster is a control plane without controllers, scheduler and nodes; it has the service account default/default.
type Cluster struct {
	Server *api.Server
	Log    eventstore.Log
	Live   *live.View
	Kinds  *domain.Set
	Keys   *keystore.File
	PKI    *pki.PKI
	Bus    commands.Bus
	// Kubeconfig is the path of the administrator's kubeconfig.
	Kubeconfig string
	// Admin may do everything, without client-side limits.
	Admin *restclient.Config
	// Client is a client of the administrator.
	Client kubernetes.Interface
	Dir    string

	stop func()
}

func newLogger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// routeLibraryLogs is for the first cluster of a process: Kubernetes' libraries have one logger, and goroutines of a cluster that has
// ended may still log to it while another starts.
var routeLibraryLogs = sync.OnceFunc(func() { api.RouteLibraryLogs(newLogger()) })

// Start starts a cluster that ends with the test. The options change the server's configuration before it starts.
func Start(t testing.TB, opts ...func(*api.Config)) *Cluster {
	t.Helper()
	c := StartIn(t, t.TempDir(), opts...)
	t.Cleanup(c.Stop)
	return c
}

// StartIn starts a cluster on a directory that may hold one already. The caller stops it.
func StartIn(t testing.TB, dir string, opts ...func(*api.Config)) *Cluster {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("starting a test cluster: %v", err)
		}
	}
	logger := newLogger()
	routeLibraryLogs()
	c := &Cluster{Dir: dir}
	var err error
	c.Keys, err = keystore.Open(filepath.Join(dir, "keys"), keystore.Options{Logger: logger})
	must(err)
	c.Kinds = domain.NewSet(domain.Kinds()).WithKeys(c.Keys)
	c.Log, err = embedded.Open(filepath.Join(dir, "log"), embedded.Options{Logger: logger})
	must(err)
	cfg := api.Config{Listen: "127.0.0.1:0", Log: c.Log, Kinds: c.Kinds, Keys: c.Keys, Logger: logger}
	for _, o := range opts {
		o(&cfg)
	}
	if cfg.Live == nil {
		cfg.Live = live.New(c.Log, c.Kinds, live.Options{Logger: logger})
	}
	view, ok := cfg.Live.(*live.View)
	if !ok {
		t.Fatalf("starting a test cluster: the live view is a %T", cfg.Live)
	}
	c.Live = view
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- c.Live.Run(ctx) }()
	ready, enough := context.WithTimeout(ctx, time.Minute)
	defer enough()
	must(c.Live.WaitReady(ready))

	serviceIP, err := api.ServiceIP("10.96.0.0/12", 1)
	must(err)
	c.PKI, err = pki.Ensure(pki.Options{Dir: filepath.Join(dir, "pki"), ServiceIP: serviceIP})
	must(err)
	cfg.PKI = c.PKI
	c.Server, err = api.New(ctx, cfg)
	must(err)
	c.Bus = c.Server.Bus()
	go func() { ended <- c.Server.Run(ctx) }()
	stopped := false
	c.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("the test cluster ended with: %v", err)
			}
		}
		if err := c.Log.Close(); err != nil && !errors.Is(err, eventstore.ErrClosed) {
			t.Errorf("closing the log: %v", err)
		}
		if err := c.Keys.Close(); err != nil {
			t.Errorf("closing the key store: %v", err)
		}
	}
	select {
	case <-c.Server.Ready():
	case err := <-ended:
		cancel()
		t.Fatalf("the test cluster did not start: %v", err)
	case <-ready.Done():
		cancel()
		t.Fatal("the test cluster was not ready within a minute")
	}
	c.Kubeconfig = filepath.Join(dir, "admin.kubeconfig")
	must(c.PKI.WriteAdminKubeconfig(c.Kubeconfig, c.Server.URL()))
	c.Admin, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	must(err)
	c.Admin.QPS = -1
	c.Client, err = kubernetes.NewForConfig(c.Admin)
	must(err)
	// What a controller would make: pods of the default namespace need it.
	_, err = c.Bus.Do(ctx, commands.Command{
		Verb: commands.Create, Resource: corev1.SchemeGroupVersion.WithResource("serviceaccounts"), Namespace: "default", Name: "default",
		Object: &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default"}},
		Actor:  domain.Actor{User: "system:test", Groups: []string{"system:masters"}},
	})
	if !apierrors.IsAlreadyExists(err) {
		must(err)
	}
	return c
}

// Stop stops the cluster. What it has written stays in its directory.
func (c *Cluster) Stop() { c.stop() }
