package deployment

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/rand"
)

// set is a replica set as it is and as it shall be.
type set struct {
	was, now *appsv1.ReplicaSet
}

// edit returns the set to be changed.
func (s *set) edit() *appsv1.ReplicaSet {
	if s.now == s.was {
		s.now = s.was.DeepCopy()
	}
	return s.now
}

func (s *set) size() int32 {
	if s.now.Spec.Replicas == nil {
		return 1
	}
	return *s.now.Spec.Replicas
}

func byAge(a, b *set) int {
	if !a.was.CreationTimestamp.Equal(&b.was.CreationTimestamp) {
		return a.was.CreationTimestamp.Compare(b.was.CreationTimestamp.Time)
	}
	return strings.Compare(a.was.Name, b.was.Name)
}

// bySize puts the largest first; of equals the newer or the older.
func bySize(sets []*set, newerFirst bool) {
	slices.SortFunc(sets, func(a, b *set) int {
		age := byAge(a, b)
		if newerFirst {
			age = -age
		}
		return cmp.Or(cmp.Compare(b.size(), a.size()), age)
	})
}

func (r *rollout) sortSets() { slices.SortFunc(r.sets, byAge) }

// current returns the set whose template is the deployment's: the oldest of them.
func (r *rollout) current() *set {
	for _, s := range r.sets {
		if sameTemplate(&s.now.Spec.Template, &r.d.Spec.Template) {
			return s
		}
	}
	return nil
}

// old returns the sets other than the current one, oldest first.
func (r *rollout) old() []*set {
	current := r.current()
	var old []*set
	for _, s := range r.sets {
		if s != current {
			old = append(old, s)
		}
	}
	return old
}

func active(sets []*set) []*set {
	var found []*set
	for _, s := range sets {
		if s.size() > 0 {
			found = append(found, s)
		}
	}
	return found
}

func total(sets []*set) int32 {
	var n int32
	for _, s := range sets {
		n += s.size()
	}
	return n
}

// available counts available replicas. A set that was scaled down has no more than its size, whatever its status still says.
func available(sets []*set) int32 {
	var n int32
	for _, s := range sets {
		n += min(s.size(), s.now.Status.AvailableReplicas)
	}
	return n
}

// sameTemplate compares templates but for the label that holds their hash.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := *a, *b
	x.Labels, y.Labels = withoutHash(a.Labels), withoutHash(b.Labels)
	return equality.Semantic.DeepEqual(x, y)
}

func withoutHash(m map[string]string) map[string]string {
	if _, ok := m[appsv1.DefaultDeploymentUniqueLabelKey]; !ok {
		return m
	}
	rest := make(map[string]string, len(m))
	for k, v := range m {
		if k != appsv1.DefaultDeploymentUniqueLabelKey {
			rest[k] = v
		}
	}
	return rest
}

// hashOf names a template. The collision count is bumped when the name belongs to another template.
func hashOf(t *corev1.PodTemplateSpec, collisions *int32) (string, error) {
	data, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("hashing a pod template: %w", err)
	}
	h := fnv.New32a()
	_, _ = h.Write(data)
	if collisions != nil {
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], uint32(*collisions))
		_, _ = h.Write(b[:])
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32())), nil
}
