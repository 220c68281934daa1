// Package nstest lets tests of the node's network run for real without touching the machine: the test binary runs again in
// network and mount namespaces of its own, which serve as the "host", and tests make further namespaces to serve as pods and
// as the world outside. Everything disappears with the process, also when it is killed.
package nstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const inside = "SHIPLOG_TEST_NAMESPACES"

// Main runs a package's tests in namespaces of their own when the caller is root, and as they are otherwise (tests that need
// the namespaces call Need and fail). Call it from TestMain: os.Exit(nstest.Main(m)).
func Main(m *testing.M) int {
	if os.Getenv(inside) != "" {
		if err := settleIn(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}
	if os.Geteuid() != 0 {
		return m.Run()
	}
	// The child must die with this process, and the kernel ties that to the thread that started it.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, "running the tests in namespaces of their own:", err)
		return 1
	}
}

func settleIn() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	return loopbackUp()
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding the loopback device: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bringing the loopback device up: %w", err)
	}
	return nil
}

// Need fails the test unless it runs inside Main's namespaces and the programs are installed.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Fatal("this test makes network namespaces and iptables rules: run it as root (and the package's TestMain must call nstest.Main)")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("this test needs %s: install it (Debian: apt-get install iptables iproute2 conntrack ipset)", program)
		}
	}
}

// NS is a network namespace that a file keeps alive.
type NS struct {
	Path string // of the file
}

// New makes a network namespace with its loopback device up, for the length of the test.
func New(t testing.TB) *NS {
	t.Helper()
	ns := &NS{Path: filepath.Join(t.TempDir(), "net")}
	if err := os.WriteFile(ns.Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := onLockedThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", ns.Path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("keeping the network namespace: %w", err)
		}
		return loopbackUp()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// Close lets the namespace go; with it go its devices. Closing twice is harmless.
func (ns *NS) Close() { _ = unix.Unmount(ns.Path, unix.MNT_DETACH) }

// Do runs the function in the namespace, on a thread of its own. Sockets that it opens stay in the namespace; goroutines that
// it starts do not run there.
func (ns *NS) Do(f func() error) error {
	return onLockedThread(func() error {
		fd, err := unix.Open(ns.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening the network namespace: %w", err)
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering the network namespace: %w", err)
		}
		return f()
	})
}

// onLockedThread never unlocks the thread: it ends with the goroutine, so no other one can find itself in a foreign namespace.
func onLockedThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}
