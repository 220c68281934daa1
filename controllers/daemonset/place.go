package daemonset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// withTolerations returns a template with what every daemon tolerates: it is to stay while its node is in trouble.
func withTolerations(t *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	t = t.DeepCopy()
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	add := func(key string, effect corev1.TaintEffect) {
		wanted := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
		for i, have := range t.Spec.Tolerations {
			if have.MatchToleration(&wanted) {
				t.Spec.Tolerations[i] = wanted
				return
			}
		}
		t.Spec.Tolerations = append(t.Spec.Tolerations, wanted)
	}
	add(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	if t.Spec.HostNetwork {
		add(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)
	}
	return t
}

// fits says whether a pod of a template shall be started on a node, and whether one that runs there may stay.
func fits(t *corev1.PodTemplateSpec, n *corev1.Node) (start, stay bool) {
	if t.Spec.NodeName != "" && t.Spec.NodeName != n.Name {
		return false, false
	}
	ok, err := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: t.Spec}).Match(n)
	if err != nil || !ok {
		return false, false
	}
	start, stay = true, true
	for i := range n.Spec.Taints {
		taint := &n.Spec.Taints[i]
		if tolerated(t.Spec.Tolerations, taint) {
			continue
		}
		switch taint.Effect {
		case corev1.TaintEffectNoExecute:
			start, stay = false, false
		case corev1.TaintEffectNoSchedule:
			start = false
		}
	}
	return start, stay
}

func tolerated(ts []corev1.Toleration, taint *corev1.Taint) bool {
	for i := range ts {
		t := &ts[i]
		if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
			continue
		}
		if t.Operator == corev1.TolerationOpExists || (t.Operator == "" || t.Operator == corev1.TolerationOpEqual) && t.Key != "" && t.Value == taint.Value {
			return true
		}
	}
	return false
}

// pinTo makes the scheduler place a pod on one node and no other.
func pinTo(spec *corev1.PodSpec, name string) {
	term := corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{
		{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{name}},
	}}
	if spec.Affinity == nil {
		spec.Affinity = &corev1.Affinity{}
	}
	if spec.Affinity.NodeAffinity == nil {
		spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	// What the template requires of nodes has been checked; replacing it is what Kubernetes does too.
	spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term}}
}

// target is the node that a pod is on, or is pinned to.
func target(p *corev1.Pod) string {
	if p.Spec.NodeName != "" || p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil {
		return p.Spec.NodeName
	}
	required := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		return ""
	}
	for _, term := range required.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

func controllerOf(r *appsv1.ControllerRevision, ok bool) types.UID {
	if !ok {
		return ""
	}
	if c := metav1.GetControllerOfNoCopy(r); c != nil {
		return c.UID
	}
	return ""
}
