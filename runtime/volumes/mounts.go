package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/runtime/containers"
)

// ErrSubPath says that a sub path does not lead to something inside its volume.
var ErrSubPath = errors.New("not a path inside the volume")

// Mounts says what a container sees of its pod's volumes. env expands subPathExpr.
func (m *Manager) Mounts(pod *corev1.Pod, c *corev1.Container, env []corev1.EnvVar) ([]containers.Mount, error) {
	volumes := map[string]*corev1.Volume{}
	for i := range pod.Spec.Volumes {
		volumes[pod.Spec.Volumes[i].Name] = &pod.Spec.Volumes[i]
	}
	var out []containers.Mount
	for n := range c.VolumeMounts {
		vm := &c.VolumeMounts[n]
		v, ok := volumes[vm.Name]
		if !ok {
			return nil, fmt.Errorf("container %s mounts the volume %q, which its pod does not have", c.Name, vm.Name)
		}
		mount, err := m.mount(pod, c, v, vm, n, env)
		if err != nil {
			return nil, fmt.Errorf("container %s, volume %q: %w", c.Name, vm.Name, err)
		}
		out = append(out, mount)
	}
	return out, nil
}

func (m *Manager) mount(pod *corev1.Pod, c *corev1.Container, v *corev1.Volume, vm *corev1.VolumeMount, n int, env []corev1.EnvVar) (containers.Mount, error) {
	source := m.dir(pod, v.Name)
	readOnly := vm.ReadOnly
	switch {
	case v.HostPath != nil:
		source = v.HostPath.Path
	case v.PersistentVolumeClaim != nil:
		path, err := m.claimPath(pod, v.PersistentVolumeClaim.ClaimName)
		if err != nil {
			return containers.Mount{}, err
		}
		source, readOnly = path, readOnly || v.PersistentVolumeClaim.ReadOnly
	case v.EmptyDir == nil:
		readOnly = true // what is made of the cluster's objects is not written to
	}
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		missing := ""
		sub = containers.Expand(vm.SubPathExpr, func(name string) (string, bool) {
			for _, e := range env {
				if e.Name == name {
					return e.Value, true
				}
			}
			missing = name
			return "", false
		})
		if missing != "" {
			return containers.Mount{}, fmt.Errorf("subPathExpr %q names the variable %s, which is not set", vm.SubPathExpr, missing)
		}
	}
	if sub != "" {
		pinned, err := m.subPath(pod, c, v, n, source, sub)
		if err != nil {
			return containers.Mount{}, err
		}
		source = pinned
	}
	out := containers.Mount{HostPath: source, ContainerPath: vm.MountPath, ReadOnly: readOnly}
	if !filepath.IsAbs(out.ContainerPath) {
		out.ContainerPath = "/" + out.ContainerPath
	}
	if vm.MountPropagation != nil {
		out.Propagation = *vm.MountPropagation
	}
	if vm.RecursiveReadOnly != nil && *vm.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled {
		out.RecursiveReadOnly = true
	}
	return out, nil
}

// subPath finds a path inside a volume and pins what it found by a mount of its own: a container that changes the volume
// meanwhile cannot make it lead anywhere else. A directory that is not there is made.
func (m *Manager) subPath(pod *corev1.Pod, c *corev1.Container, v *corev1.Volume, n int, source, sub string) (string, error) {
	if !filepath.IsLocal(sub) {
		return "", fmt.Errorf("sub path %q: %w", sub, ErrSubPath)
	}
	root, err := unix.Open(source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("opening the volume: %w", err)
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := openBeneath(root, sub, fsGroup(pod))
	if err != nil {
		return "", fmt.Errorf("sub path %q: %w", sub, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", fmt.Errorf("sub path %q: %w", sub, err)
	}
	target := filepath.Join(m.podDir(string(pod.UID)), "volume-subpaths", v.Name, c.Name, fmt.Sprint(n))
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return "", err
	}
	if err := containers.UnmountBelow(target); err != nil {
		return "", err
	}
	if err := os.RemoveAll(target); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(target, 0o750)
	} else {
		err = os.WriteFile(target, nil, 0o640)
	}
	if err != nil {
		return "", err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("pinning sub path %q: %w", sub, err)
	}
	return target, nil
}

// openBeneath opens a path below a directory; neither "..", nor a link, nor a race leads out of it. Missing directories are made.
func openBeneath(root int, sub string, group int) (int, error) {
	open := func(p string) (int, error) {
		return unix.Openat2(root, p, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
		})
	}
	fd, err := open(sub)
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.EXDEV):
		return -1, ErrSubPath
	case !errors.Is(err, fs.ErrNotExist):
		return -1, err
	}
	parent := root
	dir, base := filepath.Split(strings.TrimSuffix(sub, "/"))
	if dir = strings.TrimSuffix(dir, "/"); dir != "" {
		if parent, err = openBeneath(root, dir, group); err != nil {
			return -1, err
		}
		defer func() { _ = unix.Close(parent) }()
	}
	if err := unix.Mkdirat(parent, base, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return -1, err
	}
	made, err := open(sub)
	if err != nil {
		return -1, err
	}
	self := fmt.Sprintf("/proc/self/fd/%d", made)
	if group >= 0 {
		if err := os.Chown(self, -1, group); err != nil {
			_ = unix.Close(made)
			return -1, err
		}
	}
	if err := os.Chmod(self, 0o777); err != nil {
		_ = unix.Close(made)
		return -1, err
	}
	return made, nil
}
