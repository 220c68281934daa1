package containers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const mountsV1 = `25 20 0:21 / /sys/fs/cgroup rw shared:1 - tmpfs tmpfs rw
26 25 0:22 / /sys/fs/cgroup/cpu,cpuacct rw shared:2 - cgroup cgroup rw,cpu,cpuacct
27 25 0:23 / /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory
28 25 0:24 / /sys/fs/cgroup/systemd rw shared:4 - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
29 25 0:25 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw
`

func TestDetectCgroups(t *testing.T) {
	c, err := detectCgroups(mountsV1, "shiplog")
	if err != nil {
		t.Fatal(err)
	}
	if c.v2 || c.dir("memory", "a") != "/sys/fs/cgroup/memory/shiplog/a" || c.dir("cpu", "a") != "/sys/fs/cgroup/cpu,cpuacct/shiplog/a" || c.dir("pids", "a") != "" {
		t.Errorf("version 1 is %+v", c)
	}
	c, err = detectCgroups("30 20 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n", "/shiplog")
	if err != nil || !c.v2 || c.dir("memory", "a") != "/sys/fs/cgroup/shiplog/a" || len(c.dirs("a")) != 1 {
		t.Errorf("version 2 is %+v, %v", c, err)
	}
	if _, err := detectCgroups("", "x"); err == nil {
		t.Error("a machine without control groups is accepted")
	}
}

// fakeV2 is a directory that looks like a tree of version 2: the kernel's files are ordinary ones.
func fakeV2(t *testing.T) *cgroups {
	t.Helper()
	return &cgroups{v2: true, trees: map[string]string{"": t.TempDir()}, root: "/shiplog"}
}

func TestEnsureVersion2(t *testing.T) {
	c := fakeV2(t)
	if err := c.ensure("pods/burstable/podx", PodResources{CPUShares: 1024, CPUQuota: 50000, Memory: 1 << 20, Pids: 10}); err != nil {
		t.Fatal(err)
	}
	dir := c.dir("", "pods/burstable/podx")
	for file, want := range map[string]string{"cpu.weight": "39", "cpu.max": "50000 100000", "memory.max": "1048576", "pids.max": "10"} {
		if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", file, got, err, want)
		}
	}
	// Each level hands the controllers on to the next, the pod's own included only by its parent.
	for _, level := range []string{".", "shiplog", "shiplog/pods", "shiplog/pods/burstable"} {
		if got, err := os.ReadFile(filepath.Join(c.trees[""], level, "cgroup.subtree_control")); err != nil || !strings.HasPrefix(string(got), "+") {
			t.Errorf("%s hands on %q, %v", level, got, err)
		}
	}
}

func TestUsageVersion2(t *testing.T) {
	c := fakeV2(t)
	dir := c.dir("", "pods/podx")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		"cpu.stat": "usage_usec 2500000\nuser_usec 1\n", "memory.current": "1000\n", "memory.stat": "anon 300\ninactive_file 400\n", "pids.current": "3\n",
		"memory.events": "low 0\noom 1\noom_kill 1\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	u, err := c.usage("pods/podx", time.Time{})
	if want := (Usage{CPU: 2500 * time.Millisecond, Memory: 1000, WorkingSet: 600, RSS: 300, Processes: 3}); err != nil || u != want {
		t.Errorf("usage is %+v, %v; want %+v", u, err, want)
	}
	if !c.oomKilled("pods/podx") {
		t.Error("the kernel's kill is not seen")
	}
}

func TestSignalNames(t *testing.T) {
	for name, want := range map[string]int{"": 15, "SIGTERM": 15, "TERM": 15, "sigquit": 3, "9": 9, "SIGRTMIN+3": 37, "SIGRTMIN": 34} {
		if got, ok := parseSignal(name); !ok || int(got) != want {
			t.Errorf("%q is %d, want %d", name, got, want)
		}
	}
	if got, ok := parseSignal("SIGNOTHING"); ok || got != 15 {
		t.Errorf("an unknown signal is %d, %v; want SIGTERM and false", got, ok)
	}
}
