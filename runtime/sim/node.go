package sim

import (
	"context"
	"fmt"
	"maps"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Of leases, as kubelets have them: how long one holds, and how often it is renewed. The renewals of all nodes are spread over
// the interval, those of one slot go together so that they share a commit of the log.
const (
	leaseSeconds = 40
	renewEvery   = 10
	renewSlot    = time.Second
)

// Label marks the nodes that are simulated.
const Label = "shiplog.dev/sim"

// nodeState is a simulated node.
type nodeState struct {
	name  string
	index int
	ip    string
	// registered: its object is there, as far as is known.
	registered bool
	busy       bool
	lease      *coordinationv1.Lease // as last written; nil before
	renewing   bool
}

func (n *nodeState) actor() domain.Actor {
	return domain.Actor{User: "system:node:" + n.name, Groups: []string{"system:nodes", "system:authenticated"}, UserAgent: "shiplog-sim"}
}

// object is the node as a kubelet would register it.
func (o *Options) object(n *nodeState, now time.Time) *corev1.Node {
	capacity := maps.Clone(o.Capacity)
	capacity[corev1.ResourcePods] = *resource.NewQuantity(int64(o.PodsPerNode), resource.DecimalSI)
	stamp := metav1.NewTime(now.Truncate(time.Second).UTC())
	cond := func(t corev1.NodeConditionType, s corev1.ConditionStatus, reason, message string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: t, Status: s, Reason: reason, Message: message, LastHeartbeatTime: stamp, LastTransitionTime: stamp}
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: n.name,
			Labels: map[string]string{
				corev1.LabelHostname: n.name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64", Label: "true",
			},
		},
		Spec: corev1.NodeSpec{ProviderID: "sim://" + n.name, Taints: o.Taints},
		Status: corev1.NodeStatus{
			Capacity: capacity, Allocatable: maps.Clone(capacity), Phase: "",
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.ip}, {Type: corev1.NodeHostName, Address: n.name}},
			Conditions: []corev1.NodeCondition{
				cond(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
				cond(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
				cond(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
				cond(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "the simulated node is posting ready status"),
			},
			NodeInfo: corev1.NodeSystemInfo{
				MachineID: n.name, SystemUUID: n.name, BootID: n.name, KernelVersion: "sim", OSImage: "Shiplog simulated node",
				ContainerRuntimeVersion: "sim://1", KubeletVersion: o.Version, OperatingSystem: "linux", Architecture: "amd64",
			},
		},
	}
	if o.Zones > 0 {
		node.Labels[corev1.LabelTopologyZone] = fmt.Sprintf("sim-zone-%d", n.index%o.Zones)
	}
	return node
}

var (
	nodesVersioned  = corev1.SchemeGroupVersion.WithResource("nodes")
	leasesVersioned = coordinationv1.SchemeGroupVersion.WithResource("leases")
)

// register writes the node, or its status when it is there already. The taint that admission gives to new nodes is for the node
// controller to remove: a node may not change its taints.
func (s *Sim) register(ctx context.Context, n *nodeState) error {
	want := s.opts.object(n, s.opts.Now())
	cmd := commands.Command{Verb: commands.Create, Resource: nodesVersioned, Name: n.name, Object: want, Actor: n.actor()}
	_, err := s.bus.Do(ctx, cmd)
	if apierrors.IsAlreadyExists(err) {
		old, ok := projections.Get[*corev1.Node](s.live.Snapshot(), nodesResource, "", n.name)
		if !ok {
			return fmt.Errorf("registering node %s: it exists, but is not seen yet: %w", n.name, err)
		}
		now := *old
		now.Status = want.Status
		now.ResourceVersion = ""
		cmd.Verb, cmd.Subresource, cmd.Object = commands.Update, "status", &now
		_, err = s.bus.Do(ctx, cmd)
	}
	if err != nil {
		return fmt.Errorf("registering node %s: %w", n.name, err)
	}
	return nil
}

// renew writes the node's lease and returns it as it is now.
func (s *Sim) renew(ctx context.Context, n *nodeState, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	now := metav1.NewMicroTime(s.opts.Now())
	if lease == nil {
		lease, _ = projections.Get[*coordinationv1.Lease](s.live.Snapshot(), leasesResource, corev1.NamespaceNodeLease, n.name)
	}
	cmd := commands.Command{
		Verb: commands.Update, Resource: leasesVersioned, Namespace: corev1.NamespaceNodeLease, Name: n.name, Actor: n.actor(),
	}
	if lease == nil {
		cmd.Verb = commands.Create
		seconds := int32(leaseSeconds)
		cmd.Object = &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: n.name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &n.name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}
	} else {
		next := *lease
		next.Spec.RenewTime = &now
		cmd.Object = &next
	}
	r, err := s.bus.Do(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("renewing the lease of node %s: %w", n.name, err)
	}
	written, ok := r.Object.(*coordinationv1.Lease)
	if !ok {
		return nil, fmt.Errorf("renewing the lease of node %s: the answer is a %T", n.name, r.Object)
	}
	return written, nil
}
