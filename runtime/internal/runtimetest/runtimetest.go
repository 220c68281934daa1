// Package runtimetest holds what the tests of the node's packages share: images built from what the machine has, checks that
// the machine can run containers, and checks that nothing is left behind.
package runtimetest

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/shiplog/shiplog/internal/testdisk"
	"github.com/shiplog/shiplog/runtime/images"
)

// BusyboxRef is the name of the image that Busybox builds.
const BusyboxRef = "docker.io/library/busybox:latest"

// File of a layer; the zero mode is 0644, a name that ends in a slash is a directory.
type File struct {
	Name, Content, Link string
	Mode                int64
	UID                 int
}

// Layer makes a layer of files.
func Layer(t testing.TB, files ...File) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Mode: f.Mode, Uid: f.UID, Typeflag: tar.TypeReg, Size: int64(len(f.Content))}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		switch {
		case strings.HasSuffix(f.Name, "/"):
			h.Typeflag, h.Size = tar.TypeDir, 0
			if f.Mode == 0 {
				h.Mode = 0o755
			}
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.Link, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(f.Content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return TarLayer(t, buf.Bytes())
}

// TarLayer makes a layer of a tar.
func TarLayer(t testing.TB, data []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Image makes an image of layers, for this machine.
func Image(t testing.TB, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", "amd64", config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// Busybox makes an image of the machine's static busybox with its applets, a passwd and a group file.
func Busybox(t testing.TB) v1.Image {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("this test needs a static busybox: apt-get install busybox-static: %v", err)
	}
	out, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		t.Fatalf("listing busybox's applets: %v", err)
	}
	files := []File{
		{Name: "bin/"},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "etc/"},
		{Name: "root/", Mode: 0o700},
		{Name: "bin/busybox", Content: string(program), Mode: 0o755},
		{Name: "etc/passwd", Content: "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/sh\n"},
		{Name: "etc/group", Content: "root:x:0:\nwww:x:33:\nextra:x:44:www\n"},
	}
	for _, applet := range strings.Fields(string(out)) {
		if applet != "busybox" {
			files = append(files, File{Name: "bin/" + applet, Link: "busybox"})
		}
	}
	return Image(t, v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin", "FROM_IMAGE=yes"}}, Layer(t, files...))
}

// Archive writes an image as "docker save" would.
func Archive(t testing.TB, ref string, img v1.Image) string {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(path, tag, img); err != nil {
		t.Fatal(err)
	}
	return path
}

// BusyboxStore opens an image store that holds busybox.
func BusyboxStore(t testing.TB, dir string) *images.Store {
	t.Helper()
	store, err := images.Open(dir, images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Resolve(BusyboxRef); err == nil {
		return store
	}
	if _, err := store.Load(context.Background(), Archive(t, BusyboxRef, Busybox(t))); err != nil {
		t.Fatal(err)
	}
	return store
}

// NeedContainers fails the test on a machine that cannot run containers.
func NeedContainers(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test runs containers and must be run as root")
	}
	for _, p := range []string{"runc", "conmon"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("this test runs containers: apt-get install runc conmon: %v", err)
		}
	}
	testdisk.Need(t)
}

// Dir makes a directory for a runtime: on the machine's disk rather than in t.TempDir, because its paths must stay short.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing %s: %v", dir, err)
		}
	})
	return dir
}

// NoTrace fails the test when mounts below dir, processes that name dir, control groups of root or namespaces in netnsDir are left.
func NoTrace(t testing.TB, dir, cgroupRoot, netnsDir string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir+"/") || (netnsDir != "" && strings.Contains(line, netnsDir+"/")) {
			t.Errorf("a mount is left: %s", strings.TrimSpace(line))
		}
	}
	if left, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", "*", cgroupRoot)); len(left) > 0 {
		t.Errorf("control groups are left: %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", cgroupRoot)); len(left) > 0 {
		t.Errorf("control groups are left: %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(netnsDir, "*")); netnsDir != "" && len(left) > 0 {
		t.Errorf("network namespaces are left: %v", left)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		cmdline, err := os.ReadFile(p)
		if err == nil && bytes.Contains(cmdline, []byte(dir+"/")) {
			t.Errorf("a process is left: %s", bytes.ReplaceAll(cmdline, []byte{0}, []byte(" ")))
		}
	}
}
