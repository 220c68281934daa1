// Package namespaces empties and removes Namespaces that are being deleted.
package namespaces

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// maxPerDecision is how many objects are deleted at once.
const maxPerDecision = 2000

var namespaces = resources.Namespaces.GroupResource()

// Controller empties and removes Namespaces.
type Controller struct{}

// New makes the controller.
func New() controllers.Controller { return Controller{} }

// Name implements controllers.Controller.
func (Controller) Name() string { return "namespace-controller" }

// Inputs implements controllers.Controller.
func (Controller) Inputs() []controllers.Input {
	return []controllers.Input{
		{Resource: namespaces, Why: "deletion asked for"},
		{Resource: controllers.AnyResource, Why: "what is left in them", Keys: func(view projections.Reader, ch projections.Change) []controllers.Key {
			ref := ch.Event.Ref
			if ref.Namespace == "" || (ch.Before != nil && ch.After != nil) {
				return nil
			}
			ns, ok := projections.Get[*corev1.Namespace](view, namespaces, "", ref.Namespace)
			if !ok || ns.DeletionTimestamp == nil {
				return nil
			}
			return []controllers.Key{controllers.KeyOf(namespaces, "", ref.Namespace)}
		}},
	}
}

// Outputs implements controllers.Controller.
func (Controller) Outputs() []controllers.Output {
	return []controllers.Output{
		{Resource: namespaces, Deletes: true, Fields: []string{"spec.finalizers", "status"}},
		{Resource: controllers.AnyResource, Of: "in namespaces that are being deleted", Deletes: true},
	}
}

// Reconcile implements controllers.Controller. The key is a namespace.
func (Controller) Reconcile(view projections.Reader, key controllers.Key, now time.Time) (controllers.Decision, error) {
	ns, _, ok := controllers.Fetch[*corev1.Namespace](view, key)
	if !ok || ns.DeletionTimestamp == nil {
		return controllers.Decision{}, nil
	}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		if len(ns.Spec.Finalizers) == 0 && len(ns.Finalizers) == 0 {
			return controllers.Decision{Commands: []commands.Command{controllers.Delete(resources.Namespaces, ns)}}, nil
		}
		return controllers.Decision{}, nil
	}
	left := contentOf(view, ns.Name)
	if left.total == 0 {
		done := ns.DeepCopy()
		done.Spec.Finalizers = slices.DeleteFunc(done.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
		c := controllers.Update(resources.Namespaces, done)
		c.Subresource = "finalize"
		return controllers.Decision{Commands: []commands.Command{c}}, nil
	}
	var d controllers.Decision
	for _, o := range left.untouched {
		if len(d.Commands) == maxPerDecision {
			break
		}
		d.Commands = append(d.Commands, deletion(o))
	}
	status := ns.Status.DeepCopy()
	status.Phase = corev1.NamespaceTerminating
	left.conditions(status, now)
	if !slices.EqualFunc(status.Conditions, ns.Status.Conditions, sameCondition) || status.Phase != ns.Status.Phase {
		told := ns.DeepCopy()
		told.Status = *status
		d.Commands = append(d.Commands, controllers.UpdateStatus(resources.Namespaces, told))
	}
	d.Settle = min(time.Duration(left.total)*time.Millisecond, time.Second)
	return d, nil
}

func deletion(o *projections.Object) commands.Command {
	c := commands.Command{Verb: commands.Delete, Resource: o.Kind.GroupVersionResource(), Namespace: o.Ref.Namespace, Name: o.Ref.Name}
	background := metav1.DeletePropagationBackground
	c.DeleteOptions = &metav1.DeleteOptions{PropagationPolicy: &background}
	if uid := o.Ref.UID; uid != "" {
		c.DeleteOptions.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	return c
}

// content is what is left in a namespace.
type content struct {
	total      int
	counts     map[string]int // by resource
	finalizers map[string]int // how many objects wait for a finalizer
	untouched  []*projections.Object
}

func contentOf(view projections.Reader, namespace string) content {
	c := content{counts: map[string]int{}, finalizers: map[string]int{}}
	for _, gr := range controllers.Resources(view) {
		if gr == namespaces {
			continue
		}
		for o := range view.List(gr, namespace) {
			c.add(gr, o)
		}
	}
	return c
}

func (c *content) add(gr domain.Resource, o *projections.Object) {
	if o.Ref.Namespace == "" {
		return
	}
	c.total++
	c.counts[gr.String()]++
	obj := controllers.Of(o)
	if obj == nil || obj.GetDeletionTimestamp() == nil {
		c.untouched = append(c.untouched, o)
		return
	}
	for _, f := range obj.GetFinalizers() {
		c.finalizers[f]++
	}
}

// conditions tells what the deletion waits for, in the words of Kubernetes.
func (c content) conditions(status *corev1.NamespaceStatus, now time.Time) {
	set(status, corev1.NamespaceContentRemaining, corev1.ConditionTrue, "SomeResourcesRemain", "Some resources are remaining: "+list(c.counts, "%s has %d resource instances"), now)
	if len(c.finalizers) > 0 {
		set(status, corev1.NamespaceFinalizersRemaining, corev1.ConditionTrue, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+list(c.finalizers, "%s in %d resource instances"), now)
	} else {
		set(status, corev1.NamespaceFinalizersRemaining, corev1.ConditionFalse, "ContentHasNoFinalizers", "All content-preserving finalizers finished", now)
	}
}

func list(counts map[string]int, format string) string {
	var parts []string
	for _, k := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), strings.Compare(a, b)) }) {
		parts = append(parts, fmt.Sprintf(format, k, counts[k]))
	}
	return strings.Join(parts, ", ")
}

func set(status *corev1.NamespaceStatus, t corev1.NamespaceConditionType, s corev1.ConditionStatus, reason, message string, now time.Time) {
	c := corev1.NamespaceCondition{Type: t, Status: s, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now)}
	for i, have := range status.Conditions {
		if have.Type == t {
			if have.Status == s {
				c.LastTransitionTime = have.LastTransitionTime
			}
			status.Conditions[i] = c
			return
		}
	}
	status.Conditions = append(status.Conditions, c)
}

func sameCondition(a, b corev1.NamespaceCondition) bool {
	return a.Type == b.Type && a.Status == b.Status && a.Reason == b.Reason && a.Message == b.Message
}
