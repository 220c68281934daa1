// Package garbage collects objects whose owners are gone, and carries out foreground and orphaning deletions.
// https://kubernetes.io/docs/concepts/architecture/garbage-collection/
package garbage

import (
	"bytes"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// maxPerDecision is how many dependents are dealt with at once.
const maxPerDecision = 2000

// Controller collects garbage.
type Controller struct{ kinds *domain.Set }

// New makes the controller.
func New(kinds *domain.Set) controllers.Controller { return Controller{kinds: kinds} }

// Name implements controllers.Controller.
func (Controller) Name() string { return "generic-garbage-collector" }

// Inputs implements controllers.Controller.
func (c Controller) Inputs() []controllers.Input {
	return []controllers.Input{{Resource: controllers.AnyResource, Why: "owners and dependents", Keys: c.concerned}}
}

// Outputs implements controllers.Controller.
func (Controller) Outputs() []controllers.Output {
	return []controllers.Output{{
		Resource: controllers.AnyResource, Of: "with owners", Deletes: true,
		Fields: []string{"metadata.finalizers[foregroundDeletion]", "metadata.finalizers[orphan]", "metadata.ownerReferences of absent owners"},
	}}
}

// concerned returns the objects that a change may make garbage, or let go.
func (c Controller) concerned(view projections.Reader, ch projections.Change) []controllers.Key {
	var keys []controllers.Key
	if ch.After == nil && ch.Before != nil {
		for _, o := range dependents(view, uidOf(ch.Before)) {
			keys = append(keys, keyOf(o))
		}
	}
	// Most objects have neither owners nor a deletion under way, and need not be read.
	if !related(ch.Before) && !related(ch.After) {
		return keys
	}
	before, after := controllers.Of(ch.Before), controllers.Of(ch.After)
	self := ch.Event.Ref
	self.UID = ""
	if after == nil {
		if before != nil {
			keys = append(keys, c.foregroundOwners(view, before)...)
		}
		return keys
	}
	if after.GetDeletionTimestamp() != nil {
		if has(after, metav1.FinalizerDeleteDependents) || has(after, metav1.FinalizerOrphanDependents) {
			keys = append(keys, self)
		}
		if before != nil && before.GetDeletionTimestamp() == nil {
			// Its dependents are looked at again when it is deleted in the foreground, by its own key.
			return keys
		}
	} else if len(after.GetOwnerReferences()) > 0 && (before == nil || !slices.EqualFunc(before.GetOwnerReferences(), after.GetOwnerReferences(), sameOwner)) {
		keys = append(keys, self)
	}
	if before != nil && len(before.GetOwnerReferences()) > 0 && !slices.EqualFunc(before.GetOwnerReferences(), after.GetOwnerReferences(), sameOwner) {
		keys = append(keys, c.foregroundOwners(view, before)...)
	}
	return keys
}

// related says whether an object may have owners or be waiting for dependents, from its JSON alone.
func related(o *projections.Object) bool {
	return o != nil && (bytes.Contains(o.JSON, []byte(`"ownerReferences"`)) || bytes.Contains(o.JSON, []byte(`"deletionTimestamp"`)))
}

func uidOf(o *projections.Object) types.UID {
	if o.Ref.UID != "" {
		return o.Ref.UID
	}
	if obj := controllers.Of(o); obj != nil {
		return obj.GetUID()
	}
	return ""
}

func keyOf(o *projections.Object) controllers.Key {
	key := o.Ref
	key.UID = ""
	return key
}

func has(o metav1.Object, finalizer string) bool {
	return slices.Contains(o.GetFinalizers(), finalizer)
}

func sameOwner(a, b metav1.OwnerReference) bool {
	return a.UID == b.UID && blocks(a) == blocks(b)
}

func blocks(r metav1.OwnerReference) bool {
	return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
}

// foregroundOwners returns the owners of an object that wait for their dependents, or orphan them.
func (c Controller) foregroundOwners(view projections.Reader, o controllers.Object) []controllers.Key {
	var keys []controllers.Key
	for _, ref := range o.GetOwnerReferences() {
		owner, state := c.owner(view, o.GetNamespace(), ref)
		if state == present && owner.obj.GetDeletionTimestamp() != nil && (has(owner.obj, metav1.FinalizerDeleteDependents) || has(owner.obj, metav1.FinalizerOrphanDependents)) {
			keys = append(keys, keyOf(owner.at))
		}
	}
	return keys
}

// dependents returns the objects of all resources that name an owner.
func dependents(view projections.Reader, owner types.UID) []*projections.Object {
	if owner == "" {
		return nil
	}
	var found []*projections.Object
	for _, gr := range controllers.Resources(view) {
		for o := range view.Index(gr, domain.OwnerIndex, string(owner)) {
			found = append(found, o)
		}
	}
	return found
}

// Reconcile implements controllers.Controller. The key is any object.
func (c Controller) Reconcile(view projections.Reader, key controllers.Key, _ time.Time) (controllers.Decision, error) {
	at, ok := view.Get(key.GroupResource(), key.Namespace, key.Name)
	if !ok {
		return controllers.Decision{}, nil
	}
	obj := controllers.Of(at)
	if obj == nil {
		return controllers.Decision{}, nil // it cannot be read, and so nobody knows its owners
	}
	if obj.GetDeletionTimestamp() == nil {
		return c.collect(view, at, obj)
	}
	switch {
	case has(obj, metav1.FinalizerOrphanDependents):
		return c.orphan(view, at, obj)
	case has(obj, metav1.FinalizerDeleteDependents):
		return c.foreground(view, at, obj)
	}
	return controllers.Decision{}, nil
}

// collect deletes an object of whose owners none is left, or forgets those that are not.
func (c Controller) collect(view projections.Reader, at *projections.Object, obj controllers.Object) (controllers.Decision, error) {
	refs := obj.GetOwnerReferences()
	if len(refs) == 0 {
		return controllers.Decision{}, nil
	}
	solid, waiting, gone := c.classify(view, obj)
	if len(waiting)+len(gone) == 0 {
		return controllers.Decision{}, nil
	}
	if len(solid) > 0 {
		forget, err := setOwners(at, obj, solid)
		return controllers.Decision{Commands: []commands.Command{forget}}, err
	}
	policy := metav1.DeletePropagationBackground
	switch {
	case has(obj, metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case has(obj, metav1.FinalizerDeleteDependents), len(waiting) > 0 && len(dependents(view, obj.GetUID())) > 0:
		policy = metav1.DeletePropagationForeground
	}
	return controllers.Decision{Commands: []commands.Command{deletion(at, obj, policy)}}, nil
}

// foreground deletes the dependents of an object that waits for them, and lets it go when none is left that blocks it.
func (c Controller) foreground(view projections.Reader, at *projections.Object, obj controllers.Object) (controllers.Decision, error) {
	var d controllers.Decision
	blocked := false
	for _, o := range dependents(view, obj.GetUID()) {
		dep := controllers.Of(o)
		if dep == nil {
			continue
		}
		blocked = blocked || slices.ContainsFunc(dep.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == obj.GetUID() && blocks(r) })
		if dep.GetDeletionTimestamp() != nil || len(d.Commands) == maxPerDecision {
			continue
		}
		one, err := c.collect(view, o, dep)
		if err != nil {
			return controllers.Decision{}, err
		}
		d.Commands = append(d.Commands, one.Commands...)
	}
	if blocked || len(d.Commands) > 0 {
		return d, nil
	}
	done, err := removeFinalizer(at, obj, metav1.FinalizerDeleteDependents)
	return controllers.Decision{Commands: []commands.Command{done}}, err
}

// orphan makes the dependents of an object forget it, and lets it go when all have.
func (c Controller) orphan(view projections.Reader, at *projections.Object, obj controllers.Object) (controllers.Decision, error) {
	var d controllers.Decision
	for _, o := range dependents(view, obj.GetUID()) {
		dep := controllers.Of(o)
		if dep == nil {
			continue
		}
		if len(d.Commands) == maxPerDecision {
			break
		}
		rest := slices.DeleteFunc(slices.Clone(dep.GetOwnerReferences()), func(r metav1.OwnerReference) bool { return r.UID == obj.GetUID() })
		forget, err := setOwners(o, dep, rest)
		if err != nil {
			return controllers.Decision{}, err
		}
		d.Commands = append(d.Commands, forget)
	}
	if len(d.Commands) > 0 {
		return d, nil
	}
	done, err := removeFinalizer(at, obj, metav1.FinalizerOrphanDependents)
	return controllers.Decision{Commands: []commands.Command{done}}, err
}
