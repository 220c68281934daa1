// Package history keeps the pod templates that a DaemonSet or StatefulSet has had, as ControllerRevisions: kubectl rollout
// history and undo read them.
package history

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Resource is the collection of revisions.
var Resource = resources.ControllerRevisions.GroupResource()

// Of returns the revisions of an owner, oldest first.
func Of(view projections.Reader, owner metav1.Object) []*appsv1.ControllerRevision {
	var all []*appsv1.ControllerRevision
	for r := range projections.Index[*appsv1.ControllerRevision](view, Resource, domain.OwnerIndex, string(owner.GetUID())) {
		if c := metav1.GetControllerOfNoCopy(r); c != nil && c.UID == owner.GetUID() && r.DeletionTimestamp == nil {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b *appsv1.ControllerRevision) int {
		if a.Revision != b.Revision {
			return int(a.Revision - b.Revision)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}

// Make makes the revision of an owner's template. Its data is the patch that brings the template back.
func Make(owner controllers.Object, kind schema.GroupVersionKind, template *corev1.PodTemplateSpec, collisions *int32) (*appsv1.ControllerRevision, error) {
	raw, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("encoding the pod template of %s: %w", owner.GetName(), err)
	}
	var content map[string]any
	if err := json.Unmarshal(raw, &content); err != nil {
		return nil, fmt.Errorf("encoding the pod template of %s: %w", owner.GetName(), err)
	}
	content["$patch"] = "replace"
	data, err := json.Marshal(map[string]any{"spec": map[string]any{"template": content}})
	if err != nil {
		return nil, fmt.Errorf("encoding the pod template of %s: %w", owner.GetName(), err)
	}
	h := fnv.New32a()
	_, _ = h.Write(data)
	if collisions != nil {
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], uint32(*collisions))
		_, _ = h.Write(b[:])
	}
	hash := rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
	labels := maps.Clone(template.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[appsv1.ControllerRevisionHashLabelKey] = hash
	const maxName = 223 // as Kubernetes: 253 less what a hash and a dash may take
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), Name: owner.GetName()[:min(len(owner.GetName()), maxName)] + "-" + hash,
			Labels: labels, Annotations: maps.Clone(owner.GetAnnotations()), OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Data: runtime.RawExtension{Raw: data},
	}, nil
}

// Current finds the revision of a template among those there are, or returns the command that makes it the latest: creates it,
// or gives an old one a new number, when the template is rolled back.
func Current(all []*appsv1.ControllerRevision, wanted *appsv1.ControllerRevision) (found *appsv1.ControllerRevision, c []commands.Command) {
	last := int64(0)
	for _, r := range all {
		last = max(last, r.Revision)
		if sameData(r, wanted) {
			found = r
		}
	}
	switch {
	case found == nil:
		next := wanted.DeepCopy()
		next.Revision = last + 1
		return nil, []commands.Command{controllers.Create(resources.ControllerRevisions, next)}
	case found.Revision < last:
		next := found.DeepCopy()
		next.Revision = last + 1
		return found, []commands.Command{controllers.Update(resources.ControllerRevisions, next)}
	}
	return found, nil
}

func sameData(a, b *appsv1.ControllerRevision) bool {
	if string(a.Data.Raw) == string(b.Data.Raw) {
		return true
	}
	var x, y any
	return json.Unmarshal(a.Data.Raw, &x) == nil && json.Unmarshal(b.Data.Raw, &y) == nil && reflect.DeepEqual(x, y)
}

// Template reads the pod template that a revision holds.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var data struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &data); err != nil {
		return nil, fmt.Errorf("reading revision %s/%s: %w", r.Namespace, r.Name, err)
	}
	return &data.Spec.Template, nil
}

// CleanUp deletes the oldest revisions that nobody uses and that the limit has no room for.
func CleanUp(all []*appsv1.ControllerRevision, limit *int32, used func(*appsv1.ControllerRevision) bool) []commands.Command {
	if limit == nil {
		return nil
	}
	var unused []*appsv1.ControllerRevision
	for _, r := range all {
		if !used(r) {
			unused = append(unused, r)
		}
	}
	var out []commands.Command
	for _, r := range unused[:max(0, len(unused)-int(*limit))] {
		out = append(out, controllers.Delete(resources.ControllerRevisions, r))
	}
	return out
}
