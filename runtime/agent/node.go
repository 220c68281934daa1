package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
)

// What is kept back from pods for the machine and the agent itself.
const (
	reservedMemory  = 100 << 20 // bytes
	lowDisk         = 10        // per cent free: below, the node says so
	lowMemory       = 100 << 20 // bytes
	shownImages     = 50
	kubeletVersion  = "v1.37.2"
	runtimeVersions = "shiplog://1.37.2"
)

// node tells the cluster of this machine: what it has, how it is, and that it lives.
type node struct {
	a     *Agent
	known *corev1.Node // as last seen
	ready func() error // nil when pods can run
}

// machine is what does not change while the agent runs.
type machine struct {
	info     corev1.NodeSystemInfo
	cpu      int
	memory   int64
	hostname string
	port     int32
}

func (a *Agent) describe(port int32) (machine, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return machine{}, fmt.Errorf("describing the machine: %w", err)
	}
	name, err := os.Hostname()
	if err != nil {
		return machine{}, fmt.Errorf("describing the machine: %w", err)
	}
	read := func(file string) string {
		data, _ := os.ReadFile(file)
		return strings.TrimSpace(string(data))
	}
	id := read("/etc/machine-id")
	if id == "" {
		id = strings.ReplaceAll(a.containers.BootID(), "-", "")
	}
	system := read("/sys/class/dmi/id/product_uuid")
	if system == "" {
		system = id
	}
	return machine{
		cpu: runtime.NumCPU(), memory: a.containers.MachineMemory(), hostname: name, port: port,
		info: corev1.NodeSystemInfo{
			MachineID: id, SystemUUID: system, BootID: a.containers.BootID(), KernelVersion: unix.ByteSliceToString(u.Release[:]),
			OSImage: osImage(read("/etc/os-release")), ContainerRuntimeVersion: runtimeVersions, KubeletVersion: kubeletVersion,
			OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
		},
	}, nil
}

func osImage(release string) string {
	for line := range strings.Lines(release) {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return "Linux"
}

// disk is how full the file system of the data directory is, in bytes.
type disk struct{ total, free int64 }

func (a *Agent) disk() disk {
	var st unix.Statfs_t
	if err := unix.Statfs(a.cfg.DataDir, &st); err != nil {
		return disk{}
	}
	return disk{total: int64(st.Blocks) * st.Bsize, free: int64(st.Bavail) * st.Bsize}
}

func (m machine) capacity(d disk, pods int) (capacity, allocatable corev1.ResourceList) {
	capacity = corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(m.cpu), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(m.memory, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(pods), resource.DecimalSI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(d.total, resource.BinarySI),
		"hugepages-2Mi":                 *resource.NewQuantity(0, resource.BinarySI),
	}
	allocatable = maps.Clone(capacity)
	allocatable[corev1.ResourceMemory] = *resource.NewQuantity(max(m.memory-reservedMemory, 0), resource.BinarySI)
	allocatable[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(d.total*9/10, resource.BinarySI)
	return capacity, allocatable
}

// labels that every node has.
func (m machine) labels(name string) map[string]string {
	return map[string]string{
		corev1.LabelHostname: name, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
}

// status of the node now. before gives conditions that have not changed the time of their change.
func (n *node) status(m machine, before corev1.NodeStatus, now time.Time) corev1.NodeStatus {
	s := *before.DeepCopy()
	d := n.a.disk()
	s.Capacity, s.Allocatable = m.capacity(d, n.a.cfg.MaxPods)
	s.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: n.a.cfg.NodeIP.String()},
		{Type: corev1.NodeHostName, Address: n.a.cfg.NodeName},
	}
	s.NodeInfo = m.info
	s.DaemonEndpoints.KubeletEndpoint.Port = m.port
	s.Images = n.images()
	set := func(kind corev1.NodeConditionType, on bool, reason, message string) {
		status := corev1.ConditionFalse
		if on {
			status = corev1.ConditionTrue
		}
		c := corev1.NodeCondition{
			Type: kind, Status: status, Reason: reason, Message: message,
			LastHeartbeatTime: metav1.NewTime(now.Truncate(time.Second)), LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
		}
		for i := range s.Conditions {
			if s.Conditions[i].Type == kind {
				if s.Conditions[i].Status == status {
					c.LastTransitionTime = s.Conditions[i].LastTransitionTime
				}
				s.Conditions[i] = c
				return
			}
		}
		s.Conditions = append(s.Conditions, c)
	}
	available := availableMemory()
	if available >= 0 && available < lowMemory {
		set(corev1.NodeMemoryPressure, true, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
	} else {
		set(corev1.NodeMemoryPressure, false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available")
	}
	if d.total > 0 && d.free*100/d.total < lowDisk {
		set(corev1.NodeDiskPressure, true, "KubeletHasDiskPressure", "kubelet has disk pressure")
	} else {
		set(corev1.NodeDiskPressure, false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
	}
	set(corev1.NodePIDPressure, false, "KubeletHasSufficientPID", "kubelet has sufficient PID available")
	if err := n.ready(); err != nil {
		set(corev1.NodeReady, false, "KubeletNotReady", err.Error())
	} else {
		set(corev1.NodeReady, true, "KubeletReady", "kubelet is posting ready status")
	}
	return s
}

func (n *node) images() []corev1.ContainerImage {
	var out []corev1.ContainerImage
	for _, i := range n.a.images.List() {
		names := append(slices.Clone(i.Digests), i.Tags...)
		if len(names) > 0 {
			out = append(out, corev1.ContainerImage{Names: names, SizeBytes: i.Size})
		}
	}
	sort.SliceStable(out, func(a, b int) bool { return out[a].SizeBytes > out[b].SizeBytes })
	return out[:min(len(out), shownImages)]
}

func availableMemory() int64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "MemAvailable:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return -1
			}
			return kb << 10
		}
	}
	return -1
}

// register makes the Node, or brings its labels up to date, and sends its status.
func (n *node) register(ctx context.Context, m machine) error {
	labels := m.labels(n.a.cfg.NodeName)
	maps.Copy(labels, n.a.cfg.Labels)
	want := &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: n.a.cfg.NodeName, Labels: labels, Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
		Spec:       corev1.NodeSpec{Taints: n.a.cfg.Taints},
	}
	if n.a.cfg.PodCIDR.IsValid() {
		want.Spec.PodCIDR, want.Spec.PodCIDRs = n.a.cfg.PodCIDR.String(), []string{n.a.cfg.PodCIDR.String()}
	}
	want.Status = n.status(m, want.Status, n.a.now())
	r, err := n.a.cfg.Upstream.Bus.Do(ctx, commands.Command{Verb: commands.Create, Resource: nodesVersioned, Name: want.Name, Object: want, Actor: n.a.cfg.actor()})
	if err == nil {
		if made, ok := r.Object.(*corev1.Node); ok {
			n.known = made
		}
		return n.send(ctx, m)
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("registering the node: %w", err)
	}
	patch, err := labelPatch(labels)
	if err != nil {
		return err
	}
	r, err = n.a.cfg.Upstream.Bus.Do(ctx, commands.Command{
		Verb: commands.Patch, Resource: nodesVersioned, Name: want.Name, Patch: patch, PatchType: "application/merge-patch+json", Actor: n.a.cfg.actor(),
	})
	if err != nil {
		return fmt.Errorf("registering the node: %w", err)
	}
	if have, ok := r.Object.(*corev1.Node); ok {
		n.known = have
	}
	return n.send(ctx, m)
}

// send sends the status if it differs from what the cluster has, or if that is getting old.
func (n *node) send(ctx context.Context, m machine) error {
	if n.known == nil {
		return errors.New("the node is not registered")
	}
	// Others write to the Node too: what they wrote is what ours is compared with.
	if newer, ok := n.a.cluster.node(n.a.cfg.NodeName); ok && newer.UID == n.known.UID && positionOf(newer) > positionOf(n.known) {
		n.known = newer
	}
	now := n.a.now()
	status := n.status(m, n.known.Status, now)
	if !n.stale(now) && sameNode(n.known.Status, status) {
		return nil
	}
	patch, err := nodePatch(n.known.Status, status)
	if err != nil || patch == nil {
		return err
	}
	r, err := n.a.cfg.Upstream.Bus.Do(ctx, commands.Command{
		Verb: commands.Patch, Resource: nodesVersioned, Subresource: "status", Name: n.a.cfg.NodeName, Patch: patch,
		PatchType: "application/strategic-merge-patch+json", Actor: n.a.cfg.actor(),
	})
	if err != nil {
		return fmt.Errorf("sending the node's status: %w", err)
	}
	if have, ok := r.Object.(*corev1.Node); ok {
		n.known = have
	}
	return nil
}

func (n *node) stale(now time.Time) bool {
	for _, c := range n.known.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return now.Sub(c.LastHeartbeatTime.Time) >= n.a.cfg.StatusPeriod
		}
	}
	return true
}

// sameNode compares statuses without the times of their heartbeats.
func sameNode(a, b corev1.NodeStatus) bool {
	clean := func(s corev1.NodeStatus) corev1.NodeStatus {
		c := *s.DeepCopy()
		for i := range c.Conditions {
			c.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
		return c
	}
	return apiequality.Semantic.DeepEqual(clean(a), clean(b))
}

// nodeIP is the address of the interface of the default route, else the first that is not a loopback's.
func nodeIP() (netip.Addr, error) {
	// No packet is sent: connecting a datagram socket only looks the route up.
	if c, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
		defer func() { _ = c.Close() }()
		if at, ok := c.LocalAddr().(*net.UDPAddr); ok {
			if ip, ok := netip.AddrFromSlice(at.IP.To4()); ok && !ip.IsLoopback() {
				return ip, nil
			}
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("finding the node's address: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			ip, _ := netip.AddrFromSlice(n.IP.To4())
			return ip, nil
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
}
