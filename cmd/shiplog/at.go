package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/shiplog/shiplog/cmd/internal/cluster"
	"github.com/shiplog/shiplog/ops/history"
)

func newAtCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "at TIME [--data-dir D] kubectl ARGS...",
		Short: "kubectl on the cluster as it was at a time",
		Long: `Runs kubectl against the cluster as it was. TIME is a position of the log (a resourceVersion), a time as in
2026-05-01T10:00:00Z or "2026-05-01 10:00", or a time ago as in -10m. Nothing can be changed in the past.
A cluster that is not running is read from its data directory.`,
		Example: `  shiplog at -10m kubectl get pods -A
  shiplog at 2026-05-01T03:12:00Z kubectl describe deployment web
  shiplog at 48211 kubectl get pod web-1 -o yaml`,
		// A time ago looks like a flag, and what follows the word kubectl is kubectl's.
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && (args[0] == "-h" || args[0] == "--help") {
				return cmd.Help()
			}
			named, kubeconfig, when, rest, err := parseAt(args)
			if err != nil {
				return err
			}
			return runAt(cmd.Context(), named, kubeconfig, when, rest)
		},
	}
}

// parseAt reads "[flags] TIME [flags] kubectl ARGS...".
func parseAt(args []string) (dir, kubeconfig, when string, kubectl []string, err error) {
	i := 0
	for ; i < len(args) && args[i] != "kubectl"; i++ {
		flag, value, hasValue := strings.Cut(args[i], "=")
		switch flag {
		case "--data-dir", "--kubeconfig":
			if !hasValue {
				if i++; i == len(args) {
					return "", "", "", nil, fmt.Errorf("%s needs a value", flag)
				}
				value = args[i]
			}
			if flag == "--data-dir" {
				dir = value
			} else {
				kubeconfig = value
			}
		default:
			if when != "" || strings.HasPrefix(flag, "--") {
				return "", "", "", nil, fmt.Errorf("did not expect %q: write `shiplog at TIME [--data-dir D] kubectl ARGS...`", args[i])
			}
			when = args[i]
		}
	}
	if when == "" || i == len(args) {
		return "", "", "", nil, errors.New("write `shiplog at TIME [--data-dir D] kubectl ARGS...`, for example `shiplog at -10m kubectl get pods`")
	}
	return dir, kubeconfig, when, args[i+1:], nil
}

func runAt(ctx context.Context, named, kubeconfig, when string, kubectl []string) error {
	kubeconfig, err := target{dir: named, kubeconfig: kubeconfig}.path()
	if err != nil {
		return err
	}
	stop := func() {}
	if _, err := connectKubeconfig(kubeconfig); err != nil {
		dir, ok := dirOfKubeconfig(kubeconfig)
		if !ok || !errors.Is(err, errNotRunning) {
			return err
		}
		past, err := cluster.OpenPast(ctx, dir)
		if err != nil {
			return err
		}
		kubeconfig, stop = past.Kubeconfig, past.Close
	}
	when, err = absolute(when, time.Now())
	if err != nil {
		stop()
		return err
	}
	moment, err := momentKubeconfig(kubeconfig, when)
	if err != nil {
		stop()
		return err
	}
	done := sync.OnceFunc(func() {
		stop()
		os.Remove(moment)
	})
	if err := askMoment(ctx, moment); err != nil {
		done()
		return err
	}
	if err := os.Setenv("KUBECONFIG", moment); err != nil {
		return err
	}
	return runKubectl(kubectl, done)
}

// askMoment asks the server whether it can show a moment. kubectl hides what the server says of one that it cannot.
func askMoment(ctx context.Context, kubeconfig string) error {
	config, err := restConfig(kubeconfig)
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fmt.Errorf("reading %s: %w", kubeconfig, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(config.Host, "/")+"/version", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	var status metav1.Status
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil || status.Message == "" {
		return fmt.Errorf("asking for the cluster as it was: %s", resp.Status)
	}
	return errors.New(status.Message)
}

// momentKubeconfig writes a kubeconfig whose cluster is the given one at a moment. The caller deletes it.
func momentKubeconfig(kubeconfig, when string) (string, error) {
	config, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", kubeconfig, err)
	}
	if err := clientcmd.ResolveLocalPaths(config); err != nil {
		return "", fmt.Errorf("reading %s: %w", kubeconfig, err)
	}
	for _, c := range config.Clusters {
		c.Server = strings.TrimSuffix(c.Server, "/") + "/at/" + url.PathEscape(when)
	}
	file, err := os.CreateTemp("", "shiplog-at-*.kubeconfig")
	if err != nil {
		return "", err
	}
	file.Close()
	if err := clientcmd.WriteToFile(*config, file.Name()); err != nil {
		os.Remove(file.Name())
		return "", err
	}
	return file.Name(), nil
}

// absolute is a moment as the server reads it: a position, or a time that does not move while kubectl asks several questions.
func absolute(when string, now time.Time) (string, error) {
	m, err := history.ParseMoment(when, now)
	if err != nil {
		return "", err
	}
	if m.Position != 0 {
		return strconv.FormatUint(m.Position, 10), nil
	}
	return m.Time.UTC().Format(time.RFC3339Nano), nil
}
