package postgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// How often initialising is tried, and the pause after the first time, which doubles.
const (
	initAttempts = 5
	initPause    = 200 * time.Millisecond
)

// initialiseAgain makes the data directory. What it runs may be killed like the server itself, and an initialisation that a killed
// process has left behind may still be at work in the same place: so it tries again.
func (s *Server) initialiseAgain(ctx context.Context) error {
	for attempt, pause := 1, initPause; ; attempt, pause = attempt+1, 2*pause {
		err := s.initialise(ctx)
		if err == nil || ctx.Err() != nil || s.barred != "" || attempt == initAttempts {
			return err
		}
		s.log.Warn("initialising the private Postgres failed: trying again", "error", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("running initdb: %w", context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// initialise makes the data directory: beside its place first, so that one that was interrupted is never taken for a whole one.
func (s *Server) initialise(ctx context.Context) error {
	making := s.data + ".making"
	if err := os.RemoveAll(making); err != nil {
		return err
	}
	if err := s.id.ownDir(making); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	dir := making
	if s.mount != "" {
		dir = s.mount
	}
	cmd := s.command(making, "initdb", "--pgdata", dir, "--username", User, "--auth-local", "trust", "--auth-host", "reject",
		"--encoding", "UTF8", "--locale", "C", "--wal-segsize", "8", "--no-instructions", "--no-sync")
	// Cancelling has to reach initdb's own child too: the whole process group.
	ended := make(chan struct{})
	defer close(ended)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("running initdb: %w", err)
	}
	go func() {
		select {
		case <-ctx.Done():
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it has ended already otherwise
		case <-ended:
		}
	}()
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("running initdb: %w", context.Cause(ctx))
		}
		if s.barred != "" {
			return fmt.Errorf("running initdb: %w: %s (the user %s may not pass %s, which has to be got around: let it pass with chmod o+x, choose another directory, "+
				"or give the address of a running Postgres)", err, strings.TrimSpace(out.String()), s.id.name, s.barred)
		}
		return fmt.Errorf("running initdb: %w: %s", err, strings.TrimSpace(out.String()))
	}
	if err := os.RemoveAll(s.data); err != nil {
		return err
	}
	return os.Rename(making, s.data)
}

// reinitialise throws a directory away that the server cannot use any more.
func (s *Server) reinitialise() error {
	s.log.Warn("the private Postgres cannot use its directory any more: initialising it anew", "dir", s.data, "says", s.tail.String())
	if err := os.RemoveAll(s.data); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.initialise(ctx); err != nil {
		return err
	}
	go s.makeDatabase()
	return nil
}

// makeDatabase makes the database in a server that has none, as soon as it runs.
func (s *Server) makeDatabase() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	said := ""
	for {
		err := s.ensureDatabase(context.Background()) // it has a deadline of its own
		if err == nil {
			return
		}
		if err.Error() != said {
			said = err.Error()
			s.log.Info("waiting to make the private Postgres' database", "error", err)
		}
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
	}
}

// stopStale ends a server that a killed parent has left behind, and removes the file by which it would bar the next one. The
// directory is locked: there is no living parent.
func (s *Server) stopStale(ctx context.Context) error {
	file := filepath.Join(s.data, "postmaster.pid")
	b, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 || !s.isServer(pid) {
		s.log.Info("removing what a killed Postgres left behind", "file", file)
		return removeIfThere(file)
	}
	s.log.Info("stopping the Postgres that a killed parent left behind", "pid", pid)
	// Fast, immediate, by force. Its parent's death has told it to stop already.
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, 10 * time.Second}, {syscall.SIGQUIT, 5 * time.Second}, {syscall.SIGKILL, 5 * time.Second}} {
		_ = syscall.Kill(pid, step.signal) // it has ended already otherwise
		gone, err := s.waitGone(ctx, pid, step.wait)
		if err != nil {
			return fmt.Errorf("waiting for the Postgres that a killed parent left behind (process %d): %w", pid, err)
		}
		if gone {
			return removeIfThere(file)
		}
	}
	return fmt.Errorf("the Postgres that a killed parent left behind (process %d) does not end", pid)
}

func (s *Server) waitGone(ctx context.Context, pid int, wait time.Duration) (bool, error) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for s.isServer(pid) {
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-deadline.C:
			return false, nil
		case <-tick.C:
		}
	}
	return true, nil
}

// isServer says whether a process is a Postgres whose working directory is our data directory. A process number alone says
// nothing: it may have been given to another process.
func (s *Server) isServer(pid int) bool {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || !strings.HasPrefix(string(comm), "postgres") {
		return false
	}
	cwd, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return false // ended, a zombie, or not ours to look at
	}
	data, err := os.Stat(s.data)
	return err == nil && os.SameFile(cwd, data)
}

func removeIfThere(file string) error {
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
