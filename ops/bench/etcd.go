package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// etcd is the store that Kubernetes uses elsewhere, measured beside ours with its own benchmark tool. ops/scripts/etcd.sh builds
// both; without them the figures are left out.
type etcd struct {
	dir     string // holds the programs etcd and benchmark
	version string
}

func findEtcd(ctx context.Context, dir string) etcd {
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "etcd"), "--version").Output()
	if err != nil {
		return etcd{}
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return etcd{dir: dir, version: strings.TrimPrefix(first, "etcd Version: ")}
}

func (e etcd) there() bool { return e.version != "" }

// run runs a server of its own, without limits on what it keeps, while f uses it.
func (e etcd) run(ctx context.Context, f func(endpoint, dir string) error) error {
	dir, remove, err := tempDir()
	if err != nil {
		return err
	}
	defer remove()
	client, err := freeAddress()
	if err != nil {
		return err
	}
	peer, err := freeAddress()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(e.dir, "etcd"), "--data-dir", dir, "--log-level", "error",
		"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer, "--initial-cluster", "default=http://"+peer,
		"--quota-backend-bytes", strconv.Itoa(8<<30))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := post(ctx, client, "kv/range", map[string]any{"key": text("ready")}); err == nil {
			return f(client, dir)
		} else if time.Now().After(until) {
			return fmt.Errorf("etcd does not answer: %w", err)
		}
	}
}

// put runs etcd's benchmark tool against a new server.
func (e etcd) put(ctx context.Context, size, clients int) (perSecond float64, err error) {
	err = e.run(ctx, func(endpoint, _ string) error {
		total := 3000
		if clients > 1 {
			total = 200_000_000 / (size + 10<<10) // about as long as a slice
		}
		out, err := exec.CommandContext(ctx, filepath.Join(e.dir, "benchmark"), "--endpoints", endpoint, "--conns", strconv.Itoa(min(clients, 100)),
			"--clients", strconv.Itoa(clients), "put", "--total", strconv.Itoa(total), "--val-size", strconv.Itoa(size), "--key-size", "24",
			"--sequential-keys").CombinedOutput()
		if err != nil {
			return fmt.Errorf("etcd's benchmark: %w: %s", err, out)
		}
		_, rest, _ := strings.Cut(string(out), "Requests/sec:")
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			return fmt.Errorf("etcd's benchmark tells no rate: %s", out)
		}
		perSecond, err = strconv.ParseFloat(fields[0], 64)
		return err
	})
	return perSecond, err
}

// revisions puts documents under one key, one after the other, defragments, and returns the size of the database on disk.
func (e etcd) revisions(ctx context.Context, documents [][]byte) (size int64, err error) {
	err = e.run(ctx, func(endpoint, dir string) error {
		for _, d := range documents {
			put := map[string]any{"key": text("/registry/configmaps/default/settings"), "value": base64.StdEncoding.EncodeToString(d)}
			if _, err := post(ctx, endpoint, "kv/put", put); err != nil {
				return err
			}
		}
		if _, err := post(ctx, endpoint, "kv/compaction", map[string]any{"revision": "2", "physical": true}); err != nil {
			return err
		}
		if _, err := post(ctx, endpoint, "maintenance/defragment", map[string]any{}); err != nil {
			return err
		}
		info, err := os.Stat(filepath.Join(dir, "member", "snap", "db"))
		if err != nil {
			return err
		}
		size = info.Size()
		return nil
	})
	return size, err
}

func text(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// post calls etcd's JSON gateway.
func post(ctx context.Context, endpoint, method string, body map[string]any) ([]byte, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+endpoint+"/v3/"+method, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("etcd: %s: %s: %s", method, resp.Status, answer)
	}
	return answer, err
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
