// Package testimage makes container images from what is on the machine, without network and without a container engine: from a
// Go main package of this module, or from busybox. The demo and the end-to-end tests run what it makes.
//
// The same input gives the same bytes: files and configuration carry no time.
package testimage

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Option changes an image.
type Option func(*recipe)

// Env adds variables ("NAME=value") to the image's environment.
func Env(vars ...string) Option { return func(r *recipe) { r.env = append(r.env, vars...) } }

// Cmd sets the arguments that a pod may replace by its own.
func Cmd(args ...string) Option { return func(r *recipe) { r.cmd = args } }

// User sets who the program runs as ("65532:65532" for programs built from Go, root for busybox).
func User(user string) Option { return func(r *recipe) { r.user = user } }

// Files adds files: their contents by absolute path.
func Files(contents map[string]string) Option {
	return func(r *recipe) {
		for file, content := range contents {
			r.files = append(r.files, entry{name: file, mode: 0o644, data: []byte(content)})
		}
	}
}

// OCI writes an archive of an OCI image layout instead of what `docker save` writes.
func OCI() Option { return func(r *recipe) { r.oci = true } }

// ErrNoBusybox says that there is no busybox that runs in an image of its own.
var ErrNoBusybox = errors.New("no statically linked busybox found (Debian: apt-get install busybox-static)")

type recipe struct {
	entrypoint, cmd, env []string
	user                 string
	files                []entry
	oci                  bool
}

// entry is a file, a directory or a symbolic link of the image.
type entry struct {
	name string // absolute
	mode int64
	data []byte
	link string // where a symbolic link leads
	dir  bool
}

// FromGo builds the main package (an import path, or a path relative to the working directory that begins with a dot), and writes
// an archive with an image of the reference that holds the program as its entrypoint and nothing else. It needs the go command
// and a working directory inside the module.
func FromGo(ctx context.Context, pkg, ref, outTar string, options ...Option) error {
	dir, err := os.MkdirTemp("", "testimage-")
	if err != nil {
		return fmt.Errorf("building image %s: %w", ref, err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "program")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", program, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s for image %s: %w: %s", pkg, ref, err, bytes.TrimSpace(out))
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("building image %s: %w", ref, err)
	}
	inside := "/" + path.Base(pkg)
	r := recipe{
		entrypoint: []string{inside}, user: "65532:65532",
		files: append(standard(), entry{name: inside, mode: 0o755, data: data}),
	}
	return r.write(ref, outTar, options)
}

// Busybox writes an archive with an image of the reference that holds the machine's busybox with all its applets.
func Busybox(ctx context.Context, ref, outTar string, options ...Option) error {
	program, data, err := findBusybox()
	if err != nil {
		return fmt.Errorf("building image %s: %w", ref, err)
	}
	list, err := exec.CommandContext(ctx, program, "--list").Output()
	if err != nil {
		return fmt.Errorf("building image %s: listing the applets of %s: %w", ref, program, err)
	}
	r := recipe{cmd: []string{"sh"}, files: append(standard(), entry{name: "/bin", mode: 0o755, dir: true}, entry{name: "/bin/busybox", mode: 0o755, data: data})}
	for applet := range strings.FieldsSeq(string(list)) {
		if applet != "busybox" && !strings.Contains(applet, "/") {
			r.files = append(r.files, entry{name: "/bin/" + applet, link: "/bin/busybox"})
		}
	}
	return r.write(ref, outTar, options)
}

func findBusybox() (program string, data []byte, err error) {
	for _, program := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		data, err := os.ReadFile(program)
		if err != nil {
			continue
		}
		if static(data) {
			return program, data, nil
		}
	}
	return "", nil, ErrNoBusybox
}

// static says whether a program runs without a loader and libraries.
func static(data []byte) bool {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return false
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}

// standard are the files that programs expect everywhere.
func standard() []entry {
	return []entry{
		{name: "/etc", mode: 0o755, dir: true},
		{name: "/etc/passwd", mode: 0o644, data: []byte("root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/home/nonroot:/bin/sh\n")},
		{name: "/etc/group", mode: 0o644, data: []byte("root:x:0:\nnonroot:x:65532:\n")},
		{name: "/root", mode: 0o700, dir: true},
		{name: "/tmp", mode: 0o1777, dir: true},
	}
}

func (r recipe) write(ref, outTar string, options []Option) error {
	for _, o := range options {
		o(&r)
	}
	tag, err := name.NewTag(ref, name.WithDefaultRegistry("docker.io"))
	if err != nil {
		return fmt.Errorf("image reference %q: %w", ref, err)
	}
	image, err := r.image()
	if err != nil {
		return fmt.Errorf("assembling image %s: %w", ref, err)
	}
	if err := os.MkdirAll(filepath.Dir(outTar), 0o755); err != nil {
		return fmt.Errorf("writing image %s: %w", ref, err)
	}
	// Nobody shall find half an archive under the name.
	partial := outTar + ".partial"
	defer os.Remove(partial)
	if r.oci {
		err = writeOCI(partial, tag, image)
	} else {
		err = tarball.WriteToFile(partial, tag, image)
	}
	if err == nil {
		err = os.Rename(partial, outTar)
	}
	if err != nil {
		return fmt.Errorf("writing image %s to %s: %w", ref, outTar, err)
	}
	return nil
}

func (r recipe) image() (v1.Image, error) {
	content, err := tarOf(r.files)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint, config.Config.Cmd, config.Config.User = r.entrypoint, r.cmd, r.user
	config.Config.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, r.env...)
	config.Config.WorkingDir = "/"
	return mutate.ConfigFile(image, config)
}

func tarOf(files []entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: strings.TrimPrefix(f.name, "/"), Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
		switch {
		case f.dir:
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		case f.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// writeOCI writes a tar archive of an OCI image layout whose index names the image by its reference.
func writeOCI(out string, tag name.Tag, image v1.Image) error {
	dir, err := os.MkdirTemp("", "testimage-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := path.AppendImage(image, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": tag.Name(), "io.containerd.image.name": tag.Name(),
	})); err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	return errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), f.Close())
}
