package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/runtime/containers"
)

// Config of a manager.
type Config struct {
	Dir     string // a directory a pod: <Dir>/<pod uid>/volumes/<name>
	Objects Objects
	Tokens  Tokens
	Fields  Fields
	Now     func() time.Time // default time.Now
	Logger  *slog.Logger
}

// Manager makes, refreshes and removes the volumes of pods. Calls that concern different pods can run side by side; those of
// one pod are the caller's to order.
type Manager struct {
	cfg Config

	mu     sync.Mutex
	tokens map[tokenKey]Token
}

type tokenKey struct {
	pod, audience string
	seconds       int64
}

// New returns a manager.
func New(cfg Config) *Manager {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Manager{cfg: cfg, tokens: map[tokenKey]Token{}}
}

func (m *Manager) podDir(uid string) string { return filepath.Join(m.cfg.Dir, uid) }

func (m *Manager) dir(pod *corev1.Pod, volume string) string {
	return filepath.Join(m.podDir(string(pod.UID)), "volumes", volume)
}

// Setup makes all volumes of a pod, those that are there already included: it can be called again. It returns when the
// volumes are to be refreshed at the latest. Errors are ErrMissing when an object is not there yet.
func (m *Manager) Setup(ctx context.Context, pod *corev1.Pod) (refresh time.Time, err error) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		again, err := m.setup(ctx, pod, v)
		if err != nil {
			return time.Time{}, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		if !again.IsZero() && (refresh.IsZero() || again.Before(refresh)) {
			refresh = again
		}
	}
	return refresh, nil
}

// Refresh makes the files of volumes anew where what they are made of has changed. A volume whose object is gone keeps what it has.
func (m *Manager) Refresh(ctx context.Context, pod *corev1.Pod) (refresh time.Time, err error) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.ConfigMap == nil && v.Secret == nil && v.DownwardAPI == nil && v.Projected == nil {
			continue
		}
		again, err := m.setup(ctx, pod, v)
		if err != nil {
			if errors.Is(err, ErrMissing) {
				continue
			}
			return time.Time{}, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		if !again.IsZero() && (refresh.IsZero() || again.Before(refresh)) {
			refresh = again
		}
	}
	return refresh, nil
}

func fsGroup(pod *corev1.Pod) int {
	if sc := pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		return int(*sc.FSGroup)
	}
	return -1
}

// tokenOwner is who may read a token where the pod has no fsGroup: the one user that all containers run as, if they do.
func tokenOwner(pod *corev1.Pod) int {
	uid := int64(-1)
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		var own *int64
		if pod.Spec.SecurityContext != nil {
			own = pod.Spec.SecurityContext.RunAsUser
		}
		if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
			own = c.SecurityContext.RunAsUser
		}
		if own == nil || i > 0 && uid != *own {
			return -1
		}
		uid = *own
	}
	return int(uid)
}

func (m *Manager) setup(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (time.Time, error) {
	dir := m.dir(pod, v.Name)
	switch {
	case v.EmptyDir != nil:
		return time.Time{}, emptyDir(dir, v.EmptyDir, fsGroup(pod))
	case v.HostPath != nil:
		return time.Time{}, hostPath(v.HostPath)
	case v.ConfigMap != nil, v.Secret != nil, v.DownwardAPI != nil, v.Projected != nil:
		p, again, err := m.payload(ctx, pod, v)
		if err != nil {
			return time.Time{}, err
		}
		if err := memoryDir(dir, v); err != nil {
			return time.Time{}, err
		}
		_, err = write(dir, p, owner{uid: tokenOwner(pod), gid: fsGroup(pod)})
		return again, err
	case v.PersistentVolumeClaim != nil:
		path, err := m.claimPath(pod, v.PersistentVolumeClaim.ClaimName)
		if err != nil {
			return time.Time{}, err
		}
		if fsGroup(pod) >= 0 {
			return time.Time{}, giveToGroup(path, fsGroup(pod), changeAlways(pod))
		}
		return time.Time{}, nil
	}
	return time.Time{}, errors.New("a volume of a kind that this node does not know: it has emptyDir, hostPath, configMap, secret, downwardAPI, projected and claims to hostPath or local volumes")
}

// claimPath is the directory of the node that a claim leads to.
func (m *Manager) claimPath(pod *corev1.Pod, name string) (string, error) {
	claim, ok := m.cfg.Objects.Claim(pod.Namespace, name)
	if !ok {
		return "", fmt.Errorf("persistentvolumeclaim %q: %w", name, ErrMissing)
	}
	if claim.Spec.VolumeName == "" || claim.Status.Phase != corev1.ClaimBound {
		return "", fmt.Errorf("persistentvolumeclaim %q is not bound to a volume yet: %w", name, ErrMissing)
	}
	pv, ok := m.cfg.Objects.PersistentVolume(claim.Spec.VolumeName)
	if !ok {
		return "", fmt.Errorf("persistentvolume %q: %w", claim.Spec.VolumeName, ErrMissing)
	}
	switch {
	case pv.Spec.HostPath != nil:
		return pv.Spec.HostPath.Path, hostPath(pv.Spec.HostPath)
	case pv.Spec.Local != nil:
		info, err := os.Stat(pv.Spec.Local.Path)
		if err != nil {
			return "", fmt.Errorf("persistentvolume %q: %w", pv.Name, err)
		}
		if !info.IsDir() {
			return "", fmt.Errorf("persistentvolume %q: %s is not a directory", pv.Name, pv.Spec.Local.Path)
		}
		return pv.Spec.Local.Path, nil
	}
	return "", fmt.Errorf("persistentvolume %q is of a kind that this node does not know: it has hostPath and local", pv.Name)
}

// memoryDir makes the directory of a volume of files. What may hold a secret is kept in memory, never on disk.
func memoryDir(dir string, v *corev1.Volume) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	secret := v.Secret != nil
	if v.Projected != nil {
		for _, s := range v.Projected.Sources {
			secret = secret || s.Secret != nil || s.ServiceAccountToken != nil
		}
	}
	if !secret || isTmpfs(dir) {
		return nil
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=64m"); err != nil {
		return fmt.Errorf("mounting memory: %w", err)
	}
	return nil
}

func isTmpfs(dir string) bool {
	var here, above unix.Stat_t
	if unix.Lstat(dir, &here) != nil || unix.Lstat(filepath.Dir(dir), &above) != nil {
		return false
	}
	return here.Dev != above.Dev
}

func emptyDir(dir string, s *corev1.EmptyDirVolumeSource, group int) error {
	_, err := os.Lstat(dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	mode := os.FileMode(0o777)
	if group >= 0 {
		mode |= os.ModeSetgid
	}
	if s.Medium == corev1.StorageMediumMemory && !isTmpfs(dir) {
		options := "mode=777"
		if s.SizeLimit != nil && !s.SizeLimit.IsZero() {
			options += fmt.Sprintf(",size=%d", s.SizeLimit.Value())
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
			return fmt.Errorf("mounting memory: %w", err)
		}
		fresh = true
	}
	if s.Medium != corev1.StorageMediumDefault && s.Medium != corev1.StorageMediumMemory {
		return fmt.Errorf("an emptyDir of medium %q: this node has the default and Memory", s.Medium)
	}
	if !fresh {
		return nil // it belongs to the pod now
	}
	if group >= 0 {
		if err := os.Chown(dir, -1, group); err != nil {
			return err
		}
	}
	return os.Chmod(dir, mode)
}

func hostPath(s *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if s.Type != nil {
		kind = *s.Type
	}
	if !filepath.IsAbs(s.Path) {
		return fmt.Errorf("hostPath %q is not an absolute path", s.Path)
	}
	switch kind {
	case corev1.HostPathUnset:
		// As Docker does: a source that is not there is made as a directory.
		if _, err := os.Stat(s.Path); errors.Is(err, fs.ErrNotExist) {
			return os.MkdirAll(s.Path, 0o755)
		}
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if _, err := os.Stat(s.Path); errors.Is(err, fs.ErrNotExist) {
			return os.MkdirAll(s.Path, 0o755)
		}
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(s.Path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return err
		}
		_ = f.Close()
	}
	info, err := os.Stat(s.Path)
	if err != nil {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	m := info.Mode()
	ok := map[corev1.HostPathType]bool{
		corev1.HostPathDirectory: m.IsDir(), corev1.HostPathDirectoryOrCreate: m.IsDir(),
		corev1.HostPathFile: m.IsRegular(), corev1.HostPathFileOrCreate: m.IsRegular(),
		corev1.HostPathSocket: m&os.ModeSocket != 0, corev1.HostPathCharDev: m&os.ModeCharDevice != 0,
		corev1.HostPathBlockDev: m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0,
	}[kind]
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", s.Path, kind)
	}
	return nil
}

func changeAlways(pod *corev1.Pod) bool {
	p := pod.Spec.SecurityContext.FSGroupChangePolicy
	return p == nil || *p == corev1.FSGroupChangeAlways
}

// giveToGroup makes all of a volume readable and writable by the pod's group.
func giveToGroup(dir string, group int, always bool) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && !always && int(st.Gid) == group {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := root.Lchown(name, -1, group); err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode() | 0o660
		if d.IsDir() {
			mode |= 0o110 | fs.ModeSetgid
		}
		return root.Chmod(name, mode)
	})
}

// cached returns a token that is good for a while yet.
func (m *Manager) cached(ctx context.Context, pod *corev1.Pod, audience string, seconds int64) (Token, error) {
	key := tokenKey{string(pod.UID), audience, seconds}
	m.mu.Lock()
	t, ok := m.tokens[key]
	m.mu.Unlock()
	if ok && m.cfg.Now().Before(refreshAt(t)) {
		return t, nil
	}
	fresh, err := m.cfg.Tokens.Token(ctx, pod, audience, seconds)
	if err != nil {
		if ok && m.cfg.Now().Before(t.Expires) {
			m.cfg.Logger.Warn("a worn token is used on", "pod", pod.Namespace+"/"+pod.Name, "error", err)
			t.Issued = m.cfg.Now().Add(-4 * t.Expires.Sub(m.cfg.Now())) // looked at again soon
			return t, nil
		}
		return Token{}, err
	}
	m.mu.Lock()
	m.tokens[key] = fresh
	m.mu.Unlock()
	return fresh, nil
}

// Remove removes a pod's volumes and its directory. What is of the node (hostPath, local) stays.
func (m *Manager) Remove(podUID string) error {
	m.mu.Lock()
	for k := range m.tokens {
		if k.pod == podUID {
			delete(m.tokens, k)
		}
	}
	m.mu.Unlock()
	dir := m.podDir(podUID)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := containers.UnmountBelow(dir); err != nil {
		return fmt.Errorf("removing the volumes of pod %s: %w", podUID, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing the volumes of pod %s: %w", podUID, err)
	}
	return nil
}
