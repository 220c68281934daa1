package nodefeed

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// The collections that feeds are made of.
var (
	podsResource            = domain.Resource{Resource: "pods"}
	nodesResource           = domain.Resource{Resource: "nodes"}
	secretsResource         = domain.Resource{Resource: "secrets"}
	configMapsResource      = domain.Resource{Resource: "configmaps"}
	serviceAccountsResource = domain.Resource{Resource: "serviceaccounts"}
	claimsResource          = domain.Resource{Resource: "persistentvolumeclaims"}
	volumesResource         = domain.Resource{Resource: "persistentvolumes"}
)

// shared returns the collections of which every node gets everything.
func shared() []domain.Resource {
	return []domain.Resource{
		{Resource: "namespaces"},
		{Resource: "services"},
		{Group: "discovery.k8s.io", Resource: "endpointslices"},
		{Group: "networking.k8s.io", Resource: "networkpolicies"},
		{Group: "node.k8s.io", Resource: "runtimeclasses"},
	}
}

// referred returns the collections of which a node gets what its pods refer to.
func referred() []domain.Resource {
	return []domain.Resource{secretsResource, configMapsResource, serviceAccountsResource, claimsResource, volumesResource}
}

// rules say what concerns a node. They never change.
type rules struct {
	shared, referred map[domain.Resource]bool
	all              []domain.Resource
	refers           func(*corev1.Pod) []string
}

// newRules leaves out the kinds that the set does not have.
func newRules(kinds *domain.Set) *rules {
	r := &rules{shared: map[domain.Resource]bool{}, referred: map[domain.Resource]bool{}, refers: func(*corev1.Pod) []string { return nil }}
	for _, gr := range shared() {
		if _, ok := kinds.ByResource(gr); ok {
			r.shared[gr] = true
			r.all = append(r.all, gr)
		}
	}
	for _, gr := range referred() {
		if _, ok := kinds.ByResource(gr); ok {
			r.referred[gr] = true
			r.all = append(r.all, gr)
		}
	}
	r.all = append(r.all, podsResource, nodesResource)
	if pods, ok := kinds.ByResource(podsResource); ok {
		for _, index := range pods.Indexes {
			if index.Name == domain.RefersIndex {
				r.refers = func(p *corev1.Pod) []string { return index.Values(p) }
			}
		}
	}
	return r
}

// references returns what a pod needs on its node, what that needs in turn included: the pull secrets of its service account, the
// volumes of its claims and their secrets. A pod that is finished needs nothing. The references hold no uid.
func (r *rules) references(view getter, pod *corev1.Pod) map[domain.Ref]bool {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	refs := map[domain.Ref]bool{}
	add := func(gr domain.Resource, namespace, name string) {
		if name != "" && r.referred[gr] {
			refs[domain.Ref{Group: gr.Group, Resource: gr.Resource, Namespace: namespace, Name: name}] = true
		}
	}
	for _, value := range r.refers(pod) {
		resource, name, _ := strings.Cut(value, "/")
		gr := domain.Resource{Resource: resource}
		add(gr, pod.Namespace, name)
		switch gr {
		case serviceAccountsResource:
			if sa, ok := typed[*corev1.ServiceAccount](view.Get(gr, pod.Namespace, name)); ok {
				for _, s := range sa.ImagePullSecrets {
					add(secretsResource, pod.Namespace, s.Name)
				}
			}
		case claimsResource:
			claim, ok := typed[*corev1.PersistentVolumeClaim](view.Get(gr, pod.Namespace, name))
			if !ok || claim.Spec.VolumeName == "" {
				continue
			}
			add(volumesResource, "", claim.Spec.VolumeName)
			if pv, ok := typed[*corev1.PersistentVolume](view.Get(volumesResource, "", claim.Spec.VolumeName)); ok && boundTo(pv, claim) && pv.Spec.CSI != nil {
				for _, s := range []*corev1.SecretReference{pv.Spec.CSI.NodeStageSecretRef, pv.Spec.CSI.NodePublishSecretRef} {
					if s != nil {
						add(secretsResource, s.Namespace, s.Name)
					}
				}
			}
		}
	}
	return refs
}

// boundTo tells whether a volume is the claim's. A claim can name any volume; only one that names the claim back gives it its
// secrets, or a claim would be a way to other namespaces' secrets.
func boundTo(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	ref := pv.Spec.ClaimRef
	return ref != nil && ref.Namespace == claim.Namespace && ref.Name == claim.Name && (ref.UID == "" || ref.UID == claim.UID)
}

// getter is the part of projections.Reader that references need.
type getter interface {
	Get(gr domain.Resource, namespace, name string) (*projections.Object, bool)
}

func typed[T any](o *projections.Object, ok bool) (T, bool) {
	var zero T
	if !ok {
		return zero, false
	}
	obj, err := o.Typed()
	if err != nil {
		return zero, false
	}
	t, ok := obj.(T)
	return t, ok
}

// bare is a reference without the uid.
func bare(ref domain.Ref) domain.Ref {
	ref.UID = ""
	return ref
}

// Wanted is the definition of what concerns a node: every object that its copy holds when the cluster is as the reader has it,
// by reference without uid. A feed leads to the same, step by step.
func Wanted(kinds *domain.Set, view projections.Reader, node string) map[domain.Ref]*projections.Object {
	r := newRules(kinds)
	out := r.local(view, podsOf(view, node), node)
	for gr := range r.shared {
		for o := range view.List(gr, "") {
			out[bare(o.Ref)] = o
		}
	}
	return out
}

// local is the part of Wanted that is not the same for all nodes.
func (r *rules) local(view getter, pods []*projections.Object, node string) map[domain.Ref]*projections.Object {
	out := map[domain.Ref]*projections.Object{}
	if o, ok := view.Get(nodesResource, "", node); ok {
		out[bare(o.Ref)] = o
	}
	for _, o := range pods {
		out[bare(o.Ref)] = o
		pod, ok := typed[*corev1.Pod](o, true)
		if !ok {
			continue
		}
		for ref := range r.references(view, pod) {
			if target, ok := view.Get(ref.GroupResource(), ref.Namespace, ref.Name); ok {
				out[ref] = target
			}
		}
	}
	return out
}

func podsOf(view projections.Reader, node string) []*projections.Object {
	return slices.Collect(view.Index(podsResource, domain.NodeIndex, node))
}

// nodeOf is the node that a pod is bound to, "" for none.
func nodeOf(o *projections.Object) string {
	if o == nil {
		return ""
	}
	if pod, ok := typed[*corev1.Pod](o, true); ok {
		return pod.Spec.NodeName
	}
	return ""
}

// sortedRefs orders references: what pods need before the pods.
func sortedRefs(refs map[domain.Ref]bool) []domain.Ref {
	return slices.SortedFunc(maps.Keys(refs), compareRefs)
}

func compareRefs(a, b domain.Ref) int {
	if x, y := a.Resource == podsResource.Resource, b.Resource == podsResource.Resource; x != y {
		if x {
			return 1
		}
		return -1
	}
	return strings.Compare(a.String(), b.String())
}
