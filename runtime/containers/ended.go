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

// ended says how a container ended.
func (r *Runtime) ended(st Status, code int, at time.Time, known bool) Status {
	if at.Before(st.StartedAt) {
		at = st.StartedAt // a file's time is some milliseconds coarse
	}
	st.State, st.FinishedAt, st.ExitCode = Exited, at.UTC(), code
	switch {
	case !known:
		st.Reason, st.Message = "ContainerStatusUnknown", "the container ended and nobody saw how: its monitor is gone too"
	case r.oomed(st):
		st.Reason = "OOMKilled"
	case code == 0:
		st.Reason = "Completed"
	default:
		st.Reason = "Error"
	}
	if known {
		st.Message = r.terminationMessage(st)
	}
	return st
}

func (r *Runtime) oomed(st Status) bool {
	if st.ExitCode != 128+int(unix.SIGKILL) {
		return false
	}
	if _, err := os.Stat(filepath.Join(r.bundle(st.ID), "oom")); err == nil {
		return true
	}
	return r.cgroups.oomKilled(st.Cgroup)
}

func (r *Runtime) terminationMessage(st Status) string {
	data, err := readHead(filepath.Join(r.bundle(st.ID), "termination"), terminationLimit)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("reading the termination message: %v", err)
	}
	if len(data) > 0 || !st.FallbackToLogs || st.ExitCode == 0 {
		return strings.ToValidUTF8(string(data), "�")
	}
	return lastWords(st.LogPath)
}

func readHead(file string, limit int64) ([]byte, error) {
	// The container can write into the file, not replace it: it is mounted. Still, no link is followed.
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), file)
	defer func() { _ = f.Close() }()
	buf := make([]byte, limit)
	n, err := f.ReadAt(buf, 0)
	if n > 0 || err == nil {
		return buf[:n], nil
	}
	if info, statErr := f.Stat(); statErr == nil && info.Size() == 0 {
		return nil, nil
	}
	return nil, err
}

func (r *Runtime) finish(c *container, st Status) {
	if err := writeJSON(filepath.Join(r.bundle(st.ID), "status.json"), &st); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.log.Warn("writing down how a container ended", "container", st.ID, "error", err)
	}
	r.mu.Lock()
	c.status = st
	r.mu.Unlock()
	close(c.done)
	r.cfg.OnExit(st)
}

// reclaim gives back what a container that has ended holds: its control groups, its file system, the OCI runtime's state. What
// tells how it ended stays until it is removed.
func (r *Runtime) reclaim(c *container) {
	defer close(c.reclaimed)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	st := c.status
	err := errors.Join(r.deleteOCI(ctx, st.ID), r.cgroups.remove(ctx, st.Cgroup), unmount(filepath.Join(r.bundle(st.ID), "rootfs")))
	for _, d := range []string{"upper", "work"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(r.bundle(st.ID), d)))
	}
	if err != nil {
		r.log.Warn("giving back what an ended container held", "container", st.ID, "error", err)
	}
}
