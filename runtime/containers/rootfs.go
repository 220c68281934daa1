package containers

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// mountRootfs lays a writable layer of the bundle's own over an image's layers (the uppermost first) at bundle/rootfs.
func mountRootfs(bundle string, layers []string) (string, error) {
	rootfs, upper, work := filepath.Join(bundle, "rootfs"), filepath.Join(bundle, "upper"), filepath.Join(bundle, "work")
	for _, d := range []string{rootfs, upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return "", fmt.Errorf("making the container's file system: %w", err)
		}
	}
	if len(layers) == 0 { // an image of nothing
		empty := filepath.Join(bundle, "empty")
		if err := os.Mkdir(empty, 0o755); err != nil {
			return "", fmt.Errorf("making the container's file system: %w", err)
		}
		layers = []string{empty}
	}
	// volatile: what a container writes into its own layer does not outlive the machine, so it is never worth a sync.
	err := mountOverlay(rootfs, upper, work, layers, ",volatile")
	if errors.Is(err, unix.EINVAL) { // kernels before 5.10
		err = mountOverlay(rootfs, upper, work, layers, "")
	}
	if err != nil {
		return "", fmt.Errorf("mounting the container's file system: %w: the data directory must be on a file system that overlayfs can write to (ext4, xfs, btrfs, tmpfs)", err)
	}
	return rootfs, nil
}

func mountOverlay(target, upper, work string, layers []string, more string) error {
	options := func(lower []string) string {
		return "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + upper + ",workdir=" + work + more
	}
	if o := options(layers); len(o) < os.Getpagesize() {
		return unix.Mount("overlay", target, "overlay", 0, o)
	}
	// mount(2) takes one page of options: name the layers relative to their common directory.
	base := filepath.Dir(filepath.Dir(layers[0]))
	relative := make([]string, len(layers))
	for i, l := range layers {
		r, err := filepath.Rel(base, l)
		if err != nil {
			return err
		}
		relative[i] = r
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // its working directory becomes another: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- err
			return
		}
		if err := unix.Chdir(base); err != nil {
			done <- err
			return
		}
		done <- unix.Mount("overlay", target, "overlay", 0, options(relative))
	}()
	return <-done
}
