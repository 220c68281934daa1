package postgres

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The back-off between restarts, and how long a server must have run for the back-off to start over.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 15 * time.Second
	healthy    = time.Minute
	// giveUp is after how many ends in a row the directory is made anew, if the server says that it is damaged, or else Start says why
	// there is no server.
	giveUp = 3
)

// supervise runs the server until Stop, restarting it when it ends. It keeps its thread: the server's parent, in the kernel's
// eyes, is the thread that started it, and the server gets the signal of its parent's death when that thread ends.
func (s *Server) supervise() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(s.stopped)
	defer s.clear()
	backoff, failures, anew := minBackoff, 0, false
	for {
		started := time.Now()
		err := s.runOnce()
		select {
		case <-s.stop:
			return
		default:
		}
		ran := time.Since(started)
		s.log.Warn("the private Postgres ended: it is started again", "error", err, "ran", ran, "says", s.tail.String())
		if failures++; ran >= healthy {
			backoff, failures, anew = minBackoff, 0, false
		}
		switch {
		case majorOfDir(s.data) == 0, failures >= giveUp && !anew && damaged.MatchString(s.tail.String()):
			anew, failures = true, 0
			if err := s.reinitialise(); err != nil {
				s.log.Error("initialising the private Postgres anew: it is tried again", "error", err)
				s.fails(err)
			}
		case failures >= giveUp:
			s.fails(fmt.Errorf("it ends each time: %w: %s", err, s.tail.String()))
		}
		select {
		case <-s.stop:
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// fails tells Start, if it waits for the server to answer, why it need not.
func (s *Server) fails(why error) {
	select {
	case s.failing <- why:
	default:
	}
}

// damaged matches what the server says when its directory is of no use to it any more.
var damaged = regexp.MustCompile(`(?i)checkpoint record|pg_control|control file|could not open (directory|file) "(global|base|pg_)|` +
	`incompatible with server|invalid page|is not a valid data directory|required .* directory`)

// runOnce runs the server until it ends.
func (s *Server) runOnce() error {
	data := s.data
	if s.mount != "" {
		data = s.mount
	}
	cmd := s.command(s.data, "postgres", arguments(data, s.socketDir, s.opts.Settings)...)
	pipe, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	select {
	case <-s.stop:
		return nil
	default:
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("running %s: %w", cmd.Path, err)
	}
	s.mu.Lock()
	s.pid = cmd.Process.Pid
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		select {
		case <-s.stop:
			s.signal(syscall.SIGINT) // "fast": sessions are ended, everything is written
		case <-ended:
		}
	}()
	// Backends hold the pipe too: reading ends when the last of them has.
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		s.tail.add(lines.Text())
		s.log.Debug("postgres: " + lines.Text())
	}
	err = cmd.Wait()
	s.mu.Lock()
	s.pid = 0
	s.mu.Unlock()
	close(ended)
	return err
}

// command is one of the server's programs, run as its user, in a mount namespace of its own when the way to the data is barred.
// Whatever happens to us, it gets SIGINT, on which Postgres shuts down.
func (s *Server) command(data, program string, args ...string) *exec.Cmd {
	path := filepath.Join(s.install.bin, program)
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGINT, Setpgid: true}
	cmd := exec.Command(path, args...)
	switch {
	case s.mount != "":
		const script = `mount --bind "$1" "$2" && uid=$3 gid=$4 && shift 4 &&
			exec setpriv --reuid "$uid" --regid "$gid" --clear-groups --pdeathsig INT -- "$@"`
		cmd = exec.Command("unshare", append([]string{
			"--mount", "--propagation", "private", "sh", "-c", script, "sh",
			data, s.mount, fmt.Sprint(s.id.uid), fmt.Sprint(s.id.gid), path,
		}, args...)...)
	case s.id.drop:
		attr.Credential = &syscall.Credential{Uid: uint32(s.id.uid), Gid: uint32(s.id.gid)}
	}
	cmd.SysProcAttr = attr
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TZ=UTC"}
	return cmd
}

// clear leaves nothing outside the directory.
func (s *Server) clear() {
	s.cleared.Do(func() {
		if err := os.RemoveAll(s.socketDir); err != nil {
			s.log.Warn("removing the socket's directory", "error", err)
		}
		if err := s.lock.Close(); err != nil {
			s.log.Warn("releasing the private Postgres' directory", "error", err)
		}
	})
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		err = errors.Join(err, f.Close())
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, fmt.Errorf("locking: %w", err)
	}
	return f, nil
}

// tail keeps the last lines that the server wrote.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lines = append(t.lines, strings.TrimSpace(line)); len(t.lines) > 12 {
		t.lines = t.lines[1:]
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		return "(nothing)"
	}
	return strings.Join(t.lines, "; ")
}
