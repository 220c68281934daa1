package controllers

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Object is a typed object with metadata: what all kinds in k8s.io/api are.
type Object interface {
	runtime.Object
	metav1.Object
}

// Create makes the command that creates an object.
func Create(gvr schema.GroupVersionResource, obj Object) commands.Command {
	return commands.Command{Verb: commands.Create, Resource: gvr, Namespace: obj.GetNamespace(), Name: obj.GetName(), Object: obj}
}

// Update makes the command that replaces an object; it conflicts unless the object's resourceVersion is current.
func Update(gvr schema.GroupVersionResource, obj Object) commands.Command {
	return commands.Command{Verb: commands.Update, Resource: gvr, Namespace: obj.GetNamespace(), Name: obj.GetName(), Object: obj}
}

// UpdateStatus is Update for the status alone.
func UpdateStatus(gvr schema.GroupVersionResource, obj Object) commands.Command {
	c := Update(gvr, obj)
	c.Subresource = "status"
	return c
}

// Delete makes the command that deletes this incarnation of an object, in the background.
func Delete(gvr schema.GroupVersionResource, obj metav1.Object) commands.Command {
	uid := obj.GetUID()
	policy := metav1.DeletePropagationBackground
	return commands.Command{
		Verb: commands.Delete, Resource: gvr, Namespace: obj.GetNamespace(), Name: obj.GetName(),
		DeleteOptions: &metav1.DeleteOptions{
			Preconditions:     &metav1.Preconditions{UID: &uid},
			PropagationPolicy: &policy,
		},
	}
}

// MergePatch makes the command that applies an RFC 7386 patch. The patch is any value that encodes to its JSON.
func MergePatch(gvr schema.GroupVersionResource, namespace, name, subresource string, patch any) (commands.Command, error) {
	data, err := json.Marshal(patch)
	if err != nil {
		return commands.Command{}, fmt.Errorf("encoding a patch of %s %s/%s: %w", gvr.Resource, namespace, name, err)
	}
	return commands.Command{
		Verb: commands.Patch, Resource: gvr, Subresource: subresource, Namespace: namespace, Name: name,
		Patch: data, PatchType: types.MergePatchType,
	}, nil
}

// Fetch returns the object of a key both as its Go type and as the view holds it, or false when it is not there.
func Fetch[T runtime.Object](view projections.Reader, key Key) (T, *projections.Object, bool) {
	var zero T
	o, ok := view.Get(key.GroupResource(), key.Namespace, key.Name)
	if !ok {
		return zero, nil, false
	}
	t, ok := projections.As[T](o)
	if !ok {
		return zero, nil, false
	}
	return t, o, true
}

// KeyOf names an object of a resource, without its UID.
func KeyOf(gr domain.Resource, namespace, name string) Key {
	return Key{Group: gr.Group, Resource: gr.Resource, Namespace: namespace, Name: name}
}

// Reference points at an object, for core Events and targetRefs.
func Reference(o *projections.Object) corev1.ObjectReference {
	ref := corev1.ObjectReference{Namespace: o.Ref.Namespace, Name: o.Ref.Name, UID: o.Ref.UID}
	if o.Kind != nil {
		ref.APIVersion, ref.Kind = o.Kind.GroupVersionKind().ToAPIVersionAndKind()
	}
	if ref.UID == "" {
		if obj, ok := projections.As[Object](o); ok {
			ref.UID = obj.GetUID()
		}
	}
	return ref
}

// Of returns the typed object with its metadata on one side of a change, or nil.
func Of(o *projections.Object) Object {
	if o == nil {
		return nil
	}
	obj, ok := projections.As[Object](o)
	if !ok {
		return nil
	}
	return obj
}

// OwnerKeys is an Input's Keys for dependents: the controlling owners, before and after the change, of one kind.
func OwnerKeys(owner schema.GroupVersionKind, gr domain.Resource) func(projections.Reader, projections.Change) []Key {
	apiVersion, kind := owner.ToAPIVersionAndKind()
	return func(_ projections.Reader, c projections.Change) []Key {
		var keys []Key
		for _, side := range []*projections.Object{c.Before, c.After} {
			obj := Of(side)
			if obj == nil {
				continue
			}
			ref := metav1.GetControllerOfNoCopy(obj)
			if ref == nil || ref.Kind != kind || ref.APIVersion != apiVersion {
				continue
			}
			key := KeyOf(gr, obj.GetNamespace(), ref.Name)
			if len(keys) == 0 || keys[0] != key {
				keys = append(keys, key)
			}
		}
		return keys
	}
}
