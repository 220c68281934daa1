// Package svcindex finds the endpoint slices of services in a state that is handed over whole with each change, so cheaply that
// what did not change costs next to nothing.
package svcindex

import (
	"slices"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Index tells the endpoint slices of one service from another's. The zero value is ready; it may be built again and again.
type Index struct {
	first map[types.NamespacedName]int32 // place of a service's first slice, plus one
	next  []int32                        // place of the next slice of the same service, plus one; 0: none
	all   []*discoveryv1.EndpointSlice
	buf   []*discoveryv1.EndpointSlice
}

// Build forgets what was there and takes in the slices.
func (x *Index) Build(all []*discoveryv1.EndpointSlice) {
	if x.first == nil {
		x.first = make(map[types.NamespacedName]int32, len(all))
	}
	clear(x.first)
	x.all = all
	x.next = slices.Grow(x.next[:0], len(all))[:len(all)]
	for i, slice := range all {
		x.next[i] = 0
		name := slice.Labels[discoveryv1.LabelServiceName]
		if name == "" {
			continue
		}
		key := types.NamespacedName{Namespace: slice.Namespace, Name: name}
		x.next[i] = x.first[key]
		x.first[key] = int32(i) + 1
	}
}

// Of returns the service's slices in the order of their names. The result is valid until the next call: clone it to keep it.
func (x *Index) Of(service types.NamespacedName) []*discoveryv1.EndpointSlice {
	x.buf = x.buf[:0]
	for i := x.first[service]; i != 0; i = x.next[i-1] {
		x.buf = append(x.buf, x.all[i-1])
	}
	if len(x.buf) > 1 {
		slices.SortFunc(x.buf, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	}
	return x.buf
}

// Same says whether two objects are one version of one object.
func Same(a, b metav1.Object) bool {
	return a.GetResourceVersion() != "" && a.GetResourceVersion() == b.GetResourceVersion() && a.GetUID() == b.GetUID()
}

// SameSlices says whether two lists hold the same versions of the same slices.
func SameSlices(a, b []*discoveryv1.EndpointSlice) bool {
	return slices.EqualFunc(a, b, func(a, b *discoveryv1.EndpointSlice) bool { return a == b || Same(a, b) })
}
