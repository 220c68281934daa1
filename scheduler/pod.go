package scheduler

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
)

// podInfo is what the scheduler needs to know of a pod, worked out once. It never changes.
type podInfo struct {
	pod                     *corev1.Pod
	requests                amounts
	scoredCPU, scoredMemory int64
	ports                   []hostPort
	claims                  []claimRef
	owner                   types.UID // of the controller, "" without one
	terminating             bool
	affinity                *podAffinity // nil without terms about other pods
}

// hostPort is a port of the node that a container takes.
type hostPort struct {
	ip       string // "0.0.0.0" takes the port on every address
	protocol corev1.Protocol
	port     int32
}

func (a hostPort) conflicts(b hostPort) bool {
	return a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || a.ip == anyIP || b.ip == anyIP)
}

const anyIP = "0.0.0.0"

// podKey names a pod.
func podKey(p *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
}

func newPodInfo(pod *corev1.Pod) *podInfo {
	p := &podInfo{pod: pod, terminating: pod.DeletionTimestamp != nil}
	p.requests = amountsOf(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true}))
	p.scoredCPU, p.scoredMemory = p.requests.cpu, p.requests.memory
	if missesRequests(pod) {
		filled := amountsOf(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{
			UseStatusResources: true,
			NonMissingContainerRequests: corev1.ResourceList{
				corev1.ResourceCPU:    milliQuantity(assumedMilliCPU),
				corev1.ResourceMemory: quantity(assumedMemory),
			},
		}))
		p.scoredCPU, p.scoredMemory = filled.cpu, filled.memory
	}
	p.ports = hostPortsOf(pod)
	p.claims = claimsOf(pod)
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		p.owner = ref.UID
	}
	p.affinity = newPodAffinity(pod)
	return p
}

func missesRequests(pod *corev1.Pod) bool {
	for i := range pod.Spec.Containers {
		r := pod.Spec.Containers[i].Resources.Requests
		if _, ok := r[corev1.ResourceCPU]; !ok {
			return true
		}
		if _, ok := r[corev1.ResourceMemory]; !ok {
			return true
		}
	}
	return false
}

func hostPortsOf(pod *corev1.Pod) []hostPort {
	var ports []hostPort
	take := func(c *corev1.Container) {
		for _, cp := range c.Ports {
			port := cp.HostPort
			if port == 0 && pod.Spec.HostNetwork {
				port = cp.ContainerPort
			}
			if port <= 0 {
				continue
			}
			hp := hostPort{ip: cp.HostIP, protocol: cp.Protocol, port: port}
			if hp.ip == "" || hp.ip == "::" {
				hp.ip = anyIP
			}
			if hp.protocol == "" {
				hp.protocol = corev1.ProtocolTCP
			}
			ports = append(ports, hp)
		}
	}
	for i := range pod.Spec.Containers {
		take(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			take(c)
		}
	}
	return ports
}

// same tells whether two descriptions of a pod weigh the same on a node, so that a mere status change costs nothing. The terms about
// other pods cannot be changed in a pod's life.
func (p *podInfo) same(q *podInfo) bool {
	return p.pod.UID == q.pod.UID && p.owner == q.owner && p.terminating == q.terminating &&
		p.requests.equal(&q.requests) && p.scoredCPU == q.scoredCPU && p.scoredMemory == q.scoredMemory &&
		slices.Equal(p.ports, q.ports) && maps.Equal(p.pod.Labels, q.pod.Labels) && priorityOf(p.pod) == priorityOf(q.pod) &&
		(p.affinity == nil) == (q.affinity == nil)
}

// Pending is a pod that waits for a node.
type Pending struct {
	info *podInfo
	// class is the same for pods that every node treats alike: they share the work of filtering and scoring.
	class string
	// nominated is the node that pods were asked to leave for this one; "" for none.
	nominated string
}

// NewPending describes a pod that waits for a node. The pod must not change afterwards.
func NewPending(pod *corev1.Pod) Pending {
	info := newPodInfo(pod)
	return Pending{info: info, class: classOf(info)}
}

// Pod returns the pod.
func (p Pending) Pod() *corev1.Pod { return p.info.pod }

// For returns the pod as one for which room is being made on a node.
func (p Pending) For(node string) Pending {
	p.nominated = node
	return p
}

// Wants tells whether a pod is for this scheduler to place: not bound, not on its way out, not gated, not finished, and asking
// for the scheduler of this name.
func Wants(pod *corev1.Pod, schedulerName string) bool {
	return pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil && len(pod.Spec.SchedulingGates) == 0 &&
		pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed &&
		pod.Spec.SchedulerName == schedulerName
}

func priorityOf(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// compare orders pods by priority, then age, then name.
func (p Pending) compare(q Pending) int {
	a, b := p.info.pod, q.info.pod
	if x, y := priorityOf(a), priorityOf(b); x != y {
		if x > y {
			return -1
		}
		return 1
	}
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c
	}
	if a.Namespace != b.Namespace {
		if a.Namespace < b.Namespace {
			return -1
		}
		return 1
	}
	switch {
	case a.Name < b.Name:
		return -1
	case a.Name > b.Name:
		return 1
	}
	return 0
}

// classOf writes down everything that a filter or a score looks at.
func classOf(p *podInfo) string {
	pod := p.pod
	b := make([]byte, 0, 512)
	str := func(s string) {
		b = strconv.AppendInt(b, int64(len(s)), 10)
		b = append(b, ':')
		b = append(b, s...)
	}
	num := func(n int64) {
		b = strconv.AppendInt(b, n, 10)
		b = append(b, ';')
	}
	set := func(m map[string]string) {
		num(int64(len(m)))
		for _, k := range slices.Sorted(maps.Keys(m)) {
			str(k)
			str(m[k])
		}
	}
	str(pod.Namespace)
	str(string(p.owner))
	str(pod.Spec.NodeName)
	num(p.requests.cpu)
	num(p.requests.memory)
	num(p.requests.storage)
	num(p.scoredCPU)
	num(p.scoredMemory)
	num(int64(len(p.requests.others)))
	for _, o := range p.requests.others {
		str(string(o.name))
		num(o.value)
	}
	set(pod.Labels)
	set(pod.Spec.NodeSelector)
	num(int64(len(pod.Spec.Tolerations)))
	for i := range pod.Spec.Tolerations {
		t := &pod.Spec.Tolerations[i]
		str(t.Key)
		str(string(t.Operator))
		str(t.Value)
		str(string(t.Effect))
	}
	num(int64(len(p.ports)))
	for _, hp := range p.ports {
		str(hp.ip)
		str(string(hp.protocol))
		num(int64(hp.port))
	}
	num(int64(len(p.claims)))
	for _, c := range p.claims {
		str(c.name)
		if c.ephemeral {
			str(string(pod.UID))
		}
	}
	num(int64(len(pod.Spec.InitContainers)))
	for i := range pod.Spec.InitContainers {
		str(pod.Spec.InitContainers[i].Image)
	}
	for i := range pod.Spec.Containers {
		str(pod.Spec.Containers[i].Image)
	}
	// Rare enough that JSON, which cannot fail on these types, is cheap enough.
	if pod.Spec.Affinity != nil {
		j, _ := json.Marshal(pod.Spec.Affinity)
		str(string(j))
	}
	if len(pod.Spec.TopologySpreadConstraints) > 0 {
		j, _ := json.Marshal(pod.Spec.TopologySpreadConstraints)
		str(string(j))
	}
	return string(b)
}

func labelsOf(p *corev1.Pod) labels.Set { return labels.Set(p.Labels) }
