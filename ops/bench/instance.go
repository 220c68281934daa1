package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// instance is one running cluster.
type instance struct {
	bin, dir string
	cmd      *exec.Cmd
	ready    time.Duration // from exec to the ready line
	netns    string
}

func (b *bench) start(ctx context.Context, dir, netns string, args ...string) (*instance, error) {
	argv := append([]string{b.bin, "up", "--data-dir", dir, "--listen", "127.0.0.1:0", "--graphql", "127.0.0.1:0"}, args...)
	if netns != "" {
		argv = append([]string{"nsenter", "--net=/run/netns/" + netns}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	log, err := os.Create(filepath.Join(dir, "bench.log"))
	if err != nil {
		return nil, err
	}
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	began := time.Now()
	if _, err := startUntil(cmd, "ready "); err != nil {
		return nil, fmt.Errorf("%w; see %s", err, log.Name())
	}
	return &instance{bin: b.bin, dir: dir, cmd: cmd, ready: time.Since(began), netns: netns}, nil
}

func (i *instance) stop() error {
	_ = i.cmd.Process.Signal(syscall.SIGTERM)
	err := i.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

// client returns a client without limits of its own; protobuf as controllers use it, or JSON as kubectl does.
func (i *instance) client(contentType string) (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(i.dir, "admin.kubeconfig"))
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = -1, 0
	config.ContentType = contentType
	return kubernetes.NewForConfig(config)
}

// usage is what the cluster's processes use together.
type usage struct {
	memory int64 // proportional set size, bytes
	cpu    time.Duration
}

// usage sums up the process and all its descendants, Postgres included.
func (i *instance) usage() (usage, error) {
	parents := map[int]int{}
	entries, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return usage{}, err
	}
	cpu := map[int]time.Duration{}
	for _, e := range entries {
		data, err := os.ReadFile(e)
		if err != nil {
			continue // it ended meanwhile
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(e)))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+2:]))
		parents[pid], _ = strconv.Atoi(fields[1])
		user, _ := strconv.ParseInt(fields[11], 10, 64)
		system, _ := strconv.ParseInt(fields[12], 10, 64)
		cpu[pid] = time.Duration(user+system) * 10 * time.Millisecond
	}
	var sum usage
	for pid := range parents {
		for p := pid; p > 1; p = parents[p] {
			if p == i.cmd.Process.Pid {
				sum.memory += pss(pid)
				sum.cpu += cpu[pid]
				break
			}
		}
	}
	return sum, nil
}

func pss(pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// settled measures memory and the share of one core over a while in which nobody asks anything.
func (b *bench) settled(i *instance, what string, settle, over time.Duration) error {
	time.Sleep(settle)
	before, err := i.usage()
	if err != nil {
		return err
	}
	time.Sleep(over)
	after, err := i.usage()
	if err != nil {
		return err
	}
	b.report(what+": memory", "%d MB", after.memory>>20)
	b.report(what+": CPU", "%.1f %% of one core", 100*float64(after.cpu-before.cpu)/float64(over))
	return nil
}

func tempDir() (string, func(), error) {
	dir, err := os.MkdirTemp("", "shiplog-bench-")
	if err != nil {
		return "", nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", nil, err
	}
	return dir, func() { os.RemoveAll(dir) }, nil
}
