package containers

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// The kernel's bounds, and the period in which a CPU quota is spent (cgroup v1 "cpu.cfs_period_us").
const (
	minShares       = 2
	maxShares       = 262144
	sharesPerCPU    = 1024
	quotaPeriod     = 100000 // microseconds
	minQuota        = 1000   // microseconds
	milliCPUPerCPU  = 1000
	bestEffortAdj   = 1000
	guaranteedAdj   = -997
	sandboxOOMScore = -998
	minOOMScore     = -1000
)

// SharesOf turns a CPU request in thousandths into cgroup v1 shares.
func SharesOf(milli int64) uint64 {
	if milli <= 0 {
		return minShares
	}
	return uint64(min(max(milli*sharesPerCPU/milliCPUPerCPU, minShares), maxShares))
}

// QuotaOf turns a CPU limit in thousandths into microseconds per period of 100 ms; 0 is no limit.
func QuotaOf(milli int64) int64 {
	if milli <= 0 {
		return 0
	}
	return max(milli*quotaPeriod/milliCPUPerCPU, minQuota)
}

// WeightOf turns cgroup v1 shares (2..262144) into a cgroup v2 weight (1..10000), as the runtimes do.
func WeightOf(shares uint64) uint64 {
	if shares == 0 {
		return 0
	}
	return 1 + ((min(max(shares, minShares), maxShares)-minShares)*9999)/(maxShares-minShares)
}

func milli(list corev1.ResourceList, name corev1.ResourceName) (int64, bool) {
	q, ok := list[name]
	return q.MilliValue(), ok
}

func value(list corev1.ResourceList, name corev1.ResourceName) int64 {
	q, ok := list[name]
	if !ok {
		return 0
	}
	return q.Value()
}

// containerResources are the limits of one container.
func containerResources(c *corev1.Container) *specs.LinuxResources {
	request, hasRequest := milli(c.Resources.Requests, corev1.ResourceCPU)
	limit, hasLimit := milli(c.Resources.Limits, corev1.ResourceCPU)
	if !hasRequest && hasLimit {
		request = limit
	}
	shares := SharesOf(request)
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}}
	if quota := QuotaOf(limit); quota > 0 {
		period := uint64(quotaPeriod)
		r.CPU.Quota, r.CPU.Period = &quota, &period
	}
	if memory := value(c.Resources.Limits, corev1.ResourceMemory); memory > 0 {
		// No swap beyond the limit: on both versions of cgroups the container gets what it asked for, not more.
		swap := memory
		r.Memory = &specs.LinuxMemory{Limit: &memory, Swap: &swap}
	}
	return r
}

// PodResources are the limits of a pod as a whole, which its cgroup enforces beside those of the containers.
type PodResources struct {
	CPUShares uint64
	CPUQuota  int64 // microseconds per 100 ms; 0: none
	Memory    int64 // bytes; 0: none
	Pids      int64 // 0: none
}

// PodResourcesOf adds up what a pod's containers ask for: the containers that run together, or the largest init
// container if that needs more, plus the pod's overhead. A limit counts only where every container has one.
func PodResourcesOf(pod *corev1.Pod, pids int64) PodResources {
	cpuRequest, _ := podTotal(pod, false, corev1.ResourceCPU)
	cpuLimit, cpuLimited := podTotal(pod, true, corev1.ResourceCPU)
	memoryLimit, memoryLimited := podTotal(pod, true, corev1.ResourceMemory)
	r := PodResources{CPUShares: SharesOf(cpuRequest.MilliValue()), Pids: pids}
	if cpuLimited {
		r.CPUQuota = QuotaOf(cpuLimit.MilliValue())
	}
	if memoryLimited {
		r.Memory = memoryLimit.Value()
	}
	return r
}

func podTotal(pod *corev1.Pod, limits bool, name corev1.ResourceName) (total resource.Quantity, all bool) {
	all = true
	if pod.Spec.Resources != nil { // limits of the pod as a whole say it all
		list := pod.Spec.Resources.Requests
		if limits {
			list = pod.Spec.Resources.Limits
		}
		if q, ok := list[name]; ok {
			return q, true
		}
	}
	of := func(c *corev1.Container) resource.Quantity {
		list := c.Resources.Requests
		if limits {
			list = c.Resources.Limits
		}
		q, ok := list[name]
		if !ok {
			if !limits {
				return c.Resources.Limits[name]
			}
			all = false
		}
		return q
	}
	for i := range pod.Spec.Containers {
		total.Add(of(&pod.Spec.Containers[i]))
	}
	var sidecars, peak resource.Quantity
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		q := of(c)
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecars.Add(q)
			total.Add(q)
			q = resource.Quantity{}
		}
		q.Add(sidecars)
		if q.Cmp(peak) > 0 {
			peak = q
		}
	}
	if peak.Cmp(total) > 0 {
		total = peak
	}
	if overhead, ok := pod.Spec.Overhead[name]; ok && !total.IsZero() {
		total.Add(overhead)
	}
	return total, all
}

// oomScoreAdj says whom the kernel kills first when the machine runs out of memory: those who asked for little of it.
func oomScoreAdj(pod *corev1.Pod, c *corev1.Container, qos corev1.PodQOSClass, nodeMemory int64) int {
	switch {
	case pod.Spec.PriorityClassName == "system-node-critical", qos == corev1.PodQOSGuaranteed:
		return guaranteedAdj
	case qos == corev1.PodQOSBestEffort:
		return bestEffortAdj
	}
	request := value(c.Resources.Requests, corev1.ResourceMemory)
	if nodeMemory <= 0 {
		return bestEffortAdj - 1
	}
	adj := 1000 - 1000*request/nodeMemory
	// Burstable pods stand between the guaranteed, who go last, and those who asked for nothing.
	return int(min(max(adj, 1000+guaranteedAdj), bestEffortAdj-1))
}

// QOSClass returns the class of a pod: what the API server computed, or what follows from its resources.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	any, guaranteed := false, true
	check := func(c *corev1.Container) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, hasRequest := c.Resources.Requests[name]
			limit, hasLimit := c.Resources.Limits[name]
			if hasRequest && !request.IsZero() || hasLimit && !limit.IsZero() {
				any = true
			}
			if !hasLimit || limit.IsZero() || hasRequest && request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		check(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		check(&pod.Spec.Containers[i])
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
