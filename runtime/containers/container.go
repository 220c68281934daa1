package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
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
	st.StartedAt = r.now().UTC()
	if err := r.release(ctx, c.ID); err != nil {
		return st, err
	}
	st.State = Running
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

// Usage returns what a container uses.
func (r *Runtime) Usage(st Status) (Usage, error) { return r.cgroups.usage(st.Cgroup, r.now()) }

// PodUsage returns what all containers of a pod use together.
func (r *Runtime) PodUsage(s Sandbox) (Usage, error) { return r.cgroups.usage(s.Cgroup, r.now()) }
