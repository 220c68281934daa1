package containers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/runtime/images"
)

// State of a container.
type State string

// States.
const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
)

// Status is what is known of a container; it is written down in its bundle.
type Status struct {
	ID           string `json:"id"`
	PodUID       string `json:"podUID"`
	PodNamespace string `json:"podNamespace"`
	PodName      string `json:"podName"`
	Name         string `json:"name"`
	Attempt      int    `json:"attempt"` // 0 for the first of its name

	Image    string `json:"image"`    // as the pod names it
	ImageID  string `json:"imageID"`  // in the store
	ImageRef string `json:"imageRef"` // as a status names it

	State      State     `json:"state"`
	Pid        int       `json:"pid,omitempty"`
	PidStart   uint64    `json:"pidStart,omitempty"`
	BootID     string    `json:"bootID"`
	CreatedAt  time.Time `json:"createdAt"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`

	ExitCode int    `json:"exitCode,omitempty"`
	Reason   string `json:"reason,omitempty"` // Completed, Error, OOMKilled, ...
	Message  string `json:"message,omitempty"`

	LogPath    string `json:"logPath"`
	StopSignal string `json:"stopSignal,omitempty"`
	TTY        bool   `json:"tty,omitempty"`
	Stdin      bool   `json:"stdin,omitempty"`
	Cgroup     string `json:"cgroup"`
	// Hash tells whether the pod's wish has changed since the container was made.
	Hash string `json:"hash,omitempty"`
	// FallbackToLogs: the termination message is the log's end when the container failed without writing one.
	FallbackToLogs bool `json:"fallbackToLogs,omitempty"`
}

type container struct {
	status Status
	done   chan struct{} // closed when it has ended
	// reclaimed is closed when what a container that has ended no longer needs has been given back.
	reclaimed chan struct{}
}

func newContainer(st Status) *container {
	return &container{status: st, done: make(chan struct{}), reclaimed: make(chan struct{})}
}

// over marks a container that had ended before this process knew it.
func (c *container) over() {
	close(c.done)
	close(c.reclaimed)
}

// ContainerConfig says what container to run.
type ContainerConfig struct {
	ID        string // unique for good
	Pod       *corev1.Pod
	Container *corev1.Container
	Image     images.Image
	Attempt   int
	Env       []corev1.EnvVar
	Mounts    []Mount
	LogPath   string // its directory is made
	Hash      string
}

// terminationLimit is how much of a termination message is read, in bytes.
const terminationLimit = 4096

// Start makes a container and runs it. When it fails nothing is left behind, and the error is ErrConfig if the container
// cannot be configured, else what the OCI runtime said.
func (r *Runtime) Start(ctx context.Context, c ContainerConfig) (Status, error) {
	r.mu.Lock()
	box, ok := r.sandboxes[string(c.Pod.UID)]
	r.mu.Unlock()
	if !ok {
		return Status{}, fmt.Errorf("starting container %s: pod %s/%s has no sandbox", c.Container.Name, c.Pod.Namespace, c.Pod.Name)
	}
	st := Status{
		ID: c.ID, PodUID: string(c.Pod.UID), PodNamespace: c.Pod.Namespace, PodName: c.Pod.Name, Name: c.Container.Name, Attempt: c.Attempt,
		Image: c.Container.Image, ImageID: c.Image.ID, ImageRef: c.Image.Ref(), State: Created, BootID: r.boot, CreatedAt: r.now().UTC(),
		LogPath: c.LogPath, TTY: c.Container.TTY, Stdin: c.Container.Stdin, Cgroup: box.Cgroup + "/" + c.ID, Hash: c.Hash,
		FallbackToLogs: c.Container.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError,
	}
	st, err := r.start(ctx, box, c, st)
	if err != nil {
		cleanup, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return st, errors.Join(fmt.Errorf("starting container %s of pod %s/%s: %w", st.Name, st.PodNamespace, st.PodName, err), r.drop(cleanup, st))
	}
	held := newContainer(st)
	r.mu.Lock()
	r.containers[st.ID] = held
	r.mu.Unlock()
	r.watch(held)
	return st, nil
}

func (r *Runtime) start(ctx context.Context, box *Sandbox, c ContainerConfig, st Status) (Status, error) {
	bundle := r.bundle(c.ID)
	if err := os.Mkdir(bundle, 0o700); err != nil {
		return st, err
	}
	if err := writeJSON(filepath.Join(bundle, "status.json"), &st); err != nil {
		return st, err
	}
	rootfs, err := mountRootfs(bundle, r.cfg.Images.Layers(c.Image))
	if err != nil {
		return st, err
	}
	spec, signal, err := r.makeSpec(box, c, rootfs, st)
	if err != nil {
		return st, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	st.StopSignal = signal
	if err := writeJSON(filepath.Join(bundle, "config.json"), spec); err != nil {
		return st, err
	}
	if err := os.MkdirAll(filepath.Dir(c.LogPath), 0o755); err != nil {
		return st, fmt.Errorf("making the log's directory: %w", err)
	}
	pid, err := r.conmon(ctx, st, c.Container)
	if err != nil {
		return st, err
	}
	st.Pid = pid
	if st.PidStart, err = processStart(pid); err != nil {
		return st, fmt.Errorf("looking at the container's process: %w", err)
	}
	if err := r.release(ctx, c.ID); err != nil {
		return st, err
	}
	st.State, st.StartedAt = Running, r.now().UTC()
	return st, writeJSON(filepath.Join(bundle, "status.json"), &st)
}

// release lets a created container's process go on to its program.
func (r *Runtime) release(ctx context.Context, id string) error {
	return r.oci(ctx, "start", id)
}

func (r *Runtime) makeSpec(box *Sandbox, c ContainerConfig, rootfs string, st Status) (*specs.Spec, string, error) {
	image, err := r.cfg.Images.Config(c.Image)
	if err != nil {
		return nil, "", err
	}
	passwd, err := readInRoot(rootfs, "etc/passwd")
	if err != nil {
		return nil, "", err
	}
	group, err := readInRoot(rootfs, "etc/group")
	if err != nil {
		return nil, "", err
	}
	user, err := SpecUser(c.Pod, c.Container, image, passwd, group)
	if err != nil {
		return nil, "", err
	}
	mounts, err := r.ownMounts(box, c)
	if err != nil {
		return nil, "", err
	}
	in := SpecInput{
		ID: c.ID, Pod: c.Pod, Container: c.Container, Image: image, User: user, Env: c.Env, Mounts: append(mounts, c.Mounts...),
		Namespaces: Namespaces{Network: box.NetnsPath, IPC: box.IPCPath, UTS: box.UTSPath, HostPID: box.HostPID},
		Hostname:   box.Hostname, CgroupsPath: r.cgroups.path(st.Cgroup), RootPath: rootfs, NodeMemory: r.memory, OOMFloor: r.oomFloor,
		Attempt: c.Attempt, CgroupV2: r.cgroups.v2, Capabilities: r.caps,
	}
	if box.SharePID {
		in.Namespaces.PID = fmt.Sprintf("/proc/%d/ns/pid", box.PausePid)
	}
	sc := effective(c.Pod, c.Container)
	if sc.privileged {
		if in.Devices, err = hostDevices(); err != nil {
			return nil, "", err
		}
	}
	if in.Seccomp, err = r.seccomp(c.Pod, c.Container, capabilities(sc, specs.User{}, r.caps).Bounding); err != nil {
		return nil, "", err
	}
	spec, err := Spec(in)
	return spec, image.Config.StopSignal, err
}

// ownMounts are those that a container has whatever its pod says: shared memory and the file for its last words.
func (r *Runtime) ownMounts(box *Sandbox, c ContainerConfig) ([]Mount, error) {
	taken := func(p string) bool {
		return slices.ContainsFunc(c.Mounts, func(m Mount) bool { return filepath.Clean(m.ContainerPath) == p })
	}
	var out []Mount
	if !taken("/dev/shm") {
		shm := box.ShmPath
		if shm == "" {
			shm = "/dev/shm"
		}
		out = append(out, Mount{HostPath: shm, ContainerPath: "/dev/shm"})
	}
	if p := c.Container.TerminationMessagePath; p != "" && !taken(p) {
		file := filepath.Join(r.bundle(c.ID), "termination")
		if err := os.WriteFile(file, nil, 0o666); err != nil {
			return nil, fmt.Errorf("making the termination message: %w", err)
		}
		if err := os.Chmod(file, 0o666); err != nil {
			return nil, fmt.Errorf("making the termination message: %w", err)
		}
		out = append(out, Mount{HostPath: file, ContainerPath: p})
	}
	return out, nil
}

// watch waits for a container's end on a goroutine of its own.
func (r *Runtime) watch(c *container) {
	r.background.Go(func() {
		st := c.status
		code, at, known := r.awaitExit(r.ctx, st)
		if r.ctx.Err() != nil && !known {
			return // the agent goes, the container stays
		}
		r.finish(c, r.ended(st, code, at, known))
		r.reclaim(c)
	})
}

// ended says how a container ended.
func (r *Runtime) ended(st Status, code int, at time.Time, known bool) Status {
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

// Get returns what is known of a container.
func (r *Runtime) Get(id string) (Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.containers[id]
	if !ok {
		return Status{}, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return c.status, nil
}

// List returns what is known of all containers.
func (r *Runtime) List() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Status, 0, len(r.containers))
	for _, c := range r.containers {
		out = append(out, c.status)
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Wait blocks until a container has ended.
func (r *Runtime) Wait(ctx context.Context, id string) (Status, error) {
	r.mu.Lock()
	c, ok := r.containers[id]
	r.mu.Unlock()
	if !ok {
		return Status{}, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	select {
	case <-c.done:
		return r.Get(id)
	case <-ctx.Done():
		return Status{}, ctx.Err()
	}
}

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

// Usage returns what a container uses.
func (r *Runtime) Usage(st Status) (Usage, error) { return r.cgroups.usage(st.Cgroup, r.now()) }

// PodUsage returns what all containers of a pod use together.
func (r *Runtime) PodUsage(s Sandbox) (Usage, error) { return r.cgroups.usage(s.Cgroup, r.now()) }

func hostDevices() ([]specs.LinuxDevice, error) {
	var out []specs.LinuxDevice
	err := filepath.WalkDir("/dev", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // a device that goes while we look is no error
		}
		if d.IsDir() {
			switch p {
			case "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/.lxc", "/dev/.udev", "/dev/.lxd-mounts":
				return filepath.SkipDir
			}
			return nil
		}
		if p == "/dev/console" || d.Type()&fs.ModeDevice == 0 {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(p, &st) != nil {
			return nil
		}
		kind := "b"
		if d.Type()&fs.ModeCharDevice != 0 {
			kind = "c"
		}
		mode := os.FileMode(st.Mode & 0o777)
		uid, gid := st.Uid, st.Gid
		out = append(out, specs.LinuxDevice{
			Path: p, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), FileMode: &mode, UID: &uid, GID: &gid,
		})
		return nil
	})
	return out, err
}
