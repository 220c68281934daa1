package garbage

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// state of an owner as seen from a dependent.
type state int

const (
	absent  state = iota // there is none of that name, or it has another uid
	present              // it is there
	unknown              // its kind is not known, or cannot own the dependent: it is left alone
)

type owner struct {
	obj controllers.Object
	at  *projections.Object
}

// owner finds what a reference of an object in a namespace points at.
func (c Controller) owner(view projections.Reader, namespace string, ref metav1.OwnerReference) (owner, state) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return owner{}, unknown
	}
	gr, namespaced, ok := c.resourceOf(view, schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	if !ok || (namespaced && namespace == "") {
		return owner{}, unknown
	}
	if !namespaced {
		namespace = ""
	}
	at, ok := view.Get(gr, namespace, ref.Name)
	if !ok {
		return owner{}, absent
	}
	obj := controllers.Of(at)
	if obj == nil { // it cannot be read, and may well be the one
		return owner{}, unknown
	}
	if obj.GetUID() != ref.UID {
		return owner{}, absent
	}
	return owner{obj: obj, at: at}, present
}

var definitions = domain.Resource{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}

// resourceOf finds the resource of a kind: of the built-in ones, or by the definitions of custom ones.
func (c Controller) resourceOf(view projections.Reader, gk schema.GroupKind) (gr domain.Resource, namespaced, ok bool) {
	if k, ok := c.kinds.ByKind(gk); ok {
		return k.GroupResource(), k.Namespaced, true
	}
	for o := range view.List(definitions, "") {
		content, err := contentOf(o)
		if err != nil {
			continue
		}
		group, _, _ := unstructured.NestedString(content, "spec", "group")
		kind, _, _ := unstructured.NestedString(content, "spec", "names", "kind")
		plural, _, _ := unstructured.NestedString(content, "spec", "names", "plural")
		scope, _, _ := unstructured.NestedString(content, "spec", "scope")
		if group == gk.Group && kind == gk.Kind && plural != "" {
			return domain.Resource{Group: group, Resource: plural}, scope == "Namespaced", true
		}
	}
	return domain.Resource{}, false, false
}

// classify sorts the owners of an object into those that keep it, those that wait for it to go, and those that are gone.
func (c Controller) classify(view projections.Reader, obj controllers.Object) (solid, waiting, gone []metav1.OwnerReference) {
	for _, ref := range obj.GetOwnerReferences() {
		o, s := c.owner(view, obj.GetNamespace(), ref)
		switch {
		case s == absent:
			gone = append(gone, ref)
		case s == present && o.obj.GetDeletionTimestamp() != nil && has(o.obj, metav1.FinalizerDeleteDependents):
			waiting = append(waiting, ref)
		default:
			solid = append(solid, ref)
		}
	}
	return solid, waiting, gone
}

// deletion deletes an object as it was seen: one that has got another owner meanwhile is not deleted.
func deletion(at *projections.Object, obj controllers.Object, policy metav1.DeletionPropagation) commands.Command {
	uid, version := obj.GetUID(), obj.GetResourceVersion()
	return commands.Command{
		Verb: commands.Delete, Resource: at.Kind.GroupVersionResource(), Namespace: at.Ref.Namespace, Name: at.Ref.Name,
		DeleteOptions: &metav1.DeleteOptions{
			Preconditions:     &metav1.Preconditions{UID: &uid, ResourceVersion: &version},
			PropagationPolicy: &policy,
		},
	}
}

func setOwners(at *projections.Object, obj controllers.Object, refs []metav1.OwnerReference) (commands.Command, error) {
	var value any // null takes the list away
	if len(refs) > 0 {
		value = refs
	}
	return patch(at, obj, "ownerReferences", value)
}

func removeFinalizer(at *projections.Object, obj controllers.Object, finalizer string) (commands.Command, error) {
	rest := slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool { return f == finalizer })
	var value any
	if len(rest) > 0 {
		value = rest
	}
	return patch(at, obj, "finalizers", value)
}

// patch sets one field of an object's metadata, unless the object has changed.
func patch(at *projections.Object, obj controllers.Object, field string, value any) (commands.Command, error) {
	return controllers.MergePatch(at.Kind.GroupVersionResource(), at.Ref.Namespace, at.Ref.Name, "", map[string]any{
		"metadata": map[string]any{"uid": obj.GetUID(), "resourceVersion": obj.GetResourceVersion(), field: value},
	})
}
