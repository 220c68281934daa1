package volumes_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/runtime/volumes"
)

// world is what volumes are made of, in memory.
type world struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	claims     map[string]*corev1.PersistentVolumeClaim
	pvs        map[string]*corev1.PersistentVolume
	issued     int
	now        time.Time
	away       bool
}

func (w *world) ConfigMap(_, name string) (*corev1.ConfigMap, bool) {
	c, ok := w.configMaps[name]
	return c, ok
}

func (w *world) Secret(_, name string) (*corev1.Secret, bool) { s, ok := w.secrets[name]; return s, ok }

func (w *world) Claim(_, name string) (*corev1.PersistentVolumeClaim, bool) {
	c, ok := w.claims[name]
	return c, ok
}

func (w *world) PersistentVolume(name string) (*corev1.PersistentVolume, bool) {
	p, ok := w.pvs[name]
	return p, ok
}

func (w *world) Token(_ context.Context, _ *corev1.Pod, audience string, seconds int64) (volumes.Token, error) {
	if w.away {
		return volumes.Token{}, errors.New("away")
	}
	w.issued++
	return volumes.Token{Value: strings.Repeat("t", w.issued) + audience, Issued: w.now, Expires: w.now.Add(time.Duration(seconds) * time.Second)}, nil
}

func (w *world) Field(pod *corev1.Pod, path string) (string, error) {
	if path == "metadata.name" {
		return pod.Name, nil
	}
	return "", errors.New("unknown field " + path)
}

func (w *world) Resource(*corev1.Pod, *corev1.ResourceFieldSelector, string) (string, error) {
	return "7", nil
}

type fixture struct {
	*world
	t   *testing.T
	dir string
	m   *volumes.Manager
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts and gives files away: it must be run as root")
	}
	w := &world{
		configMaps: map[string]*corev1.ConfigMap{}, secrets: map[string]*corev1.Secret{}, claims: map[string]*corev1.PersistentVolumeClaim{},
		pvs: map[string]*corev1.PersistentVolume{}, now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	f := &fixture{world: w, t: t, dir: t.TempDir()}
	f.m = volumes.New(volumes.Config{Dir: f.dir, Objects: w, Tokens: w, Fields: w, Now: func() time.Time { return w.now }})
	t.Cleanup(func() {
		if err := f.m.Remove("u"); err != nil {
			t.Error(err)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), f.dir) {
			t.Errorf("mounts are left, %v", err)
		}
		if left, _ := os.ReadDir(f.dir); len(left) > 0 {
			t.Errorf("files are left: %v", left)
		}
	})
	return f
}

func pod(vs ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "u"},
		Spec:       corev1.PodSpec{Volumes: vs, ServiceAccountName: "default", Containers: []corev1.Container{{Name: "c"}}},
	}
}

func (f *fixture) setup(p *corev1.Pod) time.Time {
	f.t.Helper()
	again, err := f.m.Setup(f.t.Context(), p)
	if err != nil {
		f.t.Fatal(err)
	}
	return again
}

func (f *fixture) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir, "u", "volumes"}, parts...)...)
}

func (f *fixture) read(parts ...string) string {
	f.t.Helper()
	data, err := os.ReadFile(f.path(parts...))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(data)
}

func (f *fixture) mode(parts ...string) fs.FileMode {
	f.t.Helper()
	info, err := os.Stat(f.path(parts...))
	if err != nil {
		f.t.Fatal(err)
	}
	return info.Mode()
}

func configMapVolume(name string, items ...corev1.KeyToPath) corev1.Volume {
	return corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Items: items}}}
}

func TestConfigMapFollowsItsObjectAtOnce(t *testing.T) {
	f := newFixture(t)
	f.configMaps["m"] = &corev1.ConfigMap{Data: map[string]string{"a": "1", "b": "1"}, BinaryData: map[string][]byte{"c": {0, 1}}}
	p := pod(configMapVolume("m"))
	f.setup(p)
	if f.read("v", "a") != "1" || f.read("v", "c") != "\x00\x01" || f.mode("v", "a").Perm() != 0o644 {
		t.Errorf("the files are %q %q %v", f.read("v", "a"), f.read("v", "c"), f.mode("v", "a"))
	}
	before, err := os.Readlink(f.path("v", "..data"))
	if err != nil {
		t.Fatal(err)
	}
	f.setup(p)
	if again, _ := os.Readlink(f.path("v", "..data")); again != before {
		t.Error("nothing changed and the files were made anew")
	}
	// A reader that holds the old version keeps all of it while the new one is put in place by one rename.
	old, err := os.Open(f.path("v", "..data", "b"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close() }()
	f.configMaps["m"] = &corev1.ConfigMap{Data: map[string]string{"a": "2", "d": "2"}}
	if _, err := f.m.Refresh(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if f.read("v", "a") != "2" || f.read("v", "d") != "2" {
		t.Error("the files did not follow")
	}
	if _, err := os.Lstat(f.path("v", "b")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file whose key is gone is there: %v", err)
	}
	delete(f.configMaps, "m")
	if _, err := f.m.Refresh(t.Context(), p); err != nil || f.read("v", "a") != "2" {
		t.Errorf("the object is gone: %v; the files must stay", err)
	}
}

func TestItemsModesAndWhatIsMissing(t *testing.T) {
	f := newFixture(t)
	f.configMaps["m"] = &corev1.ConfigMap{Data: map[string]string{"a": "1"}}
	mode := int32(0o400)
	f.setup(pod(configMapVolume("m", corev1.KeyToPath{Key: "a", Path: "deep/er/file", Mode: &mode})))
	if f.read("v", "deep/er/file") != "1" || f.mode("v", "deep/er/file").Perm() != 0o400 {
		t.Errorf("the item is %q %v", f.read("v", "deep/er/file"), f.mode("v", "deep/er/file"))
	}
	yes := true
	for name, c := range map[string]struct {
		v    corev1.Volume
		want error
	}{
		"no object":           {configMapVolume("absent"), volumes.ErrMissing},
		"no key":              {configMapVolume("m", corev1.KeyToPath{Key: "b", Path: "b"}), volumes.ErrMissing},
		"optional, no object": {corev1.Volume{Name: "o", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}, Optional: &yes}}}, nil},
	} {
		if _, err := f.m.Setup(t.Context(), pod(c.v)); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := f.m.Setup(t.Context(), pod(configMapVolume("m", corev1.KeyToPath{Key: "a", Path: "../../../escaped"}))); err == nil {
		t.Error("a path that leaves the volume is accepted")
	}
}

func TestSecretsAreInMemoryAndTheGroups(t *testing.T) {
	f := newFixture(t)
	f.secrets["s"] = &corev1.Secret{Data: map[string][]byte{"k": []byte("x")}}
	mode, group := int32(0o400), int64(2000)
	p := pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: &mode}}})
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	f.setup(p)
	var st unix.Stat_t
	if err := unix.Stat(f.path("v", "k"), &st); err != nil || st.Gid != 2000 || st.Mode&0o777 != 0o440 {
		t.Errorf("the file is of group %d with %o, %v; want 2000 and 440", st.Gid, st.Mode&0o777, err)
	}
	var fst unix.Statfs_t
	if err := unix.Statfs(f.path("v"), &fst); err != nil || fst.Type != unix.TMPFS_MAGIC {
		t.Errorf("the secret is on a file system of type %x, %v", fst.Type, err)
	}
}

func TestProjectedTokenIsRefreshed(t *testing.T) {
	f := newFixture(t)
	f.configMaps["kube-root-ca.crt"] = &corev1.ConfigMap{Data: map[string]string{"ca.crt": "CA"}}
	seconds := int64(3600)
	p := pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}},
	}}}})
	again := f.setup(p)
	if want := f.now.Add(48 * time.Minute); !again.Equal(want) {
		t.Errorf("to be refreshed at %s, want %s", again, want)
	}
	if f.read("v", "token") != "t" || f.read("v", "ca.crt") != "CA" || f.read("v", "name") != "p" {
		t.Error("the files are wrong")
	}
	f.now = again.Add(-time.Second)
	if f.setup(p); f.issued != 1 {
		t.Error("a good token was replaced")
	}
	f.now, f.away = again.Add(time.Second), true
	if _, err := f.m.Refresh(t.Context(), p); err != nil || f.read("v", "token") != "t" {
		t.Errorf("the control plane is away and the worn token still good: %v", err)
	}
	f.away = false
	if _, err := f.m.Refresh(t.Context(), p); err != nil || f.read("v", "token") != "tt" {
		t.Errorf("the token is %q, %v; want a new one", f.read("v", "token"), err)
	}
}

func TestEmptyDir(t *testing.T) {
	f := newFixture(t)
	limit, group := resource.MustParse("1Mi"), int64(99)
	p := pod(
		corev1.Volume{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &limit}}})
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	f.setup(p)
	if m := f.mode("disk"); m.Perm() != 0o777 || m&fs.ModeSetgid == 0 {
		t.Errorf("the directory is %v", m)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(f.path("memory"), &st); err != nil || st.Type != unix.TMPFS_MAGIC || int64(st.Blocks)*st.Bsize != 1<<20 {
		t.Errorf("the memory is %d bytes of type %x, %v", int64(st.Blocks)*st.Bsize, st.Type, err)
	}
	if err := os.WriteFile(f.path("disk", "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.setup(p) // another process of the agent
	if _, err := os.Stat(f.path("disk", "kept")); err != nil {
		t.Errorf("what the pod wrote is gone: %v", err)
	}
}

func TestHostPathTypes(t *testing.T) {
	f := newFixture(t)
	host := t.TempDir()
	file := filepath.Join(host, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind corev1.HostPathType
		path string
		ok   bool
	}{
		{corev1.HostPathUnset, host, true},
		{corev1.HostPathDirectory, host, true},
		{corev1.HostPathDirectory, file, false},
		{corev1.HostPathDirectory, host + "/none", false},
		{corev1.HostPathDirectoryOrCreate, host + "/made", true},
		{corev1.HostPathFile, file, true},
		{corev1.HostPathFile, host, false},
		{corev1.HostPathFileOrCreate, host + "/madefile", true},
		{corev1.HostPathCharDev, "/dev/null", true},
		{corev1.HostPathBlockDev, "/dev/null", false},
		{corev1.HostPathSocket, file, false},
	} {
		_, err := f.m.Setup(t.Context(), pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: c.path, Type: &c.kind}}}))
		if (err == nil) != c.ok {
			t.Errorf("%s as %q: %v", c.path, c.kind, err)
		}
	}
}

func TestSubPathsStayInside(t *testing.T) {
	f := newFixture(t)
	outside := t.TempDir()
	p := pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	f.setup(p)
	if err := os.Symlink(outside, f.path("v", "evil")); err != nil {
		t.Fatal(err)
	}
	mount := func(sub, expr string, env ...corev1.EnvVar) (string, error) {
		c := &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/m", SubPath: sub, SubPathExpr: expr}}}
		ms, err := f.m.Mounts(p, c, env)
		if err != nil {
			return "", err
		}
		return ms[0].HostPath, nil
	}
	at, err := mount("", "logs/$(NAME)", corev1.EnvVar{Name: "NAME", Value: "one"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(at, "x"), []byte("y"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f.read("v", "logs/one/x") != "y" {
		t.Error("the sub path is not in the volume")
	}
	// What was found stays what is mounted, whatever becomes of the path.
	if err := errors.Join(os.Rename(f.path("v", "logs"), f.path("v", "moved")), os.Symlink(outside, f.path("v", "logs"))); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(at, "x")); err != nil || string(data) != "y" {
		t.Errorf("the mount leads elsewhere now: %q %v", data, err)
	}
	for _, sub := range []string{"evil", "evil/deeper", "../..", "/etc", "a/../../x"} {
		if got, err := mount(sub, ""); !errors.Is(err, volumes.ErrSubPath) {
			t.Errorf("%s is mounted as %s, %v; want ErrSubPath", sub, got, err)
		}
	}
	if _, err := mount("", "$(UNSET)"); err == nil || !strings.Contains(err.Error(), "UNSET") {
		t.Errorf("a variable that is not set: %v", err)
	}
}

func TestClaims(t *testing.T) {
	f := newFixture(t)
	host := t.TempDir()
	v := corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data", ReadOnly: true}}}
	if _, err := f.m.Setup(t.Context(), pod(v)); !errors.Is(err, volumes.ErrMissing) {
		t.Errorf("no claim: %v, want ErrMissing", err)
	}
	f.claims["data"] = &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
	f.pvs["pv"] = &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: host}}}}
	p := pod(v)
	f.setup(p)
	ms, err := f.m.Mounts(p, &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/data"}}}, nil)
	if err != nil || ms[0].HostPath != host || !ms[0].ReadOnly {
		t.Errorf("mounted %+v, %v; want %s read-only", ms, err, host)
	}
}
