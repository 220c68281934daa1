package svcindex

import (
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func slice(namespace, name, service, version string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, ResourceVersion: version, UID: types.UID(namespace + name),
		Labels: map[string]string{discoveryv1.LabelServiceName: service},
	}}
}

func names(slices []*discoveryv1.EndpointSlice) (found string) {
	for _, s := range slices {
		found += s.Namespace + "/" + s.Name + " "
	}
	return found
}

func TestIndex(t *testing.T) {
	var x Index
	x.Build([]*discoveryv1.EndpointSlice{
		slice("a", "web-2", "web", ""), slice("b", "web-1", "web", ""), slice("a", "store-1", "store", ""),
		slice("a", "web-1", "web", ""), slice("a", "stray", "", ""),
	})
	for service, want := range map[types.NamespacedName]string{
		{Namespace: "a", Name: "web"}: "a/web-1 a/web-2 ", {Namespace: "b", Name: "web"}: "b/web-1 ",
		{Namespace: "a", Name: "store"}: "a/store-1 ", {Namespace: "b", Name: "store"}: "", {Namespace: "a"}: "",
	} {
		if got := names(x.Of(service)); got != want {
			t.Errorf("%v has %q, want %q", service, got, want)
		}
	}
	x.Build([]*discoveryv1.EndpointSlice{slice("a", "web-3", "web", "")})
	if got := names(x.Of(types.NamespacedName{Namespace: "a", Name: "web"})) + names(x.Of(types.NamespacedName{Namespace: "b", Name: "web"})); got != "a/web-3 " {
		t.Errorf("built anew the index has %q", got)
	}
}

func TestSame(t *testing.T) {
	one, again, later, local := slice("a", "n", "s", "1"), slice("a", "n", "s", "1"), slice("a", "n", "s", "2"), slice("a", "n", "s", "")
	if !Same(one, again) || Same(one, later) || Same(local, slice("a", "n", "s", "")) || Same(one, slice("b", "n", "s", "1")) {
		t.Error("versions are told apart by uid and resource version, and only where there is one")
	}
	if !SameSlices([]*discoveryv1.EndpointSlice{local, one}, []*discoveryv1.EndpointSlice{local, again}) {
		t.Error("one pointer is one version")
	}
}
