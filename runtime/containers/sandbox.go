package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Sandbox is what the containers of a pod share. It is written down in the sandbox's directory.
type Sandbox struct {
	PodUID    string    `json:"podUID"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Hostname  string    `json:"hostname"`
	ID        string    `json:"id"` // of the pause container
	BootID    string    `json:"bootID"`
	CreatedAt time.Time `json:"createdAt"`

	NetnsPath string `json:"netns,omitempty"` // "" for the host's network
	IPCPath   string `json:"ipc,omitempty"`
	UTSPath   string `json:"uts,omitempty"`
	ShmPath   string `json:"shm,omitempty"`
	HostPID   bool   `json:"hostPID,omitempty"`
	SharePID  bool   `json:"sharePID,omitempty"`
	Cgroup    string `json:"cgroup"` // below the runtime's root
	Shares    uint64 `json:"shares,omitempty"`
	Burstable bool   `json:"burstable,omitempty"`

	PausePid   int    `json:"pausePid,omitempty"`
	PauseStart uint64 `json:"pauseStart,omitempty"`
}

// SandboxConfig says what sandbox a pod needs.
type SandboxConfig struct {
	ID       string // of the pause container; unique for good
	Pod      *corev1.Pod
	Hostname string
	Sysctls  map[string]string
}

// Netns is where a pod's network namespace is named, before and while it is there.
func (r *Runtime) Netns(podUID string) string {
	return filepath.Join(r.cfg.NetnsDir, "shiplog-"+podUID)
}

// CreateSandbox makes a pod's namespaces, control group and shared memory. When one is there already, it is returned as it
// is. StartPause comes next, or beside the network's setup.
func (r *Runtime) CreateSandbox(_ context.Context, c SandboxConfig) (*Sandbox, error) {
	uid := string(c.Pod.UID)
	r.mu.Lock()
	have := r.sandboxes[uid]
	r.mu.Unlock()
	if have != nil {
		return have, nil
	}
	spec := &c.Pod.Spec
	qos := QOSClass(c.Pod)
	limits := PodResourcesOf(c.Pod, r.cfg.PodPidsLimit)
	dir := r.sandboxDir(uid)
	s := &Sandbox{
		PodUID: uid, Namespace: c.Pod.Namespace, Name: c.Pod.Name, Hostname: c.Hostname, ID: c.ID, BootID: r.boot, CreatedAt: r.now().UTC(),
		HostPID: spec.HostPID, SharePID: spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace && !spec.HostPID,
		Cgroup: podGroup(qos, uid), Shares: limits.CPUShares, Burstable: qos == corev1.PodQOSBurstable,
	}
	if !spec.HostNetwork {
		s.NetnsPath, s.UTSPath = r.Netns(uid), filepath.Join(dir, "uts")
	}
	if !spec.HostIPC {
		s.IPCPath, s.ShmPath = filepath.Join(dir, "ipc"), filepath.Join(dir, "shm")
	}
	if err := r.makeSandbox(s, dir, limits, c.Sysctls); err != nil {
		cleanup, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("making the sandbox of pod %s/%s: %w", s.Namespace, s.Name, err), r.dropSandbox(cleanup, s))
	}
	r.mu.Lock()
	r.sandboxes[uid] = s
	r.mu.Unlock()
	r.shareBurstable(uid, s)
	return s, nil
}

func (r *Runtime) makeSandbox(s *Sandbox, dir string, limits PodResources, sysctls map[string]string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Written down before it is made: whatever a crash leaves behind can be found and removed.
	if err := writeJSON(filepath.Join(dir, "sandbox.json"), s); err != nil {
		return err
	}
	if err := r.cgroups.ensure(s.Cgroup, limits); err != nil {
		return err
	}
	if err := makeNamespaces(nsRequest{net: s.NetnsPath, ipc: s.IPCPath, uts: s.UTSPath, hostname: s.Hostname, sysctls: sysctls}); err != nil {
		return err
	}
	if s.ShmPath == "" {
		return nil
	}
	if err := os.MkdirAll(s.ShmPath, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("shm", s.ShmPath, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=65536k"); err != nil {
		return fmt.Errorf("mounting shared memory: %w", err)
	}
	return nil
}

// shareBurstable gives the class of burstable pods, as a whole, what its pods ask for.
func (r *Runtime) shareBurstable(uid string, s *Sandbox) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s != nil && s.Burstable {
		r.burstable[uid] = s.Shares
	} else if _, have := r.burstable[uid]; !have {
		return
	} else {
		delete(r.burstable, uid)
	}
	var sum uint64
	for _, n := range r.burstable {
		sum += n
	}
	if err := r.cgroups.ensure("pods/burstable", PodResources{CPUShares: min(max(sum, minShares), maxShares)}); err != nil {
		r.log.Warn("setting the share of the burstable pods", "error", err)
	}
	if err := r.cgroups.ensure("pods/besteffort", PodResources{CPUShares: minShares}); err != nil {
		r.log.Warn("setting the share of the best-effort pods", "error", err)
	}
}

// StartPause starts the pause container of a sandbox, if it does not run.
func (r *Runtime) StartPause(ctx context.Context, s *Sandbox) error {
	r.mu.Lock()
	running := alive(s.PausePid, s.PauseStart)
	r.mu.Unlock()
	if running {
		return nil
	}
	bundle := filepath.Join(r.sandboxDir(s.PodUID), "pause")
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return fmt.Errorf("starting the pause container: %w", err)
	}
	if err := writeJSON(filepath.Join(bundle, "config.json"), r.pauseSpec(s)); err != nil {
		return fmt.Errorf("starting the pause container: %w", err)
	}
	if s.PausePid != 0 { // one that was killed
		_ = r.oci(ctx, "delete", "--force", s.ID)
	}
	pidFile := filepath.Join(bundle, "pid")
	if err := r.oci(ctx, "run", "--detach", "--bundle", bundle, "--pid-file", pidFile, s.ID); err != nil {
		return fmt.Errorf("starting the pause container of pod %s/%s: %w", s.Namespace, s.Name, err)
	}
	pid, start, err := readPid(pidFile)
	if err != nil {
		return fmt.Errorf("starting the pause container of pod %s/%s: %w", s.Namespace, s.Name, err)
	}
	r.mu.Lock()
	s.PausePid, s.PauseStart = pid, start
	copied := *s
	r.mu.Unlock()
	return writeJSON(filepath.Join(r.sandboxDir(s.PodUID), "sandbox.json"), &copied)
}

// pauseSpec is the OCI configuration of a pause container: nearly nothing, in the pod's namespaces.
func (r *Runtime) pauseSpec(s *Sandbox) *specs.Spec {
	adj, shares := max(sandboxOOMScore, r.oomFloor), uint64(minShares)
	args := []string{"/pause"}
	if pauseProgram == nil {
		args = append(args, "pause")
	}
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: r.pauseRoot(), Readonly: true},
		Process: &specs.Process{Args: args, Cwd: "/", NoNewPrivileges: true, OOMScoreAdj: &adj, User: specs.User{UID: 65535, GID: 65535}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}},
		},
		Annotations: map[string]string{
			"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-name": s.Name, "io.kubernetes.cri.sandbox-uid": s.PodUID,
			"io.kubernetes.cri.sandbox-namespace": s.Namespace,
		},
		Linux: &specs.Linux{
			Namespaces:  namespaces(Namespaces{Network: s.NetnsPath, IPC: s.IPCPath, UTS: s.UTSPath, HostPID: s.HostPID}, false),
			CgroupsPath: r.cgroups.path(s.Cgroup + "/" + s.ID),
			Resources:   &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}},
			MaskedPaths: maskedPaths(), ReadonlyPaths: readonlyPaths(),
		},
	}
}

// makePauseRoot prepares the one read-only root that all pause containers have.
func (r *Runtime) makePauseRoot() error {
	for _, d := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(r.pauseRoot(), d), 0o755); err != nil {
			return fmt.Errorf("preparing the pause container: %w", err)
		}
	}
	if err := os.Chmod(r.pauseRoot(), 0o755); err != nil {
		return fmt.Errorf("preparing the pause container: %w", err)
	}
	program := filepath.Join(r.pauseRoot(), "pause")
	content := pauseProgram
	if content == nil {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("preparing the pause container: %w", err)
		}
		if content, err = os.ReadFile(self); err != nil {
			return fmt.Errorf("preparing the pause container: %w", err)
		}
	}
	if have, err := os.ReadFile(program); err == nil && string(have) == string(content) {
		return nil
	}
	// A new file rather than new content: the old one may be running.
	tmp := program + ".new"
	if err := os.WriteFile(tmp, content, 0o755); err != nil {
		return fmt.Errorf("preparing the pause container: %w", err)
	}
	if err := os.Rename(tmp, program); err != nil {
		return fmt.Errorf("preparing the pause container: %w", err)
	}
	return nil
}

// Sandbox returns a pod's sandbox, if it has one.
func (r *Runtime) Sandbox(podUID string) (Sandbox, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sandboxes[podUID]
	if !ok {
		return Sandbox{}, false
	}
	return *s, true
}

// Sandboxes returns all sandboxes.
func (r *Runtime) Sandboxes() []Sandbox {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Sandbox, 0, len(r.sandboxes))
	for _, s := range r.sandboxes {
		out = append(out, *s)
	}
	return out
}

// RemoveSandbox removes a pod's sandbox and whatever is left of it: processes, namespaces, mounts, control groups. The pod's
// containers are removed before. It is no error when there is none.
func (r *Runtime) RemoveSandbox(ctx context.Context, podUID string) error {
	r.mu.Lock()
	s := r.sandboxes[podUID]
	r.mu.Unlock()
	if s == nil {
		return nil
	}
	if err := r.dropSandbox(ctx, s); err != nil {
		return fmt.Errorf("removing the sandbox of pod %s/%s: %w", s.Namespace, s.Name, err)
	}
	r.mu.Lock()
	delete(r.sandboxes, podUID)
	r.mu.Unlock()
	r.shareBurstable(podUID, nil)
	return nil
}

func (r *Runtime) dropSandbox(ctx context.Context, s *Sandbox) error {
	if alive(s.PausePid, s.PauseStart) {
		_ = unix.Kill(s.PausePid, unix.SIGKILL)
	}
	if err := r.deleteOCI(ctx, s.ID); err != nil {
		return err
	}
	if err := r.cgroups.remove(ctx, s.Cgroup); err != nil {
		return err
	}
	for _, f := range []string{s.NetnsPath, s.IPCPath, s.UTSPath} {
		if err := unpin(f); err != nil {
			return err
		}
	}
	if s.ShmPath != "" {
		if err := unmount(s.ShmPath); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(r.sandboxDir(s.PodUID)); err != nil {
		return fmt.Errorf("removing the sandbox's directory: %w", err)
	}
	return nil
}

// deleteOCI has the OCI runtime forget a container that may or may not be there.
func (r *Runtime) deleteOCI(ctx context.Context, id string) error {
	if _, err := os.Stat(filepath.Join(r.ociRoot(), id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := r.oci(ctx, "delete", "--force", id)
	if err == nil {
		return nil
	}
	if _, statErr := os.Stat(filepath.Join(r.ociRoot(), id)); errors.Is(statErr, fs.ErrNotExist) {
		return nil
	}
	// A state that the runtime cannot read (a crash while it wrote it) would stand in the way for ever.
	if strings.Contains(err.Error(), "load") || strings.Contains(err.Error(), "does not exist") {
		return os.RemoveAll(filepath.Join(r.ociRoot(), id))
	}
	return err
}

func readPid(file string) (pid int, start uint64, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, 0, err
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil {
		return 0, 0, fmt.Errorf("reading %s: %w", file, err)
	}
	start, err = processStart(pid)
	return pid, start, err
}

// writeJSON replaces a file: a reader, also after a crash of this process, sees the old or the new content.
func writeJSON(file string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

func readJSON(file string, v any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	return nil
}
