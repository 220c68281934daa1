package domain

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Resource names a collection of objects: the plural resource name and its API group ("" for the core group).
type Resource = schema.GroupResource

// Ref names one object. UID tells the incarnations of one name apart and may be empty where any incarnation is meant.
type Ref struct {
	Group     string    `json:"group,omitempty"`
	Resource  string    `json:"resource"`
	Namespace string    `json:"namespace,omitempty"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid,omitempty"`
}

// GroupResource returns the collection that the object belongs to.
func (r Ref) GroupResource() Resource { return Resource{Group: r.Group, Resource: r.Resource} }

// Stream names the event stream that holds every change of every incarnation of the object's name:
// "<resource>.<group>-<namespace>/<name>", as in "pods-default/web-1", "deployments.apps-default/web" and, for an object
// without a namespace, "nodes-/n1".
func (r Ref) Stream() string {
	return StreamPrefix(r.GroupResource()) + r.Namespace + "/" + r.Name
}

// String is the form in which people write a reference: "pods/default/web-1", "deployments.apps/default/web", "nodes/n1".
func (r Ref) String() string {
	gr := r.GroupResource().String()
	if r.Namespace == "" {
		return gr + "/" + r.Name
	}
	return gr + "/" + r.Namespace + "/" + r.Name
}

// StreamPrefix is what the names of all streams of a resource begin with, and no other stream's name does: it ends with its
// only dash. A dash in the resource or the group stands as an underscore, which neither can hold.
func StreamPrefix(gr Resource) string { return strings.ReplaceAll(gr.String(), "-", "_") + "-" }

// ParseStream is the inverse of Ref.Stream (the UID is not part of a stream's name). It returns false for the name of a
// stream that does not hold an object, such as a system stream.
func ParseStream(stream string) (Ref, bool) {
	if strings.HasPrefix(stream, "$") {
		return Ref{}, false
	}
	collection, rest, ok := strings.Cut(stream, "-")
	if !ok || collection == "" {
		return Ref{}, false
	}
	namespace, name, ok := strings.Cut(rest, "/")
	if !ok || name == "" {
		return Ref{}, false
	}
	gr := schema.ParseGroupResource(strings.ReplaceAll(collection, "_", "-"))
	return Ref{Group: gr.Group, Resource: gr.Resource, Namespace: namespace, Name: name}, true
}

// MustParseStream is ParseStream for names that Ref.Stream made.
func MustParseStream(stream string) Ref {
	r, ok := ParseStream(stream)
	if !ok {
		panic(fmt.Sprintf("domain: %q is not the stream of an object", stream))
	}
	return r
}
