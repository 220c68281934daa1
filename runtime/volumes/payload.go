package volumes

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// ErrMissing says that a volume needs an object, or a key of one, that is not there (yet).
var ErrMissing = errors.New("not found")

// Objects is what volumes are made of: the node's copy of the cluster.
type Objects interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, bool)
	Secret(namespace, name string) (*corev1.Secret, bool)
	Claim(namespace, name string) (*corev1.PersistentVolumeClaim, bool)
	PersistentVolume(name string) (*corev1.PersistentVolume, bool)
}

// Token is a service account's token and when it ends.
type Token struct {
	Value   string
	Issued  time.Time
	Expires time.Time
}

// Tokens asks the control plane for tokens bound to a pod.
type Tokens interface {
	Token(ctx context.Context, pod *corev1.Pod, audience string, expirationSeconds int64) (Token, error)
}

// Fields resolves what the downward API can show of a pod.
type Fields interface {
	Field(pod *corev1.Pod, path string) (string, error)
	Resource(pod *corev1.Pod, ref *corev1.ResourceFieldSelector, container string) (string, error)
}

// file of a volume.
type file struct {
	data []byte
	mode int32
	// secret files that belong to who runs the container when the pod has no fsGroup
	token bool
}

// payload is all files of a volume by their paths in it.
type payload map[string]file

const defaultFileMode = 0o644

func modeOr(m *int32, other int32) int32 {
	if m != nil {
		return *m
	}
	return other
}

// keyed makes files of an object's keys: all of them, or those that items name.
func keyed(out payload, what string, data map[string][]byte, items []corev1.KeyToPath, mode int32, optional bool) error {
	if len(items) == 0 {
		for k, v := range data {
			out[k] = file{data: v, mode: mode}
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("%s has no key %q: %w", what, item.Key, ErrMissing)
		}
		if err := out.add(item.Path, file{data: v, mode: modeOr(item.Mode, mode)}); err != nil {
			return err
		}
	}
	return nil
}

func (p payload) add(name string, f file) error {
	if !filepath.IsLocal(name) || strings.HasPrefix(name, "..") {
		return fmt.Errorf("%q is not a path inside the volume", name)
	}
	p[path.Clean(name)] = f
	return nil
}

func isTrue(b *bool) bool { return b != nil && *b }

func configMapData(c *corev1.ConfigMap) map[string][]byte {
	out := make(map[string][]byte, len(c.Data)+len(c.BinaryData))
	for k, v := range c.Data {
		out[k] = []byte(v)
	}
	for k, v := range c.BinaryData {
		out[k] = v
	}
	return out
}

func (m *Manager) configMap(out payload, namespace, name string, items []corev1.KeyToPath, mode int32, optional bool) error {
	c, ok := m.cfg.Objects.ConfigMap(namespace, name)
	if !ok {
		if optional {
			return nil
		}
		return fmt.Errorf("configmap %q: %w", name, ErrMissing)
	}
	return keyed(out, fmt.Sprintf("configmap %q", name), configMapData(c), items, mode, optional)
}

func (m *Manager) secret(out payload, namespace, name string, items []corev1.KeyToPath, mode int32, optional bool) error {
	s, ok := m.cfg.Objects.Secret(namespace, name)
	if !ok {
		if optional {
			return nil
		}
		return fmt.Errorf("secret %q: %w", name, ErrMissing)
	}
	return keyed(out, fmt.Sprintf("secret %q", name), s.Data, items, mode, optional)
}

func (m *Manager) downward(out payload, pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode int32) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = m.cfg.Fields.Field(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = m.cfg.Fields.Resource(pod, item.ResourceFieldRef, item.ResourceFieldRef.ContainerName)
		}
		if err != nil {
			return err
		}
		if err := out.add(item.Path, file{data: []byte(value), mode: modeOr(item.Mode, mode)}); err != nil {
			return err
		}
	}
	return nil
}

// payload makes the files of a volume, and says when they must be made again at the latest (zero: when an object changes).
func (m *Manager) payload(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (payload, time.Time, error) {
	out := payload{}
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		return out, time.Time{}, m.configMap(out, pod.Namespace, s.Name, s.Items, modeOr(s.DefaultMode, defaultFileMode), isTrue(s.Optional))
	case v.Secret != nil:
		s := v.Secret
		return out, time.Time{}, m.secret(out, pod.Namespace, s.SecretName, s.Items, modeOr(s.DefaultMode, defaultFileMode), isTrue(s.Optional))
	case v.DownwardAPI != nil:
		return out, time.Time{}, m.downward(out, pod, v.DownwardAPI.Items, modeOr(v.DownwardAPI.DefaultMode, defaultFileMode))
	case v.Projected != nil:
		again, err := m.projected(ctx, out, pod, v)
		return out, again, err
	}
	return nil, time.Time{}, nil
}

func (m *Manager) projected(ctx context.Context, out payload, pod *corev1.Pod, v *corev1.Volume) (again time.Time, err error) {
	mode := modeOr(v.Projected.DefaultMode, defaultFileMode)
	for _, s := range v.Projected.Sources {
		switch {
		case s.ConfigMap != nil:
			err = m.configMap(out, pod.Namespace, s.ConfigMap.Name, s.ConfigMap.Items, mode, isTrue(s.ConfigMap.Optional))
		case s.Secret != nil:
			err = m.secret(out, pod.Namespace, s.Secret.Name, s.Secret.Items, mode, isTrue(s.Secret.Optional))
		case s.DownwardAPI != nil:
			err = m.downward(out, pod, s.DownwardAPI.Items, mode)
		case s.ServiceAccountToken != nil:
			var refresh time.Time
			refresh, err = m.token(ctx, out, pod, s.ServiceAccountToken, mode)
			if err == nil && (again.IsZero() || refresh.Before(again)) {
				again = refresh
			}
		default:
			err = errors.New("a projected source of a kind that this node does not know")
		}
		if err != nil {
			return time.Time{}, err
		}
	}
	return again, nil
}

func (m *Manager) token(ctx context.Context, out payload, pod *corev1.Pod, s *corev1.ServiceAccountTokenProjection, mode int32) (time.Time, error) {
	seconds := int64(3600)
	if s.ExpirationSeconds != nil {
		seconds = *s.ExpirationSeconds
	}
	t, err := m.cached(ctx, pod, s.Audience, seconds)
	if err != nil {
		return time.Time{}, fmt.Errorf("asking for a token of service account %q: %w", pod.Spec.ServiceAccountName, err)
	}
	return refreshAt(t), out.add(s.Path, file{data: []byte(t.Value), mode: mode, token: true})
}

// refreshAt is when a token is worn: after four fifths of its life, or a day.
func refreshAt(t Token) time.Time {
	life := t.Expires.Sub(t.Issued)
	return t.Issued.Add(min(life*4/5, 24*time.Hour))
}

// sortedNames of a payload, for a stable order of work.
func (p payload) sortedNames() []string {
	out := make([]string, 0, len(p))
	for n := range p {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}
