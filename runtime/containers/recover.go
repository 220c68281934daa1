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
)

// Recovered is what an agent finds when it comes back.
type Recovered struct {
	// Rebooted: the machine was restarted since; nothing runs any more and all sandboxes are to be made anew.
	Rebooted bool
}

// Recover takes over what an earlier process of this agent started: it reads what is written down, looks which of it still
// runs, learns from conmon how the rest ended, and removes what was half made. Containers that run are left alone.
func (r *Runtime) Recover(ctx context.Context) (Recovered, error) {
	var out Recovered
	boxes, err := os.ReadDir(r.sandboxesDir())
	if err != nil {
		return out, fmt.Errorf("taking over sandboxes: %w", err)
	}
	for _, d := range boxes {
		s := &Sandbox{}
		if err := readJSON(filepath.Join(r.sandboxDir(d.Name()), "sandbox.json"), s); err != nil {
			r.log.Warn("removing an unreadable sandbox", "pod", d.Name(), "error", err)
			if err := r.removeBroken(r.sandboxDir(d.Name())); err != nil {
				return out, err
			}
			_ = unpin(r.Netns(d.Name()))
			continue
		}
		if s.BootID != r.boot {
			out.Rebooted = true
		}
		r.mu.Lock()
		r.sandboxes[s.PodUID] = s
		r.mu.Unlock()
	}
	bundles, err := os.ReadDir(r.containersDir())
	if err != nil {
		return out, fmt.Errorf("taking over containers: %w", err)
	}
	for _, d := range bundles {
		if err := r.recoverContainer(ctx, d.Name()); err != nil {
			return out, err
		}
	}
	for _, s := range r.Sandboxes() {
		if !r.sandboxWhole(s) {
			r.log.Info("removing a sandbox that does not stand any more", "pod", s.Namespace+"/"+s.Name)
			if err := r.dropPod(ctx, s.PodUID); err != nil {
				return out, err
			}
			continue
		}
		r.shareBurstable(s.PodUID, &s)
	}
	return out, nil
}

// sandboxWhole tells whether a sandbox still holds what it was made of.
func (r *Runtime) sandboxWhole(s Sandbox) bool {
	if s.BootID != r.boot || !alive(s.PausePid, s.PauseStart) {
		return false
	}
	for _, f := range []string{s.NetnsPath, s.IPCPath, s.UTSPath} {
		if f != "" && !pinned(f) {
			return false
		}
	}
	return true
}

// dropPod removes a sandbox and the processes in it; how its containers ended stays known until they are removed.
func (r *Runtime) dropPod(ctx context.Context, uid string) error {
	for _, st := range r.List() {
		if st.PodUID == uid && st.State == Running {
			if _, err := r.Stop(ctx, st.ID, "", 0); err != nil {
				return err
			}
		}
	}
	for _, st := range r.List() {
		if st.PodUID == uid {
			if err := r.deleteOCI(ctx, st.ID); err != nil {
				return err
			}
		}
	}
	return r.RemoveSandbox(ctx, uid)
}

func (r *Runtime) recoverContainer(ctx context.Context, id string) error {
	bundle := r.bundle(id)
	var st Status
	if err := readJSON(filepath.Join(bundle, "status.json"), &st); err != nil {
		r.log.Warn("removing an unreadable container", "container", id, "error", err)
		return r.removeBroken(bundle)
	}
	if st.State == Created && st.BootID == r.boot {
		st = r.adopt(st)
	}
	c := newContainer(st)
	switch {
	case st.State == Exited:
		c.over()
	case st.State == Created:
		// The agent died while it made this one; nobody has seen it run. It is made again.
		return r.drop(ctx, st)
	case st.BootID != r.boot:
		c.status = r.ended(st, 255, r.now(), false)
		c.status.Message = "the machine was restarted"
		if code, at, ok := r.exits.read(id); ok {
			c.status = r.ended(st, code, at, true)
		}
		c.over()
		if err := writeJSON(filepath.Join(bundle, "status.json"), &c.status); err != nil {
			return err
		}
		if err := os.RemoveAll(filepath.Join(r.ociRoot(), id)); err != nil {
			return fmt.Errorf("forgetting a container of before the restart: %w", err)
		}
	default:
		if code, at, ok := r.exits.read(id); ok {
			c.status = r.ended(st, code, at, true)
			c.over()
			if err := writeJSON(filepath.Join(bundle, "status.json"), &c.status); err != nil {
				return err
			}
		}
	}
	r.mu.Lock()
	r.containers[id] = c
	r.mu.Unlock()
	if c.status.State == Running {
		r.watch(c)
	}
	return nil
}

// adopt looks whether a container whose start was not written down to the end did start: then its process is past the
// gate that the OCI runtime keeps until "start".
func (r *Runtime) adopt(st Status) Status {
	if _, err := os.Stat(filepath.Join(r.ociRoot(), st.ID, "exec.fifo")); !errors.Is(err, fs.ErrNotExist) {
		return st
	}
	pid, start, err := readPid(filepath.Join(r.bundle(st.ID), "pid"))
	if err != nil {
		return st
	}
	if info, err := os.Stat(filepath.Join(r.bundle(st.ID), "pid")); err == nil {
		st.StartedAt = info.ModTime().UTC()
	}
	st.Pid, st.PidStart, st.State = pid, start, Running
	return st
}

// removeBroken removes a directory with whatever is mounted below it.
func (r *Runtime) removeBroken(dir string) error {
	if err := UnmountBelow(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing %s: %w", dir, err)
	}
	return nil
}

// UnmountBelow takes every mount off a directory and what is below it, the deepest first.
func UnmountBelow(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("reading the mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 {
			point := unescape(f[4])
			if point == dir || strings.HasPrefix(point, dir+"/") {
				points = append(points, point)
			}
		}
	}
	for i := len(points) - 1; i >= 0; i-- {
		if err := unmount(points[i]); err != nil {
			return err
		}
	}
	return nil
}

// unescape undoes mountinfo's octal escapes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Teardown removes every container and sandbox of this runtime, and its control groups, whether this process knows them or not.
func (r *Runtime) Teardown(ctx context.Context) error {
	var failed []error
	for _, st := range r.List() {
		failed = append(failed, r.Remove(ctx, st.ID))
	}
	for _, s := range r.Sandboxes() {
		failed = append(failed, r.RemoveSandbox(ctx, s.PodUID))
	}
	failed = append(failed, UnmountBelow(r.containersDir()), UnmountBelow(r.sandboxesDir()))
	groupCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	failed = append(failed, r.cgroups.remove(groupCtx, ""))
	return errors.Join(failed...)
}
