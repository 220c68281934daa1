package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// What a container without a request counts as when nodes are scored (never when they are filtered), so that such pods
// spread as well: a tenth of a core and 200 MiB, as in Kubernetes.
const (
	assumedMilliCPU = 100
	assumedMemory   = 200 << 20
)

// amounts of resources. A copy is independent of the original: others is never changed in place.
type amounts struct {
	cpu     int64 // millicores
	memory  int64 // bytes
	storage int64 // bytes of ephemeral storage
	others  []amount
}

// amount of an extended resource or of huge pages; others is sorted by name.
type amount struct {
	name  corev1.ResourceName
	value int64
}

func amountsOf(list corev1.ResourceList) amounts {
	var a amounts
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			a.cpu = q.MilliValue()
		case corev1.ResourceMemory:
			a.memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			a.storage = q.Value()
		case corev1.ResourcePods:
		default:
			if v := q.Value(); v != 0 {
				a.others = append(a.others, amount{name, v})
			}
		}
	}
	slices.SortFunc(a.others, func(x, y amount) int { return strings.Compare(string(x.name), string(y.name)) })
	return a
}

func (a *amounts) get(name corev1.ResourceName) int64 {
	for _, o := range a.others {
		if o.name == name {
			return o.value
		}
	}
	return 0
}

// plus returns a + sign*b.
func (a amounts) plus(b *amounts, sign int64) amounts {
	a.cpu += sign * b.cpu
	a.memory += sign * b.memory
	a.storage += sign * b.storage
	if len(b.others) == 0 {
		return a
	}
	sum := slices.Clone(a.others)
	for _, o := range b.others {
		i, found := slices.BinarySearchFunc(sum, o.name, func(e amount, n corev1.ResourceName) int {
			return strings.Compare(string(e.name), string(n))
		})
		if found {
			sum[i].value += sign * o.value
		} else {
			sum = slices.Insert(sum, i, amount{o.name, sign * o.value})
		}
	}
	a.others = slices.DeleteFunc(sum, func(e amount) bool { return e.value == 0 })
	return a
}

func (a *amounts) equal(b *amounts) bool {
	return a.cpu == b.cpu && a.memory == b.memory && a.storage == b.storage && slices.Equal(a.others, b.others)
}

// usage is what the pods of a node take.
type usage struct {
	requested amounts
	// The requests of cpu and memory with the assumed ones filled in, for scores.
	scoredCPU, scoredMemory int64
	pods                    int64
}

func (u usage) plus(p *podInfo, sign int64) usage {
	u.requested = u.requested.plus(&p.requests, sign)
	u.scoredCPU += sign * p.scoredCPU
	u.scoredMemory += sign * p.scoredMemory
	u.pods += sign
	return u
}

// fits tells whether a pod fits into what is left of a node.
func fits(p *podInfo, u *usage, n *nodeInfo) bool {
	if u.pods+1 > n.maxPods {
		return false
	}
	r := &p.requests
	if r.cpu > 0 && r.cpu > n.allocatable.cpu-u.requested.cpu ||
		r.memory > 0 && r.memory > n.allocatable.memory-u.requested.memory ||
		r.storage > 0 && r.storage > n.allocatable.storage-u.requested.storage {
		return false
	}
	for _, o := range r.others {
		if o.value > n.allocatable.get(o.name)-u.requested.get(o.name) {
			return false
		}
	}
	return true
}

// misfits calls yield with the reason for each resource that a pod finds too little of.
func misfits(p *podInfo, u *usage, n *nodeInfo, yield func(reason string)) {
	if u.pods+1 > n.maxPods {
		yield("Too many pods")
	}
	r := &p.requests
	if r.cpu > 0 && r.cpu > n.allocatable.cpu-u.requested.cpu {
		yield("Insufficient cpu")
	}
	if r.memory > 0 && r.memory > n.allocatable.memory-u.requested.memory {
		yield("Insufficient memory")
	}
	if r.storage > 0 && r.storage > n.allocatable.storage-u.requested.storage {
		yield("Insufficient ephemeral-storage")
	}
	for _, o := range r.others {
		if o.value > n.allocatable.get(o.name)-u.requested.get(o.name) {
			yield("Insufficient " + string(o.name))
		}
	}
}
