package containers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/shiplog/shiplog/runtime/images"
)

// Images is what a container's root file system and defaults come from.
type Images interface {
	Layers(i images.Image) []string
	Config(i images.Image) (*v1.ConfigFile, error)
}

// Config of a runtime.
type Config struct {
	Dir        string // state: bundles, sandboxes, exit files
	NetnsDir   string // named network namespaces; default /run/netns
	CgroupRoot string // default "/shiplog"
	// RuntimePath and ConmonPath are looked up in PATH when they hold no slash; defaults "runc" and "conmon".
	RuntimePath, ConmonPath string
	PodPidsLimit            int64 // processes of one pod; 0: no limit
	Images                  Images
	// OnExit is told of every container that has ended, once each time the process learns of it. It must not block.
	OnExit func(Status)
	Logger *slog.Logger
}

// The kinds of error of this package, tested with errors.Is.
var (
	ErrNotFound = errors.New("no such container")
	// ErrNotRunning says that a container has ended, or has not been started.
	ErrNotRunning = errors.New("container is not running")
	// ErrMissingBinary says that a program which the runtime needs is not installed.
	ErrMissingBinary = errors.New("program not found")
	// ErrConfig says that a container cannot be configured as its pod wants it: nothing was started.
	ErrConfig = errors.New("container cannot be configured")
)

// Runtime runs containers. Its methods are safe for many goroutines; those that concern one container or sandbox exclude
// each other.
type Runtime struct {
	cfg     Config
	log     *slog.Logger
	cgroups *cgroups
	caps    []string
	memory  int64 // of the machine, bytes
	boot    string
	// oomFloor is the lowest oom_score_adj that this process may give: its own, unless it has CAP_SYS_RESOURCE.
	oomFloor int
	exits    *exitWatch

	mu         sync.Mutex
	containers map[string]*container
	sandboxes  map[string]*Sandbox
	burstable  map[string]uint64 // cpu shares by pod

	background sync.WaitGroup
	stop       context.CancelFunc
	ctx        context.Context
}

// New prepares a runtime: it finds the programs that it needs and the machine's control groups. Recover comes next.
func New(cfg Config) (*Runtime, error) {
	if cfg.NetnsDir == "" {
		cfg.NetnsDir = "/run/netns"
	}
	if cfg.CgroupRoot == "" {
		cfg.CgroupRoot = "/shiplog"
	}
	if cfg.RuntimePath == "" {
		cfg.RuntimePath = "runc"
	}
	if cfg.ConmonPath == "" {
		cfg.ConmonPath = "conmon"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnExit == nil {
		cfg.OnExit = func(Status) {}
	}
	for _, p := range []*string{&cfg.RuntimePath, &cfg.ConmonPath} {
		found, err := exec.LookPath(*p)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: install it (Debian: apt-get install runc conmon): %w", ErrMissingBinary, *p, err)
		}
		if *p, err = filepath.Abs(found); err != nil {
			return nil, fmt.Errorf("finding %s: %w", found, err)
		}
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("finding the data directory: %w", err)
	}
	cfg.Dir = dir
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the machine's mounts: %w", err)
	}
	groups, err := detectCgroups(string(mounts), cfg.CgroupRoot)
	if err != nil {
		return nil, err
	}
	r := &Runtime{
		cfg: cfg, log: cfg.Logger, cgroups: groups,
		containers: map[string]*container{}, sandboxes: map[string]*Sandbox{}, burstable: map[string]uint64{},
	}
	if r.caps, err = ownCapabilities(); err != nil {
		return nil, err
	}
	if r.oomFloor, err = oomFloor(); err != nil {
		return nil, err
	}
	if r.memory, err = machineMemory(); err != nil {
		return nil, err
	}
	if r.boot, err = bootID(); err != nil {
		return nil, err
	}
	for _, d := range []string{r.containersDir(), r.sandboxesDir(), r.exitsDir(), r.ociRoot()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("making the runtime's directories: %w", err)
		}
	}
	if err := r.makePauseRoot(); err != nil {
		return nil, err
	}
	if r.exits, err = watchExits(r.exitsDir()); err != nil {
		return nil, err
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r, nil
}

// Close lets go of what the process holds. Containers go on running.
func (r *Runtime) Close() error {
	r.stop()
	err := r.exits.close()
	r.background.Wait()
	return err
}

func (r *Runtime) containersDir() string        { return filepath.Join(r.cfg.Dir, "containers") }
func (r *Runtime) sandboxesDir() string         { return filepath.Join(r.cfg.Dir, "sandboxes") }
func (r *Runtime) exitsDir() string             { return filepath.Join(r.cfg.Dir, "exits") }
func (r *Runtime) ociRoot() string              { return filepath.Join(r.cfg.Dir, "oci") }
func (r *Runtime) pauseRoot() string            { return filepath.Join(r.cfg.Dir, "pause") }
func (r *Runtime) bundle(id string) string      { return filepath.Join(r.containersDir(), id) }
func (r *Runtime) sandboxDir(uid string) string { return filepath.Join(r.sandboxesDir(), uid) }

// BootID is the machine's current boot; what ran in another one runs no more.
func (r *Runtime) BootID() string { return r.boot }

// MachineMemory is the machine's memory in bytes.
func (r *Runtime) MachineMemory() int64 { return r.memory }

func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func machineMemory() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("reading the machine's memory: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "MemTotal:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("reading the machine's memory: %w", err)
			}
			return kb << 10, nil
		}
	}
	return 0, errors.New("reading the machine's memory: /proc/meminfo has no MemTotal")
}

// ownCapabilities are those that this process could give to a container.
func ownCapabilities() ([]string, error) {
	mask, err := capabilityMask("CapBnd:")
	return CapabilitiesOf(mask), err
}

func capabilityMask(name string) (uint64, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("reading this process's capabilities: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, name); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			if err != nil {
				return 0, fmt.Errorf("reading this process's capabilities: %w", err)
			}
			return mask, nil
		}
	}
	return 0, fmt.Errorf("reading this process's capabilities: /proc/self/status has no %s", name)
}

func oomFloor() (int, error) {
	mask, err := capabilityMask("CapEff:")
	if err != nil {
		return 0, err
	}
	if mask&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return minOOMScore, nil
	}
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("reading this process's oom_score_adj: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// oci runs the OCI runtime. Its errors hold what the runtime said.
func (r *Runtime) oci(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, r.cfg.RuntimePath, append([]string{"--root", r.ociRoot()}, args...)...)
	cmd.Dir = r.cfg.Dir
	// Not a pipe: a container that the runtime leaves running inherits it, and a pipe would then never end.
	fd, err := unix.MemfdCreate("oci", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(r.cfg.RuntimePath), args[0], err)
	}
	said := os.NewFile(uintptr(fd), "oci")
	defer func() { _ = said.Close() }()
	cmd.Stderr = said
	if err := cmd.Run(); err != nil {
		text := make([]byte, 16<<10)
		n, _ := said.ReadAt(text, 0)
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(r.cfg.RuntimePath), args[0], err, cleanOCIError(string(text[:n])))
	}
	return nil
}

// cleanOCIError takes the logger's decoration off what runc and crun say.
func cleanOCIError(s string) string {
	var out []string
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if i := strings.Index(line, `msg="`); i >= 0 && strings.HasPrefix(line, "time=") {
			if text, err := strconv.Unquote(line[i+4:]); err == nil {
				line = text
			}
		}
		if line != "" {
			out = append(out, line)
		}
	}
	return strings.Join(out, "; ")
}

// StartTime of a process in clock ticks since boot: with the pid it names a process for good.
func processStart(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The command's name may hold anything, also spaces and parentheses.
	_, after, ok := strings.Cut(string(data[strings.LastIndexByte(string(data), ')'):]), " ")
	f := strings.Fields(after)
	if !ok || len(f) < 20 {
		return 0, fmt.Errorf("reading /proc/%d/stat: unexpected form", pid)
	}
	if f[0] == "Z" || f[0] == "X" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// alive tells whether the process that started at that time still runs.
func alive(pid int, start uint64) bool {
	if pid <= 0 {
		return false
	}
	now, err := processStart(pid)
	return err == nil && now == start
}

// now is the clock of this room's edge; what it tells is written down and never decided upon.
func (r *Runtime) now() time.Time { return time.Now() }
