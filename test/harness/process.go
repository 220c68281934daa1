package harness

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a run of the binary that prints "ready ..." to stdout once it serves.
type process struct {
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	exited chan struct{}
	log    *logBuffer
}

func newProcess(t testing.TB, name string) *process {
	p := &process{t: t, name: name, log: &logBuffer{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the %s's log:\n%s", name, p.log.tail(8000))
		}
	})
	return p
}

// launch starts the process and returns what it says it is ready at, or an error with what it said when it ended instead.
func (p *process) launch(cmd *exec.Cmd) (string, error) {
	p.t.Helper()
	// A process group of its own, so that a signal meant for the process never reaches the test.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	cmd.Stderr = p.log
	if err := cmd.Start(); err != nil {
		return "", err
	}
	exited := make(chan struct{})
	p.cmd, p.exited = cmd, exited
	ready := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(io.TeeReader(stdout, p.log))
		for lines.Scan() {
			if at, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
				ready <- at
			}
		}
		_ = cmd.Wait() // the exit code is asked of cmd.ProcessState
		close(exited)
	}()
	args := strings.Join(cmd.Args, " ")
	select {
	case at := <-ready:
		return at, nil
	case <-exited:
		return "", fmt.Errorf("%s ended with code %d before it was ready:\n%s", args, cmd.ProcessState.ExitCode(), p.log.tail(4000))
	case <-time.After(readyWithin):
		return "", fmt.Errorf("%s was not ready within %s:\n%s", args, readyWithin, p.log.tail(4000))
	}
}

func (p *process) launched() bool { return p.cmd != nil }

// Pid of the running process.
func (p *process) Pid() int { return p.cmd.Process.Pid }

// Kill ends the process as a power cut would: kill -9.
func (p *process) Kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatalf("killing the %s: %v", p.name, err)
	}
	<-p.exited
}

// Stop asks the process to end (SIGTERM) and returns its exit code.
func (p *process) Stop() int {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.exited:
	case <-time.After(stopWithin):
		p.t.Errorf("the %s did not stop within %s of SIGTERM; its log ends with:\n%s", p.name, stopWithin, p.log.tail(4000))
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	return p.cmd.ProcessState.ExitCode()
}

// Log is what the process has written so far.
func (p *process) Log() string { return p.log.String() }

// logBuffer keeps what a process writes; it is read while the process writes.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) tail(n int) string {
	s := l.String()
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}
