package containers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// cgroups knows the control groups of this machine: one tree (version 2), or a tree a controller (version 1).
type cgroups struct {
	v2    bool
	trees map[string]string // controller to mount point; version 2 has the one key ""
	root  string            // the path below which all of ours are: "/shiplog"
}

// detectCgroups reads /proc/self/mountinfo. A machine with both versions mounted is one of version 1 when a controller is there.
func detectCgroups(mountinfo, root string) (*cgroups, error) {
	c := &cgroups{trees: map[string]string{}, root: path.Clean("/" + root)}
	unified := ""
	lines := bufio.NewScanner(strings.NewReader(mountinfo))
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		if !ok {
			continue
		}
		f, g := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(g) < 3 {
			continue
		}
		switch g[0] {
		case "cgroup2":
			if unified == "" {
				unified = f[4]
			}
		case "cgroup":
			for _, o := range strings.Split(g[2], ",") {
				if o != "rw" && o != "ro" && !strings.HasPrefix(o, "release_agent=") && o != "xattr" && o != "clone_children" {
					if _, have := c.trees[o]; !have {
						c.trees[o] = f[4]
					}
				}
			}
		}
	}
	if c.trees["memory"] == "" && c.trees["cpu"] == "" && unified != "" {
		return &cgroups{v2: true, trees: map[string]string{"": unified}, root: c.root}, nil
	}
	if unified != "" {
		c.trees["unified"] = unified // beside version 1 it controls nothing, but the OCI runtimes make groups in it too
	}
	if len(c.trees) == 0 {
		return nil, errors.New("no control groups are mounted: mount cgroup2 on /sys/fs/cgroup")
	}
	return c, nil
}

func podGroup(qos corev1.PodQOSClass, uid string) string {
	switch qos {
	case corev1.PodQOSGuaranteed:
		return "pods/pod" + uid
	case corev1.PodQOSBestEffort:
		return "pods/besteffort/pod" + uid
	}
	return "pods/burstable/pod" + uid
}

// path of one of our groups as the runtimes name it.
func (c *cgroups) path(group string) string { return path.Join(c.root, group) }

func (c *cgroups) dir(controller, group string) string {
	if c.v2 {
		controller = ""
	}
	tree, ok := c.trees[controller]
	if !ok {
		return ""
	}
	return filepath.Join(tree, c.root, group)
}

// ensure makes a group with limits.
func (c *cgroups) ensure(group string, r PodResources) error {
	if c.v2 {
		return c.ensureV2(group, r)
	}
	set := func(controller string, values map[string]string) error {
		dir := c.dir(controller, group)
		if dir == "" {
			return nil
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making control group %s: %w", group, err)
		}
		return writeValues(dir, values)
	}
	cpu := map[string]string{}
	if r.CPUShares > 0 {
		cpu["cpu.shares"] = strconv.FormatUint(r.CPUShares, 10)
	}
	if r.CPUQuota > 0 {
		cpu["cpu.cfs_period_us"] = strconv.Itoa(quotaPeriod)
		cpu["cpu.cfs_quota_us"] = strconv.FormatInt(r.CPUQuota, 10)
	}
	memory := map[string]string{}
	if r.Memory > 0 {
		memory["memory.limit_in_bytes"] = strconv.FormatInt(r.Memory, 10)
	}
	pids := map[string]string{}
	if r.Pids > 0 {
		pids["pids.max"] = strconv.FormatInt(r.Pids, 10)
	}
	return errors.Join(set("cpu", cpu), set("memory", memory), set("pids", pids))
}

func (c *cgroups) ensureV2(group string, r PodResources) error {
	dir := c.trees[""]
	for _, part := range strings.Split(strings.Trim(c.path(group), "/"), "/") {
		for _, controller := range []string{"cpu", "memory", "pids", "io", "cpuset"} {
			// A controller that is not there cannot be turned on; the limits that need it say so below.
			_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making control group %s: %w", group, err)
		}
	}
	values := map[string]string{}
	if r.CPUShares > 0 {
		values["cpu.weight"] = strconv.FormatUint(WeightOf(r.CPUShares), 10)
	}
	if r.CPUQuota > 0 {
		values["cpu.max"] = fmt.Sprintf("%d %d", r.CPUQuota, quotaPeriod)
	}
	if r.Memory > 0 {
		values["memory.max"] = strconv.FormatInt(r.Memory, 10)
	}
	if r.Pids > 0 {
		values["pids.max"] = strconv.FormatInt(r.Pids, 10)
	}
	return writeValues(dir, values)
}

func writeValues(dir string, values map[string]string) error {
	names := make([]string, 0, len(values))
	for n := range values {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(values[n]), 0o644); err != nil {
			return fmt.Errorf("setting %s of %s to %s: %w", n, dir, values[n], err)
		}
	}
	return nil
}

// join puts a process into a group of every tree.
func (c *cgroups) join(group string, pid int) error {
	for controller := range c.trees {
		dir := c.dir(controller, group)
		if controller == "cpuset" { // an empty cpuset takes no process
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making control group %s: %w", group, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("joining control group %s: %w", group, err)
		}
	}
	return nil
}

// dirs returns where a group, or anything of it, is in the trees.
func (c *cgroups) dirs(group string) []string {
	var out []string
	for controller := range c.trees {
		if d := c.dir(controller, group); !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

// procs returns the processes of a group and of the groups below it.
func (c *cgroups) procs(group string) []int {
	seen := map[int]bool{}
	var out []int
	for _, dir := range c.dirs(group) {
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil //nolint:nilerr // a group that goes while we look is no error
			}
			data, _ := os.ReadFile(filepath.Join(p, "cgroup.procs"))
			for _, f := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !seen[pid] {
					seen[pid] = true
					out = append(out, pid)
				}
			}
			return nil
		})
	}
	return out
}

// remove kills what is left in a group and removes it with the groups below it.
func (c *cgroups) remove(ctx context.Context, group string) error {
	delay := time.Millisecond
	for {
		err := c.tryRemove(group)
		if err == nil {
			return nil
		}
		for _, pid := range c.procs(group) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		// A killed process leaves its group only when the kernel is done with it.
		select {
		case <-time.After(delay):
			delay = min(2*delay, 200*time.Millisecond)
		case <-ctx.Done():
			return fmt.Errorf("removing control group %s: %w: %w", group, ctx.Err(), err)
		}
	}
}

func (c *cgroups) tryRemove(group string) error {
	var failed error
	for _, dir := range c.dirs(group) {
		var found []string
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				found = append(found, p)
			}
			return nil
		})
		for i := len(found) - 1; i >= 0; i-- {
			if err := unix.Rmdir(found[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
				failed = fmt.Errorf("removing %s: %w", found[i], err)
			}
		}
	}
	return failed
}

// oomKilled says whether the kernel killed a process of the group because memory ran out.
func (c *cgroups) oomKilled(group string) bool {
	file := "memory.oom_control"
	if c.v2 {
		file = "memory.events"
	}
	data, err := os.ReadFile(filepath.Join(c.dir("memory", group), file))
	return err == nil && field(string(data), "oom_kill") > 0
}

func field(text, name string) uint64 {
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		if k == name {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

// Usage is what a group has used and uses.
type Usage struct {
	Time       time.Time
	CPU        time.Duration // since the group began
	Memory     uint64        // bytes, page cache included
	WorkingSet uint64        // bytes that cannot easily be given back: what limits and evictions look at
	RSS        uint64        // bytes
	Processes  uint64
}

func (c *cgroups) usage(group string, now time.Time) (Usage, error) {
	read := func(controller, file string) string {
		data, _ := os.ReadFile(filepath.Join(c.dir(controller, group), file))
		return strings.TrimSpace(string(data))
	}
	number := func(s string) uint64 { n, _ := strconv.ParseUint(s, 10, 64); return n }
	u := Usage{Time: now}
	if _, err := os.Stat(c.dir("memory", group)); err != nil {
		return u, fmt.Errorf("reading the use of %s: %w", group, err)
	}
	var inactive uint64
	if c.v2 {
		u.CPU = time.Duration(field(read("", "cpu.stat"), "usage_usec")) * time.Microsecond
		u.Memory = number(read("", "memory.current"))
		stat := read("", "memory.stat")
		inactive, u.RSS = field(stat, "inactive_file"), field(stat, "anon")
		u.Processes = number(read("", "pids.current"))
	} else {
		u.CPU = time.Duration(number(read("cpuacct", "cpuacct.usage")))
		u.Memory = number(read("memory", "memory.usage_in_bytes"))
		stat := read("memory", "memory.stat")
		inactive, u.RSS = field(stat, "total_inactive_file"), field(stat, "total_rss")
		u.Processes = number(read("pids", "pids.current"))
	}
	if u.Memory > inactive {
		u.WorkingSet = u.Memory - inactive
	}
	return u, nil
}
