package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/shiplog/shiplog/ops/datadir"
)

// detach starts `shiplog up` with the same flags in the background, shows how it comes along, and returns when it is ready.
// A cluster that is up already is left alone.
func detach(ctx context.Context, dir string) error {
	if pid, held := datadir.Holder(dir); held {
		fmt.Printf("a cluster is already running in %s (process %d)\n", dir, pid)
		printNextSteps(os.Stdout, dir)
		return nil
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("creating the data directory: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	logPath, outPath := filepath.Join(dir, "shiplog.log"), filepath.Join(dir, "shiplog.out")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	out, err := os.OpenFile(outPath, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	began, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}

	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool { return a == "--detach" || a == "--detach=true" })
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = out, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()

	start := time.Now()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for shown := ""; ; {
		select {
		case <-exited:
			return fmt.Errorf("the cluster did not start: %s (its log is %s)", lastLine(logPath, began), logPath)
		case <-ctx.Done():
			_ = cmd.Process.Signal(syscall.SIGTERM) // it was not wanted after all
			return errors.New("interrupted before the cluster was ready")
		case <-tick.C:
		}
		if stage := lastMessage(logPath, began); stage != "" && stage != shown {
			fmt.Fprintf(os.Stderr, "up: %3.0f s  %s\n", time.Since(start).Seconds(), stage)
			shown = stage
		}
		if data, err := os.ReadFile(outPath); err == nil && bytes.HasPrefix(data, []byte("ready ")) {
			fmt.Printf("the cluster is ready after %.1f s at %s\n", time.Since(start).Seconds(), strings.TrimSpace(strings.TrimPrefix(string(data), "ready ")))
			printNextSteps(os.Stdout, dir)
			return cmd.Process.Release()
		}
	}
}

func tailFrom(path string, offset int64) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func lastLine(path string, offset int64) string {
	lines := tailFrom(path, offset)
	if len(lines) == 0 {
		return "it said nothing"
	}
	return strings.TrimPrefix(lines[len(lines)-1], "shiplog: ")
}

// lastMessage is the last stage that the starting process named in its log.
func lastMessage(path string, offset int64) string {
	lines := tailFrom(path, offset)
	for _, line := range slices.Backward(lines) {
		if _, rest, ok := strings.Cut(line, `msg="starting: `); ok {
			stage, _, _ := strings.Cut(rest, `"`)
			return stage
		}
	}
	return ""
}

func printNextSteps(w io.Writer, dir string) {
	flag := ""
	if dir != defaultDataDir() {
		flag = " --data-dir " + dir
	}
	self := filepath.Base(os.Args[0])
	if path, err := os.Executable(); err == nil {
		self = path
		if wd, err := os.Getwd(); err == nil {
			if rel, err := filepath.Rel(wd, path); err == nil && !strings.HasPrefix(rel, "..") {
				self = rel
			}
		}
	}
	fmt.Fprintf(w, `
kubeconfig: %[1]s
log:        %[2]s

try:
  %[3]s kubectl%[4]s get nodes -o wide
  %[3]s kubectl%[4]s create configmap hello --from-literal=word=ahoy
  %[3]s history%[4]s configmap/hello
  %[3]s at -1m%[4]s kubectl get configmaps
or use any kubectl: export KUBECONFIG=%[1]s
`, filepath.Join(dir, adminKubeconfig), filepath.Join(dir, "shiplog.log"), self, flag)
}
