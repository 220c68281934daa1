package containers

import (
	"slices"
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

// defaultCapabilities are those of a container that asks for none in particular: docker's set.
func defaultCapabilities() []string {
	return []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE",
		"CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
}

// capabilityNames in the order of their numbers, as the kernel has them.
func capabilityNames() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
		"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN",
		"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
		"CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
		"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

// CapabilitiesOf names the capabilities of a mask, as /proc/<pid>/status has it; those that nobody has named yet are left out.
func CapabilitiesOf(mask uint64) []string {
	var out []string
	for n, name := range capabilityNames() {
		if mask&(1<<n) != 0 {
			out = append(out, name)
		}
	}
	return out
}

// capabilities follows docker and the CRI: the default set, then what is added and dropped, "ALL" being everything. A
// process that is not root has them only within reach (bounding), not in hand, as execve leaves it.
func capabilities(sc security, user specs.User, all []string) *specs.LinuxCapabilities {
	set := map[string]bool{}
	if sc.privileged {
		for _, c := range all {
			set[c] = true
		}
	} else {
		for _, c := range defaultCapabilities() {
			set[c] = slices.Contains(all, c)
		}
		has := func(list []corev1.Capability, name string) bool {
			return slices.ContainsFunc(list, func(c corev1.Capability) bool { return strings.EqualFold(string(c), name) })
		}
		if has(sc.add, "ALL") {
			for _, c := range all {
				set[c] = true
			}
		}
		if has(sc.drop, "ALL") {
			clear(set)
			if has(sc.add, "ALL") { // both: what is added by name is what is meant
				clear(set)
			}
		}
		for _, c := range sc.add {
			if name := capabilityName(c); name != "CAP_ALL" {
				set[name] = slices.Contains(all, name)
			}
		}
		for _, c := range sc.drop {
			delete(set, capabilityName(c))
		}
	}
	var list []string
	for c, on := range set {
		if on {
			list = append(list, c)
		}
	}
	sort.Strings(list)
	out := &specs.LinuxCapabilities{Bounding: list}
	if user.UID == 0 {
		out.Effective, out.Permitted = list, list
	}
	return out
}

func capabilityName(c corev1.Capability) string {
	name := strings.ToUpper(string(c))
	if !strings.HasPrefix(name, "CAP_") {
		name = "CAP_" + name
	}
	return name
}
