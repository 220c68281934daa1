package containers

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tickLength is the kernel's unit of /proc/stat (USER_HZ), which is 100 on every Linux that we run on.
const tickLength = 10 * time.Millisecond

// MachineUsage is what the whole machine has used and uses, and when it was started.
func (r *Runtime) MachineUsage() (Usage, time.Time, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Usage{}, time.Time{}, fmt.Errorf("reading the machine's use: %w", err)
	}
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return Usage{}, time.Time{}, fmt.Errorf("reading the machine's use: %w", err)
	}
	u := Usage{Time: r.now()}
	var started time.Time
	for line := range strings.Lines(string(stat)) {
		f := strings.Fields(line)
		switch {
		case len(f) > 8 && f[0] == "cpu":
			for i, v := range f[1:9] {
				if n, err := strconv.ParseUint(v, 10, 64); err == nil && i != 3 && i != 4 { // neither idle nor waiting
					u.CPU += time.Duration(n) * tickLength
				}
			}
		case len(f) == 2 && f[0] == "btime":
			if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				started = time.Unix(n, 0)
			}
		}
	}
	kb := func(name string) uint64 {
		for line := range strings.Lines(string(meminfo)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == name+":" {
				n, _ := strconv.ParseUint(f[1], 10, 64)
				return n << 10
			}
		}
		return 0
	}
	total := kb("MemTotal")
	u.Memory = total - kb("MemFree")
	u.WorkingSet = total - kb("MemAvailable")
	u.RSS = kb("AnonPages")
	return u, started, nil
}
