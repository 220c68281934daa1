package containers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// nsRequest says which namespaces a pod gets of its own, each kept alive by a mount of it on a file; "" is the host's.
type nsRequest struct {
	net, ipc, uts string // files
	hostname      string
	sysctls       map[string]string
}

// makeNamespaces makes them all on one thread that ends afterwards, so that no other goroutine ever runs in them. Pods hold
// their namespaces by mounts rather than by a process only: the containers can then start beside the pause container
// instead of after it, and a killed pause process takes no address with it.
func makeNamespaces(req nsRequest) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in other namespaces now and must end with this goroutine
		done <- makeNamespacesHere(req)
	}()
	return <-done
}

func makeNamespacesHere(req nsRequest) error {
	var flags int
	for _, ns := range []struct {
		file string
		flag int
	}{{req.net, unix.CLONE_NEWNET}, {req.ipc, unix.CLONE_NEWIPC}, {req.uts, unix.CLONE_NEWUTS}} {
		if ns.file != "" {
			flags |= ns.flag
		}
	}
	if flags == 0 {
		return nil
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("making the pod's namespaces: %w", err)
	}
	if req.net != "" {
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("bringing up the pod's loopback: %w", err)
		}
		// As docker and containerd do: inside its own network a pod may bind any port and ping as any user.
		_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0o644)
		_ = os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0o644)
	}
	if req.uts != "" && req.hostname != "" {
		if err := unix.Sethostname([]byte(req.hostname)); err != nil {
			return fmt.Errorf("setting the pod's hostname to %q: %w", req.hostname, err)
		}
	}
	for name, value := range req.sysctls {
		if err := setSysctl(req, name, value); err != nil {
			return err
		}
	}
	for _, ns := range []struct{ file, kind string }{{req.net, "net"}, {req.ipc, "ipc"}, {req.uts, "uts"}} {
		if ns.file == "" {
			continue
		}
		if err := pin(fmt.Sprintf("/proc/%d/task/%d/ns/%s", os.Getpid(), unix.Gettid(), ns.kind), ns.file); err != nil {
			return err
		}
	}
	return nil
}

func setSysctl(req nsRequest, name, value string) error {
	file := filepath.Join("/proc/sys", strings.ReplaceAll(strings.ReplaceAll(name, "/", "\x00"), ".", "/"))
	file = strings.ReplaceAll(file, "\x00", ".")
	namespaced := strings.HasPrefix(file, "/proc/sys/net/") && req.net != "" ||
		(strings.HasPrefix(file, "/proc/sys/kernel/shm") || strings.HasPrefix(file, "/proc/sys/kernel/msg") ||
			file == "/proc/sys/kernel/sem" || strings.HasPrefix(file, "/proc/sys/fs/mqueue/")) && req.ipc != ""
	if !namespaced || strings.Contains(name, "..") {
		return fmt.Errorf("sysctl %q is not one of a pod's own: it would change the whole node", name)
	}
	if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
		return fmt.Errorf("setting sysctl %s=%s: %w", name, value, err)
	}
	return nil
}

func pin(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("keeping a namespace: %w", err)
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("keeping a namespace: %w", err)
	}
	_ = f.Close()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("keeping a namespace at %s: %w", to, err)
	}
	return nil
}

// unpin lets a namespace go; one that is not there is gone already.
func unpin(file string) error {
	if file == "" {
		return nil
	}
	if err := unmount(file); err != nil {
		return err
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", file, err)
	}
	return nil
}

// pinned tells whether a file holds a namespace.
func pinned(file string) bool {
	var st unix.Statfs_t
	const nsfsMagic = 0x6e736673
	return unix.Statfs(file, &st) == nil && st.Type == nsfsMagic
}

// unmount takes every mount off a path, also those that are in use.
func unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue // another one may be below
		case errors.Is(err, unix.EINVAL), errors.Is(err, fs.ErrNotExist):
			return nil
		}
		return fmt.Errorf("unmounting %s: %w", path, err)
	}
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req)
}
