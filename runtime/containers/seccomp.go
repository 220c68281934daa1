package containers

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

// seccompData is the profile RuntimeDefault as data: calls that every container may make, and those that come with a
// capability.
//
//go:embed seccomp.json
var seccompData []byte

const (
	eperm, enosys  = uint(1), uint(38)
	cloneNamespace = 0x7E020000 // every CLONE_NEW* flag
	afVsock        = 40
)

// DefaultSeccomp is the profile RuntimeDefault for a container with these capabilities: what is not named fails with EPERM;
// new namespaces only with CAP_SYS_ADMIN; clone3, whose flags a filter cannot see, fails with ENOSYS so that libc falls
// back to clone.
func DefaultSeccomp(capabilities []string) (*specs.LinuxSeccomp, error) {
	var data struct {
		Allow          []string            `json:"allow"`
		WithCapability map[string][]string `json:"withCapability"`
		Personalities  []uint64            `json:"personalities"`
	}
	if err := json.Unmarshal(seccompData, &data); err != nil {
		return nil, fmt.Errorf("reading the default seccomp profile: %w", err)
	}
	allow := slices.Clone(data.Allow)
	for _, c := range capabilities {
		allow = append(allow, data.WithCapability[c]...)
	}
	sort.Strings(allow)
	ret, nosys := eperm, enosys
	s := &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, DefaultErrnoRet: &ret,
		Architectures: architectures(),
		Syscalls:      []specs.LinuxSyscall{{Names: slices.Compact(allow), Action: specs.ActAllow}},
	}
	for _, p := range data.Personalities {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{
			Names: []string{"personality"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 0, Value: p, Op: specs.OpEqualTo}},
		})
	}
	s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{
		Names: []string{"socket"}, Action: specs.ActAllow,
		Args: []specs.LinuxSeccompArg{{Index: 0, Value: afVsock, Op: specs.OpNotEqual}},
	})
	if !slices.Contains(capabilities, "CAP_SYS_ADMIN") {
		s.Syscalls = append(s.Syscalls,
			specs.LinuxSyscall{
				Names: []string{"clone"}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Index: 0, Value: cloneNamespace, ValueTwo: 0, Op: specs.OpMaskedEqual}},
			},
			specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &nosys})
	}
	return s, nil
}

// seccomp returns the filter of a container: nil for Unconfined, which is also what a pod gets that says nothing.
func (r *Runtime) seccomp(pod *corev1.Pod, c *corev1.Container, capabilities []string) (*specs.LinuxSeccomp, error) {
	p := SeccompProfile(pod, c)
	if p == nil {
		return nil, nil
	}
	switch p.Type {
	case corev1.SeccompProfileTypeRuntimeDefault:
		return DefaultSeccomp(capabilities)
	case corev1.SeccompProfileTypeLocalhost:
		if p.LocalhostProfile == nil || !filepath.IsLocal(*p.LocalhostProfile) {
			return nil, fmt.Errorf("container %s: a Localhost seccomp profile needs a relative localhostProfile", c.Name)
		}
		data, err := os.ReadFile(filepath.Join(r.cfg.Dir, "seccomp", *p.LocalhostProfile))
		if err != nil {
			return nil, fmt.Errorf("container %s: reading its seccomp profile: %w", c.Name, err)
		}
		var s specs.LinuxSeccomp
		if err := json.Unmarshal(data, &s); err != nil {
			return nil, fmt.Errorf("container %s: reading its seccomp profile: %w", c.Name, err)
		}
		return &s, nil
	}
	return nil, nil
}
