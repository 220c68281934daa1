package scheduler

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

type (
	nodeOption func(*corev1.Node)
	podOption  func(*corev1.Pod)
)

// list reads "cpu=1,memory=2Gi".
func list(s string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for part := range strings.SplitSeq(s, ",") {
		if name, value, ok := strings.Cut(part, "="); ok {
			l[corev1.ResourceName(name)] = resource.MustParse(value)
		}
	}
	return l
}

func node(name string, opts ...nodeOption) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{corev1.LabelHostname: name}},
		Status:     corev1.NodeStatus{Allocatable: list("cpu=4,memory=8Gi,pods=110")},
	}
	for _, o := range opts {
		o(n)
	}
	return n
}

func allocatable(s string) nodeOption {
	return func(n *corev1.Node) { n.Status.Allocatable = list(s) }
}

func nodeLabels(s string) nodeOption {
	return func(n *corev1.Node) {
		for part := range strings.SplitSeq(s, ",") {
			k, v, _ := strings.Cut(part, "=")
			n.Labels[k] = v
		}
	}
}

func zone(z string) nodeOption { return nodeLabels(corev1.LabelTopologyZone + "=" + z) }

func taint(key, value string, effect corev1.TaintEffect) nodeOption {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: effect})
	}
}

func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }

func image(name string, mib int64) nodeOption {
	return func(n *corev1.Node) {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{name}, SizeBytes: mib << 20})
	}
}

func pod(name string, opts ...podOption) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{}},
		Spec: corev1.PodSpec{
			SchedulerName: DefaultName,
			Containers:    []corev1.Container{{Name: "c", Image: "img:1"}},
		},
	}
	for _, o := range opts {
		o(p)
	}
	return p
}

func requests(s string) podOption {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list(s) }
}

func on(node string) podOption { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func podLabels(s string) podOption {
	return func(p *corev1.Pod) {
		for part := range strings.SplitSeq(s, ",") {
			k, v, _ := strings.Cut(part, "=")
			p.Labels[k] = v
		}
	}
}

func owned(owner string) podOption {
	return func(p *corev1.Pod) {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: owner, UID: types.UID(owner), Controller: &yes}}
	}
}

func priority(n int32) podOption { return func(p *corev1.Pod) { p.Spec.Priority = &n } }

func selects(s string) podOption {
	return func(p *corev1.Pod) {
		k, v, _ := strings.Cut(s, "=")
		p.Spec.NodeSelector = map[string]string{k: v}
	}
}

func tolerates(key string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists})
	}
}

func hostport(port int32, ip string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{HostPort: port, ContainerPort: 80, HostIP: ip})
	}
}

func affinity(p *corev1.Pod) *corev1.Affinity {
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{}
	}
	return p.Spec.Affinity
}

func nodeAffinity(field bool, key string, op corev1.NodeSelectorOperator, values ...string) podOption {
	return func(p *corev1.Pod) {
		req := corev1.NodeSelectorRequirement{Key: key, Operator: op, Values: values}
		term := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{req}}
		if field {
			term = corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{req}}
		}
		affinity(p).NodeAffinity = &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term}},
		}
	}
}

func prefersNode(key, value string, weight int32) podOption {
	return func(p *corev1.Pod) {
		affinity(p).NodeAffinity = &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
			Weight: weight,
			Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
				{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}},
			}},
		}}}
	}
}

func term(label, key string) corev1.PodAffinityTerm {
	k, v, _ := strings.Cut(label, "=")
	return corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}, TopologyKey: key}
}

func near(label, key string) podOption {
	return func(p *corev1.Pod) {
		affinity(p).PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term(label, key)}}
	}
}

func awayFrom(label, key string) podOption {
	return func(p *corev1.Pod) {
		affinity(p).PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term(label, key)}}
	}
}

func ratherNear(label, key string) podOption {
	return func(p *corev1.Pod) {
		affinity(p).PodAffinity = &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{Weight: 100, PodAffinityTerm: term(label, key)},
		}}
	}
}

func spreadOver(key, label string, skew int32, when corev1.UnsatisfiableConstraintAction) podOption {
	return func(p *corev1.Pod) {
		k, v, _ := strings.Cut(label, "=")
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, corev1.TopologySpreadConstraint{
			MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: when, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{k: v}},
		})
	}
}

// given makes a state of nodes, pods, services and namespaces.
func given(objects ...any) *State {
	s := NewState()
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Node:
			s.SetNode(o)
		case *corev1.Pod:
			s.SetPod(o)
		case *corev1.Service:
			s.SetService(o)
		case *corev1.Namespace:
			s.SetNamespace(o)
		case *corev1.PersistentVolumeClaim:
			s.SetClaim(o)
		case *corev1.PersistentVolume:
			s.SetVolume(o)
		case *storagev1.StorageClass:
			s.SetStorageClass(o)
		case *policyv1.PodDisruptionBudget:
			s.SetBudget(o)
		default:
			panic(fmt.Sprintf("no place for a %T", o))
		}
	}
	return s
}

func pendings(pods ...*corev1.Pod) []Pending {
	list := make([]Pending, len(pods))
	for i, p := range pods {
		list[i] = NewPending(p)
	}
	return list
}
