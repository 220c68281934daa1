package domain

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestKinds(t *testing.T) {
	set := NewSet(Kinds())
	resources, kinds, names := map[Resource]bool{}, map[schema.GroupKind]bool{}, map[string]string{}
	for _, k := range set.All() {
		if resources[k.GroupResource()] || kinds[k.GroupVersionKind().GroupKind()] {
			t.Errorf("%s is described twice", k.GroupResource())
		}
		resources[k.GroupResource()], kinds[k.GroupVersionKind().GroupKind()] = true, true
		if k.Version == "" || k.Kind == "" || k.Resource == "" || k.New == nil {
			t.Errorf("%s lacks something that every kind has", k.GroupResource())
		}
		if k.New() == k.New() {
			t.Errorf("%s: New returns the same object twice", k.Kind)
		}
		if len(k.Indexes) == 0 || k.Indexes[0].Name != OwnerIndex {
			t.Errorf("%s has no index of owners", k.Kind)
		}
		if got, ok := set.ByResource(k.GroupResource()); !ok || got != k {
			t.Errorf("ByResource(%s) = %v", k.GroupResource(), got)
		}
		if got, ok := set.ByKind(k.GroupVersionKind().GroupKind()); !ok || got != k {
			t.Errorf("ByKind(%s) = %v", k.Kind, got)
		}
		for _, short := range k.ShortNames {
			if other, taken := names[short]; taken {
				t.Errorf("%s and %s share the short name %s", other, k.Resource, short)
			}
			names[short] = k.Resource
		}
	}
	if got, want := len(set.All()), 60; got != want {
		t.Errorf("%d built-in kinds, want %d: kubectl api-resources of the pinned version lists what is stored", got, want)
	}
}

func TestLookup(t *testing.T) {
	set := NewSet(Kinds())
	for name, want := range map[string]string{
		"po": "Pod", "pod": "Pod", "Pods": "Pod", "PODS": "Pod", "pods.v1": "Pod", "deploy": "Deployment", "deploy.apps": "Deployment",
		"deployments.apps": "Deployment", "deployments.v1.apps": "Deployment", "Deployment.apps": "Deployment", "hpa": "HorizontalPodAutoscaler",
		"events": "Event", "ev": "Event", "leases": "Lease", "ip": "IPAddress", "rolebindings.rbac.authorization.k8s.io": "RoleBinding",
	} {
		if k, ok := set.Lookup(name); !ok || k.Kind != want {
			t.Errorf("Lookup(%q) = %v, want %s", name, k, want)
		}
	}
	for _, name := range []string{"", "nothing", "pods.apps", "deployments.v2.apps"} {
		if k, ok := set.Lookup(name); ok {
			t.Errorf("Lookup(%q) = %s, want nothing", name, k.Kind)
		}
	}
}
