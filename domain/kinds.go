package domain

import (
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Kinds returns a descriptor for every built-in kind: what Kubernetes 1.37 stores and serves with its default settings, in
// the version in which it is stored. Custom kinds are added by making a Set of more.
//
// Each call makes new descriptors; a process makes one Set of them and passes it around.
func Kinds() []*Kind {
	families := [][]Kind{
		podKinds(), nodeKinds(), namespaceKinds(), serviceKinds(), configKinds(), serviceAccountKinds(),
		replicaKinds(), deploymentKinds(), statefulKinds(), batchKinds(), autoscalingKinds(), policyKinds(),
		eventKinds(), leaseKinds(), networkingKinds(), volumeKinds(), storageKinds(), quotaKinds(), rbacKinds(),
		schedulingKinds(), certificateKinds(), admissionKinds(), flowControlKinds(), deviceKinds(), migrationKinds(),
	}
	var out []*Kind
	for _, family := range families {
		for _, k := range family {
			out = append(out, complete(k))
		}
	}
	return out
}

// complete adds to a descriptor what every kind has.
func complete(k Kind) *Kind {
	k.Indexes = append([]Index{{Name: OwnerIndex, Values: owners}}, k.Indexes...)
	return &k
}

func owners(obj runtime.Object) []string {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil
	}
	refs := m.GetOwnerReferences()
	if len(refs) == 0 {
		return nil
	}
	out := make([]string, len(refs))
	for i := range refs {
		out[i] = string(refs[i].UID)
	}
	return out
}

// Set finds kinds by their names. It never changes and is safe for many goroutines; make a new one to add kinds.
type Set struct {
	all        []*Kind
	byResource map[Resource]*Kind
	byKind     map[schema.GroupKind]*Kind
	byName     map[string]*Kind
	keys       Keys
}

// NewSet makes a Set. Of two kinds that share a name the earlier has it; the later is found by its full name
// ("<resource>.<group>").
func NewSet(kinds []*Kind) *Set {
	s := &Set{
		all:        append([]*Kind(nil), kinds...),
		byResource: make(map[Resource]*Kind, len(kinds)),
		byKind:     make(map[schema.GroupKind]*Kind, len(kinds)),
		byName:     make(map[string]*Kind, 6*len(kinds)),
	}
	for _, k := range kinds {
		s.byResource[k.GroupResource()] = k
		s.byKind[k.GroupVersionKind().GroupKind()] = k
		names := append([]string{k.Resource, k.Kind}, k.ShortNames...)
		for _, name := range names {
			name = strings.ToLower(name)
			forms := []string{name}
			if k.Group != "" {
				forms = append(forms, name+"."+k.Group)
			}
			forms = append(forms, strings.TrimSuffix(name+"."+k.Version+"."+k.Group, "."))
			for _, form := range forms {
				if _, taken := s.byName[form]; !taken {
					s.byName[form] = k
				}
			}
		}
	}
	return s
}

// All returns the kinds in their order. The slice is the caller's, the kinds are shared.
func (s *Set) All() []*Kind { return append([]*Kind(nil), s.all...) }

// ByResource finds a kind by its collection: {apps deployments}.
func (s *Set) ByResource(gr Resource) (*Kind, bool) {
	k, ok := s.byResource[gr]
	return k, ok
}

// ByKind finds a kind by its group and kind: {apps Deployment}.
func (s *Set) ByKind(gk schema.GroupKind) (*Kind, bool) {
	k, ok := s.byKind[gk]
	return k, ok
}

// Lookup finds a kind by any name that kubectl takes for it, in any case: "po", "pod", "pods", "deployments.apps",
// "deployments.v1.apps".
func (s *Set) Lookup(name string) (*Kind, bool) {
	k, ok := s.byName[strings.ToLower(name)]
	return k, ok
}
