package containers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// monitorGrace is how long conmon may take to write the exit file after its container has ended, or, when conmon is gone
// too, how long we wait before we say that nobody knows how it ended.
const monitorGrace = 3 * time.Second

// exitWatch tells waiters when conmon writes an exit file: one inotify watch for all containers.
type exitWatch struct {
	dir     string
	watcher *fsnotify.Watcher
	done    chan struct{}

	mu      sync.Mutex
	waiters map[string]chan struct{}
}

func watchExits(dir string) (*exitWatch, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watching for containers that end: %w", err)
	}
	if err := w.Add(dir); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("watching for containers that end: %w", err)
	}
	e := &exitWatch{dir: dir, watcher: w, done: make(chan struct{}), waiters: map[string]chan struct{}{}}
	go e.run()
	return e, nil
}

func (e *exitWatch) run() {
	defer close(e.done)
	for {
		select {
		case ev, ok := <-e.watcher.Events:
			if !ok {
				return
			}
			e.wake(filepath.Base(ev.Name))
		case _, ok := <-e.watcher.Errors:
			if !ok {
				return
			}
			// Events were lost: everybody looks again.
			e.mu.Lock()
			for _, c := range e.waiters {
				notify(c)
			}
			e.mu.Unlock()
		}
	}
}

func (e *exitWatch) wake(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c, ok := e.waiters[id]; ok {
		notify(c)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (e *exitWatch) add(id string) chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := make(chan struct{}, 1)
	e.waiters[id] = c
	return c
}

func (e *exitWatch) remove(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.waiters, id)
}

func (e *exitWatch) close() error {
	err := e.watcher.Close()
	<-e.done
	return err
}

// read returns the exit code that conmon wrote, and when.
func (e *exitWatch) read(id string) (code int, at time.Time, ok bool) {
	file := filepath.Join(e.dir, id)
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, time.Time{}, false
	}
	if code, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil {
		return 0, time.Time{}, false
	}
	info, err := os.Stat(file)
	if err != nil {
		return 0, time.Time{}, false
	}
	return code, info.ModTime(), true
}

// awaitExit blocks until a container has ended. known is false when there is nobody left who knows how.
func (r *Runtime) awaitExit(ctx context.Context, st Status) (code int, at time.Time, known bool) {
	wake := r.exits.add(st.ID)
	defer r.exits.remove(st.ID)
	gone := make(chan struct{})
	waitCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		if waitProcess(waitCtx, st.Pid, st.PidStart) == nil {
			close(gone)
		}
	}()
	var deadline <-chan time.Time
	for {
		if code, at, ok := r.exits.read(st.ID); ok {
			return code, at, true
		}
		select {
		case <-wake:
		case <-gone:
			gone = nil
			timer := time.NewTimer(monitorGrace)
			defer timer.Stop()
			deadline = timer.C
		case <-deadline:
			if pid, start, err := readPid(filepath.Join(r.bundle(st.ID), "conmon.pid")); err == nil && alive(pid, start) && !errors.Is(ctx.Err(), context.Canceled) {
				// Somebody still holds the container's output open: the monitor will tell in the end.
				deadline = nil
				continue
			}
			if code, at, ok := r.exits.read(st.ID); ok {
				return code, at, true
			}
			return 128 + int(unix.SIGKILL), r.now(), false
		case <-ctx.Done():
			return 0, time.Time{}, false
		}
	}
}

// waitProcess returns when a process has ended, without keeping a thread: the runtime's poller waits on its pidfd.
func waitProcess(ctx context.Context, pid int, start uint64) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watching process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if !alive(pid, start) {
		return f.Close()
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	defer func() { _ = f.Close() }()
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("watching process %d: %w", pid, err)
	}
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return err == nil && n > 0
	})
	if err != nil && !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return ctx.Err()
}
