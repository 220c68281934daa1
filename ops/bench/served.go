package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
)

// served is a log that another process serves over EventStoreDB's protocol.
type served struct {
	cmd     *exec.Cmd
	address string
}

func (b *bench) serveLog(ctx context.Context, dir string) (*served, error) {
	cmd := exec.CommandContext(ctx, b.bin, "eventstore", "serve", "--dir", dir, "--listen", "127.0.0.1:0", "--insecure")
	cmd.Stderr = io.Discard
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	address, err := startUntil(cmd, "ready ")
	if err != nil {
		return nil, err
	}
	return &served{cmd: cmd, address: address}, nil
}

func (s *served) connection() string { return "esdb://" + s.address + "?tls=false" }

func (s *served) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

// startUntil starts a command and returns the rest of the first line of its output that begins with a prefix.
func startUntil(cmd *exec.Cmd, prefix string) (string, error) {
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
			go func() { _, _ = io.Copy(io.Discard, stdout) }()
			return rest, nil
		}
	}
	_ = cmd.Wait()
	return "", fmt.Errorf("%s ended before it was ready", strings.Join(cmd.Args, " "))
}
