package testimage

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const store = "github.com/shiplog/shiplog/examples/store"

// unpack extracts an image's files into a directory.
func unpack(t *testing.T, image v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	rc := mutate.Extract(image)
	defer rc.Close()
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(to, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, to)
		default:
			var f *os.File
			if f, err = os.OpenFile(to, os.O_CREATE|os.O_WRONLY, os.FileMode(h.Mode)); err == nil {
				_, err = io.Copy(f, r)
				f.Close()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestFromGo(t *testing.T) {
	out := filepath.Join(t.TempDir(), "images", "store.tar")
	if err := FromGo(t.Context(), store, "shiplog.local/store:9.9", out, Env("VERSION=9.9"), Files(map[string]string{"/etc/motd": "ahoy"})); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("shiplog.local/store:9.9")
	if err != nil {
		t.Fatal(err)
	}
	image, err := tarball.ImageFromPath(out, &tag)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := config.Config; !slices.Equal(c.Entrypoint, []string{"/store"}) || c.User != "65532:65532" || !slices.Contains(c.Env, "VERSION=9.9") {
		t.Errorf("the image's configuration is %+v", c)
	}
	root := unpack(t, image)
	if motd, err := os.ReadFile(filepath.Join(root, "etc/motd")); err != nil || string(motd) != "ahoy" {
		t.Errorf("%q, %v", motd, err)
	}
	program, err := os.ReadFile(filepath.Join(root, "store"))
	if err != nil || !static(program) {
		t.Errorf("the program does not run without libraries (%v)", err)
	}
	// The same again gives the same image
	again := out + "2"
	if err := FromGo(t.Context(), store, "shiplog.local/store:9.9", again, Env("VERSION=9.9"), Files(map[string]string{"/etc/motd": "ahoy"})); err != nil {
		t.Fatal(err)
	}
	second, err := tarball.ImageFromPath(again, &tag)
	if err != nil {
		t.Fatal(err)
	}
	d1, err1 := image.Digest()
	d2, err2 := second.Digest()
	if d1 != d2 || err1 != nil || err2 != nil {
		t.Errorf("two builds of one source differ: %v %v, %v %v", d1, d2, err1, err2)
	}
}

func TestFromGoSaysWhatIsWrong(t *testing.T) {
	out := filepath.Join(t.TempDir(), "x.tar")
	if err := FromGo(t.Context(), "./nowhere", "shiplog.local/x:1", out); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a missing package: %v", err)
	}
	if err := FromGo(t.Context(), store, "Not A Reference", out); err == nil || !strings.Contains(err.Error(), "Not A Reference") {
		t.Errorf("a bad reference: %v", err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a failed build left an archive")
	}
}

func TestBusybox(t *testing.T) {
	out := filepath.Join(t.TempDir(), "busybox.tar")
	if err := Busybox(t.Context(), "shiplog.local/busybox:1.0", out, OCI()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if msg, err := exec.Command("tar", "-xf", out, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, msg)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "shiplog.local/busybox:1.0" {
		t.Fatalf("the index is %+v", manifest)
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	root := unpack(t, image)
	said, err := exec.Command(filepath.Join(root, "bin/busybox"), "echo", "ahoy").Output()
	if err != nil || strings.TrimSpace(string(said)) != "ahoy" {
		t.Errorf("%q, %v", said, err)
	}
	if to, err := os.Readlink(filepath.Join(root, "bin/sh")); err != nil || to != "/bin/busybox" {
		t.Errorf("sh leads to %q, %v", to, err)
	}
}
