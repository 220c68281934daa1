package images_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/shiplog/shiplog/runtime/images"
	"github.com/shiplog/shiplog/runtime/internal/runtimetest"
)

func open(t *testing.T, opts images.Options) *images.Store {
	t.Helper()
	s, err := images.Open(t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func small(t *testing.T) v1.Image {
	t.Helper()
	return runtimetest.Image(t, v1.Config{Cmd: []string{"/hello"}, Env: []string{"A=b"}},
		runtimetest.Layer(t, runtimetest.File{Name: "etc/"}, runtimetest.File{Name: "etc/a", Content: "one"}, runtimetest.File{Name: "hello", Content: "hi", Mode: 0o755}),
		runtimetest.Layer(t, runtimetest.File{Name: "etc/b", Content: "two"}, runtimetest.File{Name: "etc/.wh.a"}))
}

// ociArchive writes an image as a tar of an OCI layout.
func ociArchive(t *testing.T, ref string, img v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref})); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "oci.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return file
}

func gzipped(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "image.tar.gz")
	if err := os.WriteFile(out, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLoad(t *testing.T) {
	img := small(t)
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{
		"docker save":          runtimetest.Archive(t, "hello:v1", img),
		"docker save, gzipped": gzipped(t, runtimetest.Archive(t, "hello:v1", img)),
		"OCI":                  ociArchive(t, "docker.io/library/hello:v1", img),
		"OCI, gzipped":         gzipped(t, ociArchive(t, "docker.io/library/hello:v1", img)),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := images.Open(dir, images.Options{})
			if err != nil {
				t.Fatal(err)
			}
			loaded, err := s.Load(t.Context(), file)
			if err != nil {
				t.Fatal(err)
			}
			if len(loaded) != 1 || loaded[0].ID != id.String() || strings.Join(loaded[0].Tags, ",") != "docker.io/library/hello:v1" {
				t.Fatalf("loaded %+v, want %s as docker.io/library/hello:v1", loaded, id)
			}
			again, err := images.Open(dir, images.Options{}) // another process
			if err != nil {
				t.Fatal(err)
			}
			for _, ref := range []string{"hello:v1", "docker.io/library/hello:v1", "library/hello:v1", id.String(), id.Hex[:12]} {
				if i, err := again.Resolve(ref); err != nil || i.ID != id.String() {
					t.Errorf("%s means %s, %v", ref, i.ID, err)
				}
			}
			i, _ := again.Resolve("hello:v1")
			config, err := again.Config(i)
			if err != nil || strings.Join(config.Config.Cmd, " ") != "/hello" {
				t.Errorf("its configuration is %+v, %v", config, err)
			}
			layers := again.Layers(i)
			if len(layers) != 2 {
				t.Fatalf("it has %d layers, want 2", len(layers))
			}
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(layers[0], "etc/a"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
				t.Errorf("what the upper layer removes is %o %d, %v; want a character device 0:0", st.Mode, st.Rdev, err)
			}
			if data, err := os.ReadFile(filepath.Join(layers[1], "etc/a")); err != nil || string(data) != "one" {
				t.Errorf("the lower layer has %q, %v", data, err)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	s := open(t, images.Options{})
	write := func(content string) string {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	var other bytes.Buffer
	w := tar.NewWriter(&other)
	_ = w.WriteHeader(&tar.Header{Name: "readme", Size: 2, Mode: 0o644})
	_, _ = w.Write([]byte("hi"))
	_ = w.Close()
	for name, file := range map[string]string{"text": write(strings.Repeat("not a tar", 200)), "empty": write(""), "another tar": write(other.String())} {
		if _, err := s.Load(t.Context(), file); !errors.Is(err, images.ErrArchive) {
			t.Errorf("%s: %v, want ErrArchive", name, err)
		}
	}
	// One byte of a layer is another: the digest says so.
	data, err := os.ReadFile(runtimetest.Archive(t, "hello:v1", runtimetest.Image(t, v1.Config{}, runtimetest.TarLayer(t, plainTar(t, "the content of a file")))))
	if err != nil {
		t.Fatal(err)
	}
	broken := flipLayer(t, data)
	if _, err := s.Load(t.Context(), write(broken)); err == nil {
		t.Error("a damaged layer was loaded")
	}
	if len(s.List()) != 0 {
		t.Errorf("it is there: %+v", s.List())
	}
}

func plainTar(t *testing.T, content string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "file", Size: int64(len(content)), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(content))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// flipLayer rewrites an archive with the layers' content replaced by another well-formed layer.
func flipLayer(t *testing.T, archive []byte) string {
	t.Helper()
	in := tar.NewReader(bytes.NewReader(archive))
	var buf bytes.Buffer
	out := tar.NewWriter(&buf)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, ".tar.gz") {
			data = plainTar(t, "another content")
			h.Size = int64(len(data))
		}
		if err := out.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		_, _ = out.Write(data)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// TestLayersStayInside unpacks what a hostile image might hold.
func TestLayersStayInside(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	type entry = tar.Header
	for name, entries := range map[string][]entry{
		"dots":               {{Name: "../../../../.." + secret, Typeflag: tar.TypeReg}},
		"absolute":           {{Name: secret, Typeflag: tar.TypeReg}},
		"through a link":     {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "out/secret", Typeflag: tar.TypeReg}},
		"through dots":       {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "../../../../../../.." + outside}, {Name: "out/secret", Typeflag: tar.TypeReg}},
		"over a link":        {{Name: "f", Typeflag: tar.TypeSymlink, Linkname: secret}, {Name: "f", Typeflag: tar.TypeReg}},
		"whiteout of a link": {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "out/.wh.secret", Typeflag: tar.TypeReg}},
		"hard link":          {{Name: "h", Typeflag: tar.TypeLink, Linkname: secret}, {Name: "h", Typeflag: tar.TypeReg}},
	} {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			w := tar.NewWriter(&buf)
			for _, e := range entries {
				e.Mode = 0o666
				if e.Typeflag == tar.TypeReg {
					e.Size = 4
				}
				if err := w.WriteHeader(&e); err != nil {
					t.Fatal(err)
				}
				if e.Typeflag == tar.TypeReg {
					_, _ = w.Write([]byte("evil"))
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			s := open(t, images.Options{})
			_, _ = s.Load(t.Context(), runtimetest.Archive(t, "evil:1", runtimetest.Image(t, v1.Config{}, runtimetest.TarLayer(t, buf.Bytes()))))
			info, err := os.Lstat(secret)
			data, rerr := os.ReadFile(secret)
			if err != nil || rerr != nil || string(data) != "mine" || info.Mode().Perm() != 0o644 {
				t.Errorf("the file outside is now %q %v, %v %v", data, info, err, rerr)
			}
		})
	}
}

func TestLayerAttributes(t *testing.T) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []tar.Header{
		{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: "d/set", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 12, Gid: 34},
		{Name: "d/hard", Typeflag: tar.TypeLink, Linkname: "d/set"},
		{Name: "d/fifo", Typeflag: tar.TypeFifo, Mode: 0o600},
		{Name: "d/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Name: "d/x", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.user.color": "blue"}, Format: tar.FormatPAX},
		{Name: "d/.wh..wh..opq", Typeflag: tar.TypeReg},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, images.Options{})
	if _, err := s.Load(t.Context(), runtimetest.Archive(t, "attrs:1", runtimetest.Image(t, v1.Config{}, runtimetest.TarLayer(t, buf.Bytes())))); err != nil {
		t.Fatal(err)
	}
	i, err := s.Resolve("attrs:1")
	if err != nil {
		t.Fatal(err)
	}
	root := s.Layers(i)[0]
	stat := func(name string) (st unix.Stat_t) {
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	if st := stat("d/set"); st.Mode&0o7777 != 0o4755 || st.Uid != 12 || st.Gid != 34 || st.Nlink != 2 || st.Ino != stat("d/hard").Ino {
		t.Errorf("the file is %+v", st)
	}
	if st := stat("d"); st.Mode&0o7777 != 0o1777 {
		t.Errorf("the directory is %o", st.Mode)
	}
	if st := stat("d/null"); st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("the device is %+v", st)
	}
	if st := stat("d/fifo"); st.Mode&unix.S_IFMT != unix.S_IFIFO {
		t.Errorf("the pipe is %o", st.Mode)
	}
	value := make([]byte, 8)
	if n, err := unix.Lgetxattr(filepath.Join(root, "d"), "trusted.overlay.opaque", value); err != nil || string(value[:n]) != "y" {
		t.Errorf("the directory is not opaque: %q %v", value[:max(n, 0)], err)
	}
	if n, err := unix.Lgetxattr(filepath.Join(root, "d/x"), "user.color", value); err == nil && string(value[:n]) != "blue" {
		t.Errorf("the attribute is %q", value[:n])
	}
}

// pullable serves an image from a registry in this process; with a password if one is given.
func pullable(t *testing.T, ref string, img v1.Image, password string) (host string, requests *atomic.Int64) {
	t.Helper()
	requests = &atomic.Int64{}
	inner := registry.New()
	var locked atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") && r.Method == http.MethodGet {
			requests.Add(1)
		}
		if _, given, _ := r.BasicAuth(); locked.Load() && given != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	host = strings.TrimPrefix(srv.URL, "http://")
	to, err := name.ParseReference(host + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, img, remote.WithAuth(authn.Anonymous)); err != nil {
		t.Fatal(err)
	}
	locked.Store(password != "")
	requests.Store(0)
	return host, requests
}

func TestPull(t *testing.T) {
	img := small(t)
	host, requests := pullable(t, "team/hello:v1", img, "")
	s := open(t, images.Options{})
	var mu sync.Mutex
	complete := map[string]bool{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, err := s.Pull(context.Background(), host+"/team/hello:v1", images.Credentials{}, func(p images.Progress) {
				mu.Lock()
				defer mu.Unlock()
				complete[p.Layer] = complete[p.Layer] || p.Complete
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(complete) != 2 {
		t.Errorf("progress spoke of %d layers, want 2", len(complete))
	}
	digest, _ := img.Digest()
	i, err := s.Resolve(host + "/team/hello:v1")
	if err != nil || i.Ref() != host+"/team/hello@"+digest.String() {
		t.Errorf("it is %s, %v; want the digest %s", i.Ref(), err, digest)
	}
	layers := 0
	for range i.DiffIDs {
		layers++
	}
	// Each layer once; the configuration is small and is asked for by each pull.
	if got := requests.Load(); got > int64(layers+8) {
		t.Errorf("eight pulls at once made %d requests for blobs", got)
	}
	if _, err := s.Resolve(host + "/team/hello@" + digest.String()); err != nil {
		t.Errorf("by its digest: %v", err)
	}
}

func TestPullSaysWhatIsWrong(t *testing.T) {
	img := small(t)
	host, _ := pullable(t, "team/hello:v1", img, "open sesame")
	credentials, err := images.ParseDockerConfigJSON([]byte(`{"auths":{"` + host + `/team":{"username":"u","password":"open sesame"},"` + host + `":{"username":"u","password":"wrong"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, images.Options{})
	for _, c := range []struct {
		what, ref string
		auth      images.Credentials
		want      error
	}{
		{"without a password", host + "/team/hello:v1", images.Credentials{}, images.ErrUnauthorized},
		{"another repository's password", host + "/other/hello:v1", credentials, images.ErrUnauthorized},
		{"the most specific password", host + "/team/hello:v1", credentials, nil},
		{"a tag that is not there", host + "/team/hello:v2", credentials, images.ErrNotInRegistry},
		{"nobody there", "127.0.0.1:1/hello", images.Credentials{}, images.ErrUnreachable},
		{"no name", "Hello World", images.Credentials{}, images.ErrInvalidName},
	} {
		if _, err := s.Pull(t.Context(), c.ref, c.auth, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	if _, err := s.Resolve("absent"); !errors.Is(err, images.ErrNotFound) || !strings.Contains(err.Error(), "shiplog image load") {
		t.Errorf("an image that is not there: %v, want ErrNotFound and what to do", err)
	}
}

func TestMirrorComesFirst(t *testing.T) {
	host, _ := pullable(t, "hub/library/hello:v1", small(t), "")
	s := open(t, images.Options{Mirrors: map[string][]string{"docker.io": {"http://127.0.0.1:1", "http://" + host + "/hub"}}})
	i, err := s.Pull(t.Context(), "hello:v1", images.Credentials{}, nil)
	if err != nil || len(i.Tags) != 1 || i.Tags[0] != "docker.io/library/hello:v1" {
		t.Errorf("pulled %+v, %v; want docker.io/library/hello:v1 from the second mirror", i, err)
	}
}

func TestRemoveKeepsWhatOthersNeed(t *testing.T) {
	shared := runtimetest.Layer(t, runtimetest.File{Name: "shared", Content: "x"})
	one := runtimetest.Image(t, v1.Config{Cmd: []string{"1"}}, shared)
	two, err := mutate.AppendLayers(runtimetest.Image(t, v1.Config{Cmd: []string{"2"}}, shared), runtimetest.Layer(t, runtimetest.File{Name: "own", Content: "y"}))
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, images.Options{})
	for ref, img := range map[string]v1.Image{"one:1": one, "two:1": two, "two:2": two} {
		if _, err := s.Load(t.Context(), runtimetest.Archive(t, ref, img)); err != nil {
			t.Fatal(err)
		}
	}
	two1, _ := s.Resolve("two:1")
	layers := s.Layers(two1)
	if said, err := s.Remove(t.Context(), "two:1", nil); err != nil || strings.Join(said, ";") != "untagged docker.io/library/two:1" {
		t.Errorf("removing one of two names: %v, %v", said, err)
	}
	if _, err := s.Remove(t.Context(), "two:2", func(string) bool { return true }); !errors.Is(err, images.ErrInUse) {
		t.Errorf("removing an image in use: %v, want ErrInUse", err)
	}
	if _, err := s.Remove(t.Context(), "two:2", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(layers[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its own layer is left: %v", err)
	}
	if _, err := os.Stat(layers[1]); err != nil {
		t.Errorf("the layer that another image needs is gone: %v", err)
	}
}

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"busybox": "docker.io/library/busybox:latest", "a/b:1": "docker.io/a/b:1", "localhost:5000/a": "localhost:5000/a:latest",
		"r.example/a@sha256:" + strings.Repeat("a", 64):   "r.example/a@sha256:" + strings.Repeat("a", 64),
		"r.example/a:1@sha256:" + strings.Repeat("b", 64): "r.example/a@sha256:" + strings.Repeat("b", 64),
	} {
		if got, err := images.Normalize(in); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", in, got, err, want)
		}
	}
	if _, err := images.Normalize("UPPER"); !errors.Is(err, images.ErrInvalidName) {
		t.Errorf("UPPER: %v", err)
	}
}
