package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// adminKubeconfig is the administrator's way in, relative to the data directory.
const adminKubeconfig = "admin.kubeconfig"

func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/shiplog"
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "share", "shiplog")
	}
	return "shiplog-data"
}

// dataDir is the directory that the user named, by flag, by SHIPLOG_DATA_DIR, or not at all.
func dataDir(cmd *cobra.Command) string {
	if named := flagValue(cmd, "data-dir"); named != "" {
		return named
	}
	return dataDirFromEnv()
}

// target is the cluster that the user named by flags; both empty: the environment and the default directory decide.
type target struct {
	dir        string // --data-dir
	kubeconfig string // --kubeconfig
}

func targetOf(cmd *cobra.Command) target {
	return target{dir: flagValue(cmd, "data-dir"), kubeconfig: flagValue(cmd, "kubeconfig")}
}

func flagValue(cmd *cobra.Command, name string) string {
	if flag := cmd.Flag(name); flag != nil {
		return flag.Value.String()
	}
	return ""
}

func dataDirFromEnv() string {
	if dir := os.Getenv("SHIPLOG_DATA_DIR"); dir != "" {
		return dir
	}
	return defaultDataDir()
}

// path finds the kubeconfig to use: what the user named by a flag wins over SHIPLOG_DATA_DIR, which wins over KUBECONFIG, which
// wins over the default directory.
func (t target) path() (string, error) {
	if t.kubeconfig != "" {
		return t.kubeconfig, nil
	}
	named := t.dir
	if named == "" {
		named = os.Getenv("SHIPLOG_DATA_DIR")
	}
	if named == "" {
		if path := os.Getenv("KUBECONFIG"); path != "" {
			return path, nil
		}
		named = defaultDataDir()
	}
	path := filepath.Join(named, adminKubeconfig)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w in %s (%s is missing): name its directory with --data-dir or SHIPLOG_DATA_DIR, or start one with `shiplog up`", errNoCluster, named, path)
	} else if err != nil {
		return "", fmt.Errorf("reading the kubeconfig: %w (are you the user who runs the cluster?)", err)
	}
	return path, nil
}

// restConfig reads how to reach the cluster from a kubeconfig.
func restConfig(path string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	config.QPS = -1 // a command line asks a few questions; it need not wait
	return config, nil
}

// connection is an authenticated HTTP client to a running cluster.
type connection struct {
	server string
	client *http.Client
	config *rest.Config
}

// connect returns a connection to the cluster that the command names, or errNotRunning when nobody answers there.
func (t target) connect() (*connection, error) {
	path, err := t.path()
	if err != nil {
		return nil, err
	}
	return connectKubeconfig(path)
}

func connectKubeconfig(path string) (*connection, error) {
	config, err := restConfig(path)
	if err != nil {
		return nil, err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	c := &connection{server: strings.TrimSuffix(config.Host, "/"), client: client, config: config}
	probe := *client
	probe.Timeout = 5 * time.Second
	resp, err := probe.Get(c.server + "/livez")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotRunning, err)
	}
	resp.Body.Close()
	return c, nil
}

var errNoCluster = errors.New("there is no cluster")

// errNotRunning says that no control plane answers; commands that look back then read the data directory itself.
var errNotRunning = errors.New("the cluster is not running")

// dirOfKubeconfig is the data directory that a kubeconfig lies in, or false when it lies elsewhere.
func dirOfKubeconfig(path string) (string, bool) {
	dir := filepath.Dir(path)
	if filepath.Base(path) != adminKubeconfig {
		return "", false
	}
	if _, err := os.Stat(filepath.Join(dir, "version")); err != nil {
		return "", false
	}
	return dir, true
}

// stoppedDir is the data directory to read when connecting failed because nothing runs there.
func (t target) stoppedDir(err error) (string, bool) {
	if !errors.Is(err, errNotRunning) {
		return "", false
	}
	path, err := t.path()
	if err != nil {
		return "", false
	}
	return dirOfKubeconfig(path)
}

// localDir is the data directory on this machine that the user means, or false when it is not one's.
func (t target) localDir() (string, bool) {
	path, err := t.path()
	if err == nil {
		return dirOfKubeconfig(path)
	}
	dir := t.dir
	if dir == "" {
		dir = dataDirFromEnv()
	}
	_, statErr := os.Stat(filepath.Join(dir, "version"))
	return dir, errors.Is(err, errNoCluster) && statErr == nil
}
