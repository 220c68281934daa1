package containers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TerminalSize in characters.
type TerminalSize struct{ Width, Height uint16 }

// ExecOptions of a command run in a container. Streams may be nil.
type ExecOptions struct {
	Command []string
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	TTY     bool
	Resize  <-chan TerminalSize
}

// ExitError says that a command in a container ended with a code other than 0.
type ExitError struct{ Code int }

func (e *ExitError) Error() string {
	return fmt.Sprintf("command terminated with exit code %d", e.Code)
}

// Exec runs a command in a running container, as the container's user with its environment, and returns when it has ended:
// nil, an *ExitError, ErrNotRunning, or what kept it from running. A cancelled context kills the command.
func (r *Runtime) Exec(ctx context.Context, id string, o ExecOptions) error {
	st, err := r.Get(id)
	if err != nil {
		return err
	}
	if st.State != Running {
		return fmt.Errorf("%w: %s", ErrNotRunning, st.Name)
	}
	dir, err := os.MkdirTemp(r.bundle(id), "exec-")
	if err != nil {
		return fmt.Errorf("running a command in container %s: %w", st.Name, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := r.execSpec(id, dir, o); err != nil {
		return fmt.Errorf("running a command in container %s: %w", st.Name, err)
	}
	pidFile := filepath.Join(dir, "pid")
	args := []string{"--root", r.ociRoot(), "exec", "--process", filepath.Join(dir, "process.json"), "--pid-file", pidFile}
	if o.TTY {
		args = append(args, "--tty")
	}
	cmd := exec.Command(r.cfg.RuntimePath, append(args, id)...)
	var failure bytes.Buffer
	stop := func() bool { return true }
	started := func() { stop = context.AfterFunc(ctx, func() { r.killExec(cmd, pidFile) }) }
	if o.TTY {
		err = runTerminal(cmd, o, started)
	} else {
		err = runPipes(cmd, o, &failure, started)
	}
	stop()
	if ctx.Err() != nil {
		return fmt.Errorf("running a command in container %s: %w", st.Name, ctx.Err())
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		if err != nil {
			return fmt.Errorf("running a command in container %s: %w", st.Name, err)
		}
		return nil
	}
	if _, statErr := os.Stat(pidFile); statErr != nil {
		// The OCI runtime never got as far as the command: what it said is the error, not the command's output.
		return fmt.Errorf("running %q in container %s: %s", strings.Join(o.Command, " "), st.Name, cleanOCIError(failure.String()))
	}
	code := exit.ExitCode()
	if code < 0 {
		code = 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
	}
	return &ExitError{Code: code}
}

func (r *Runtime) execSpec(id, dir string, o ExecOptions) error {
	var spec specs.Spec
	if err := readJSON(filepath.Join(r.bundle(id), "config.json"), &spec); err != nil {
		return err
	}
	p := spec.Process
	p.Args, p.Terminal, p.ConsoleSize = o.Command, o.TTY, nil
	if o.TTY && !hasVariable(p.Env, "TERM") {
		p.Env = append(p.Env, "TERM=xterm")
	}
	return writeJSON(filepath.Join(dir, "process.json"), p)
}

func hasVariable(env []string, name string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, name+"=") {
			return true
		}
	}
	return false
}

// killExec ends a command and the runtime's process that waits for it: killing only the latter would leave the former.
func (r *Runtime) killExec(cmd *exec.Cmd, pidFile string) {
	if data, err := os.ReadFile(pidFile); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
			return // the runtime sees it end, and ends
		}
	}
	_ = cmd.Process.Kill()
}

// limitedBuffer keeps the beginning of what the runtime says, to explain a failure.
type limitedBuffer struct{ buf *bytes.Buffer }

func (l limitedBuffer) Write(p []byte) (int, error) {
	if room := 8<<10 - l.buf.Len(); room > 0 {
		l.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func runPipes(cmd *exec.Cmd, o ExecOptions, failure *bytes.Buffer, started func()) error {
	cmd.Stdout = o.Stdout
	cmd.Stderr = limitedBuffer{failure}
	if o.Stderr != nil {
		cmd.Stderr = io.MultiWriter(o.Stderr, limitedBuffer{failure})
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A daemon that the command leaves behind may hold the pipes open for ever.
	cmd.WaitDelay = 2 * time.Second
	var in io.WriteCloser
	if o.Stdin != nil {
		var err error
		if in, err = cmd.StdinPipe(); err != nil {
			return err
		}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	started()
	if in != nil {
		// Not waited for: the client's side ends when the client does, not when the command does.
		go func() {
			_, _ = io.Copy(in, o.Stdin)
			_ = in.Close()
		}()
	}
	err := cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}

// runTerminal gives the runtime a terminal, whose other end is the caller's streams; the runtime makes the container's own
// and copies between them, sizes included.
func runTerminal(cmd *exec.Cmd, o ExecOptions, started func()) error {
	master, slave, err := openTerminal()
	if err != nil {
		return err
	}
	defer func() { _ = master.Close() }()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	done := make(chan struct{})
	var copying sync.WaitGroup
	resized := make(chan struct{})
	if o.Resize == nil {
		close(resized)
	} else {
		go func() {
			defer close(resized)
			for {
				select {
				case size, ok := <-o.Resize:
					if !ok {
						return
					}
					setTerminalSize(master, size)
				case <-done:
					return
				}
			}
		}()
	}
	err = cmd.Start()
	_ = slave.Close()
	if err != nil {
		close(done)
		return err
	}
	started()
	if o.Stdin != nil {
		go func() { _, _ = io.Copy(master, o.Stdin) }()
	}
	copying.Go(func() {
		out := o.Stdout
		if out == nil {
			out = io.Discard
		}
		_, _ = io.Copy(out, master) // ends with EIO when the last process lets go of the terminal
	})
	err = cmd.Wait()
	copying.Wait()
	close(done)
	<-resized
	return err
}

func setTerminalSize(f *os.File, size TerminalSize) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
		})
	}
}

// openTerminal makes a pseudo terminal in raw mode: what is typed reaches the container's terminal, which does the rest.
func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		_ = master.Close()
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		_ = master.Close()
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		_ = master.Close()
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	return master, slave, nil
}
