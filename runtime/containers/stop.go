package containers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stop asks a container to end by its stop signal and, when the grace is over, kills it. It returns when it has ended.
func (r *Runtime) Stop(ctx context.Context, id string, signal string, grace time.Duration) (Status, error) {
	st, err := r.Get(id)
	if err != nil || st.State == Exited {
		return st, err
	}
	if signal == "" {
		signal = st.StopSignal
	}
	if grace > 0 {
		sig, ok := parseSignal(signal)
		if !ok {
			r.log.Warn("unknown stop signal, SIGTERM is used", "container", id, "signal", signal)
		}
		if err := r.signal(st, sig); err != nil {
			return st, err
		}
		graceful, cancel := context.WithTimeout(ctx, grace)
		st, err = r.Wait(graceful, id)
		cancel()
		if err == nil || ctx.Err() != nil {
			return st, err
		}
		if st, err = r.Get(id); err != nil {
			return st, err
		}
	}
	if err := r.signal(st, unix.SIGKILL); err != nil {
		return st, err
	}
	// In a shared process namespace the others of the container live on after its first process.
	for _, pid := range r.cgroups.procs(st.Cgroup) {
		if pid != st.Pid {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return r.Wait(ctx, id)
}

// signal sends a signal to the container's process, and to no other that got its number since.
func (r *Runtime) signal(st Status, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(st.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signalling container %s: %w", st.Name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !alive(st.Pid, st.PidStart) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signalling container %s: %w", st.Name, err)
	}
	return nil
}

func parseSignal(name string) (unix.Signal, bool) {
	if name == "" {
		return unix.SIGTERM, true
	}
	var n int
	if _, err := fmt.Sscanf(name, "%d", &n); err == nil && n > 0 && n < 65 {
		return unix.Signal(n), true
	}
	full := strings.ToUpper(name)
	if !strings.HasPrefix(full, "SIG") {
		full = "SIG" + full
	}
	if rt, ok := strings.CutPrefix(full, "SIGRTMIN"); ok {
		n = 0
		if _, err := fmt.Sscanf(rt, "+%d", &n); rt != "" && err != nil {
			return unix.SIGTERM, false
		}
		return unix.Signal(34 + n), true
	}
	if s := unix.SignalNum(full); s != 0 {
		return s, true
	}
	return unix.SIGTERM, false
}

// Remove removes a container that has ended, or ends it at once, and all that was made for it but its log.
func (r *Runtime) Remove(ctx context.Context, id string) error {
	st, err := r.Get(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.State == Running {
		if _, err := r.Stop(ctx, id, "", 0); err != nil {
			return fmt.Errorf("removing container %s: %w", st.Name, err)
		}
	}
	r.mu.Lock()
	held := r.containers[id]
	r.mu.Unlock()
	if held != nil {
		select {
		case <-held.reclaimed:
		case <-ctx.Done():
			return fmt.Errorf("removing container %s: %w", st.Name, ctx.Err())
		}
	}
	if err := r.drop(ctx, st); err != nil {
		return fmt.Errorf("removing container %s of pod %s/%s: %w", st.Name, st.PodNamespace, st.PodName, err)
	}
	r.mu.Lock()
	delete(r.containers, id)
	r.mu.Unlock()
	return nil
}

func (r *Runtime) drop(ctx context.Context, st Status) error {
	if err := r.deleteOCI(ctx, st.ID); err != nil {
		return err
	}
	if err := r.cgroups.remove(ctx, st.Cgroup); err != nil {
		return err
	}
	bundle := r.bundle(st.ID)
	if err := unmount(filepath.Join(bundle, "rootfs")); err != nil {
		return err
	}
	if err := os.RemoveAll(bundle); err != nil {
		return fmt.Errorf("removing the bundle: %w", err)
	}
	if err := os.Remove(filepath.Join(r.exitsDir(), st.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the exit file: %w", err)
	}
	return nil
}
