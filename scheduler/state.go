package scheduler

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

func quantity(v int64) resource.Quantity { return *resource.NewQuantity(v, resource.BinarySI) }
func milliQuantity(v int64) resource.Quantity {
	return *resource.NewMilliQuantity(v, resource.DecimalSI)
}

// nodeInfo is a node and what its pods take of it. Once a snapshot holds it, it never changes.
type nodeInfo struct {
	generation  uint64 // of the State that may still change it
	name        string
	hash        uint64
	node        *corev1.Node // nil: pods are bound to a node that is not there (yet, or any more)
	allocatable amounts
	maxPods     int64
	images      map[string]int64 // size in bytes by name; shared

	used         usage
	pods         []*podInfo
	ports        []hostPort
	owners       []ownerCount // sorted by owner
	withAffinity int          // pods that have terms about other pods
	nominated    []*podInfo   // pods for which room is held here
}

// ownerCount is how many pods of one controller run on a node, those being deleted left out.
type ownerCount struct {
	owner types.UID
	count int32
}

func (n *nodeInfo) ownerCount(owner types.UID) int32 {
	i, ok := slices.BinarySearchFunc(n.owners, owner, compareOwner)
	if !ok {
		return 0
	}
	return n.owners[i].count
}

func compareOwner(e ownerCount, owner types.UID) int {
	return strings.Compare(string(e.owner), string(owner))
}

func (n *nodeInfo) add(p *podInfo, sign int64) {
	n.used = n.used.plus(p, sign)
	if sign > 0 {
		n.pods = append(n.pods, p)
		n.ports = append(n.ports, p.ports...)
	} else {
		n.pods = slices.DeleteFunc(n.pods, func(q *podInfo) bool { return q == p })
		for _, hp := range p.ports {
			if i := slices.Index(n.ports, hp); i >= 0 {
				n.ports = slices.Delete(n.ports, i, i+1)
			}
		}
	}
	if p.affinity != nil {
		n.withAffinity += int(sign)
	}
	if p.owner == "" || p.terminating {
		return
	}
	i, ok := slices.BinarySearchFunc(n.owners, p.owner, compareOwner)
	if !ok {
		n.owners = slices.Insert(n.owners, i, ownerCount{owner: p.owner})
	}
	if n.owners[i].count += int32(sign); n.owners[i].count == 0 {
		n.owners = slices.Delete(n.owners, i, i+1)
	}
}

// State keeps a Snapshot up to date, at the cost of each change and never of the whole cluster. It is used by one goroutine.
type State struct {
	generation uint64
	nodes      map[string]*nodeInfo
	order      []string // names of the nodes that are there, sorted
	pods       map[types.NamespacedName]boundPod
	// By namespace; the slices and the maps are replaced, never changed, once shared.
	services    map[string][]serviceSelector
	budgets     map[string][]budget
	namespaces  map[string]labels.Set
	storage     storage
	shared      bool                            // all of these are in a snapshot
	nominations map[types.NamespacedName]string // nodes
}

type boundPod struct {
	info *podInfo
	node string
}

type serviceSelector struct {
	name     string
	selector labels.Selector
}

// NewState returns the state of an empty cluster.
func NewState() *State {
	return &State{
		generation: 1,
		nodes:      map[string]*nodeInfo{},
		pods:       map[types.NamespacedName]boundPod{},
		services:   map[string][]serviceSelector{},
		budgets:    map[string][]budget{},
		storage: storage{
			claims: map[types.NamespacedName]claim{}, volumes: map[string]*nodeaffinity.NodeSelector{}, classes: map[string]storageClass{},
		},
		namespaces: map[string]labels.Set{}, nominations: map[types.NamespacedName]string{},
	}
}

// own returns the node's description, free to be changed.
func (s *State) own(name string) *nodeInfo {
	n, ok := s.nodes[name]
	if !ok {
		n = &nodeInfo{generation: s.generation, name: name, hash: hashString(name)}
		s.nodes[name] = n
		return n
	}
	if n.generation != s.generation {
		c := *n
		c.generation = s.generation
		c.pods = slices.Clone(n.pods)
		c.ports = slices.Clone(n.ports)
		c.owners = slices.Clone(n.owners)
		c.nominated = slices.Clone(n.nominated)
		n = &c
		s.nodes[name] = n
	}
	return n
}

// SetNode adds a node or replaces its description. The node must not change afterwards.
func (s *State) SetNode(node *corev1.Node) {
	n := s.own(node.Name)
	if n.node == nil {
		i, _ := slices.BinarySearch(s.order, node.Name)
		s.order = slices.Insert(s.order, i, node.Name)
	}
	n.node = node
	n.allocatable = amountsOf(node.Status.Allocatable)
	pods := node.Status.Allocatable[corev1.ResourcePods]
	n.maxPods = pods.Value()
	n.images = nil
	for _, image := range node.Status.Images {
		for _, name := range image.Names {
			if n.images == nil {
				n.images = make(map[string]int64, len(node.Status.Images))
			}
			n.images[name] = image.SizeBytes
		}
	}
}

// RemoveNode takes a node away. Its pods are remembered in case it comes back before they go.
func (s *State) RemoveNode(name string) {
	if n, ok := s.nodes[name]; !ok || n.node == nil {
		return
	}
	if i, ok := slices.BinarySearch(s.order, name); ok {
		s.order = slices.Delete(s.order, i, i+1)
	}
	n := s.own(name)
	n.node = nil
	s.dropIfEmpty(n)
}

func (s *State) dropIfEmpty(n *nodeInfo) {
	if n.node == nil && len(n.pods) == 0 && len(n.nominated) == 0 {
		delete(s.nodes, n.name)
	}
}

// SetPod takes in a pod as it is now: one that is bound and not finished takes its share of its node, any other takes nothing.
// It returns whether anything that matters to other pods changed.
func (s *State) SetPod(pod *corev1.Pod) bool {
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return s.RemovePod(podKey(pod))
	}
	return s.place(newPodInfo(pod), pod.Spec.NodeName)
}

// Assume counts a pod as bound to a node before it is seen to be: SetPod or RemovePod later says what became of it.
func (s *State) Assume(p Pending, node string) { s.place(p.info, node) }

func (s *State) place(info *podInfo, node string) bool {
	key := podKey(info.pod)
	if old, ok := s.pods[key]; ok {
		if old.node == node && old.info.same(info) {
			return false
		}
		s.RemovePod(key)
	}
	s.own(node).add(info, 1)
	s.pods[key] = boundPod{info, node}
	return true
}

// RemovePod takes a pod away and returns whether it took a share of a node.
func (s *State) RemovePod(key types.NamespacedName) bool {
	b, ok := s.pods[key]
	if !ok {
		return false
	}
	delete(s.pods, key)
	n := s.own(b.node)
	n.add(b.info, -1)
	s.dropIfEmpty(n)
	return true
}

// NodeOf returns the node that a pod is bound to, or assumed to be; "" if neither.
func (s *State) NodeOf(key types.NamespacedName) string { return s.pods[key].node }

// SetService takes in a service: pods without a controller are spread with those of their service.
func (s *State) SetService(svc *corev1.Service) {
	s.RemoveService(svc.Namespace, svc.Name)
	if len(svc.Spec.Selector) == 0 {
		return
	}
	list := slices.Clone(s.services[svc.Namespace])
	i, _ := slices.BinarySearchFunc(list, svc.Name, func(e serviceSelector, name string) int { return strings.Compare(e.name, name) })
	s.services[svc.Namespace] = slices.Insert(list, i, serviceSelector{svc.Name, labels.SelectorFromSet(svc.Spec.Selector)})
}

// RemoveService forgets a service.
func (s *State) RemoveService(namespace, name string) {
	s.unshare()
	list := slices.DeleteFunc(slices.Clone(s.services[namespace]), func(e serviceSelector) bool { return e.name == name })
	if len(list) == 0 {
		delete(s.services, namespace)
		return
	}
	s.services[namespace] = list
}

// SetBudget takes in a disruption budget: pods that it protects are the last to be preempted.
func (s *State) SetBudget(b *policyv1.PodDisruptionBudget) {
	s.RemoveBudget(b.Namespace, b.Name)
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil || selector.Empty() {
		return // it protects nobody
	}
	s.budgets[b.Namespace] = append(slices.Clone(s.budgets[b.Namespace]), budget{b.Name, selector, b.Status.DisruptionsAllowed})
}

// RemoveBudget forgets a disruption budget.
func (s *State) RemoveBudget(namespace, name string) {
	s.unshare()
	list := slices.DeleteFunc(slices.Clone(s.budgets[namespace]), func(e budget) bool { return e.name == name })
	if len(list) == 0 {
		delete(s.budgets, namespace)
		return
	}
	s.budgets[namespace] = list
}

// SetNamespace takes in a namespace's labels, which pod affinity can select by.
func (s *State) SetNamespace(ns *corev1.Namespace) {
	s.unshare()
	s.namespaces[ns.Name] = ns.Labels
}

// RemoveNamespace forgets a namespace.
func (s *State) RemoveNamespace(name string) {
	s.unshare()
	delete(s.namespaces, name)
}

func (s *State) unshare() {
	if s.shared {
		s.services, s.budgets, s.namespaces = maps.Clone(s.services), maps.Clone(s.budgets), maps.Clone(s.namespaces)
		s.storage = storage{maps.Clone(s.storage.claims), maps.Clone(s.storage.volumes), maps.Clone(s.storage.classes)}
		s.shared = false
	}
}

// Snapshot is the cluster as the scheduler sees it at one position of the log. It never changes and copies are free.
type Snapshot struct {
	Position   uint64
	nodes      []*nodeInfo // sorted by name
	services   map[string][]serviceSelector
	budgets    map[string][]budget
	namespaces map[string]labels.Set
	storage    storage
}

// Snapshot returns the state as a value that later changes leave alone, at the cost of one pointer a node.
func (s *State) Snapshot(position uint64) Snapshot {
	s.generation++
	s.shared = true
	nodes := make([]*nodeInfo, len(s.order))
	for i, name := range s.order {
		nodes[i] = s.nodes[name]
	}
	return Snapshot{Position: position, nodes: nodes, services: s.services, budgets: s.budgets, namespaces: s.namespaces, storage: s.storage}
}

// Len is the number of nodes.
func (s Snapshot) Len() int { return len(s.nodes) }

// hashString is 64-bit FNV-1a.
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix spreads the bits of a hash (the finalizer of SplitMix64).
func mix(z uint64) uint64 {
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}
