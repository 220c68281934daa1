package scheduler

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// claimRef is a claim that a pod needs.
type claimRef struct {
	name      string
	ephemeral bool // it is made for the pod, and must be the pod's
}

func claimsOf(pod *corev1.Pod) []claimRef {
	var list []claimRef
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			list = append(list, claimRef{name: v.PersistentVolumeClaim.ClaimName})
		case v.Ephemeral != nil:
			list = append(list, claimRef{name: pod.Name + "-" + v.Name, ephemeral: true})
		}
	}
	return list
}

// claim is what the scheduler needs to know of a PersistentVolumeClaim.
type claim struct {
	volume         string // "" until it is bound
	class          string
	owner          types.UID // of the controller
	lost, deleting bool
}

// storage is what the scheduler knows of volumes. The maps are replaced, never changed, once a snapshot holds them.
type storage struct {
	claims  map[types.NamespacedName]claim
	volumes map[string]*nodeaffinity.NodeSelector // nil: reachable from every node
	classes map[string]storageClass
}

// storageClass is what the scheduler needs to know of a StorageClass.
type storageClass struct {
	late   bool // volumes are made once the first pod that needs them has a node
	byHand bool // nobody makes volumes
}

// SetClaim takes in a claim.
func (s *State) SetClaim(c *corev1.PersistentVolumeClaim) {
	s.unshare()
	info := claim{volume: c.Spec.VolumeName, lost: c.Status.Phase == corev1.ClaimLost, deleting: c.DeletionTimestamp != nil}
	if c.Spec.StorageClassName != nil {
		info.class = *c.Spec.StorageClassName
	}
	if ref := metav1.GetControllerOfNoCopy(c); ref != nil {
		info.owner = ref.UID
	}
	s.storage.claims[types.NamespacedName{Namespace: c.Namespace, Name: c.Name}] = info
}

// RemoveClaim forgets a claim.
func (s *State) RemoveClaim(namespace, name string) {
	s.unshare()
	delete(s.storage.claims, types.NamespacedName{Namespace: namespace, Name: name})
}

// SetVolume takes in a volume.
func (s *State) SetVolume(v *corev1.PersistentVolume) {
	s.unshare()
	var reach *nodeaffinity.NodeSelector
	if v.Spec.NodeAffinity != nil && v.Spec.NodeAffinity.Required != nil {
		var err error
		if reach, err = nodeaffinity.NewNodeSelector(v.Spec.NodeAffinity.Required); err != nil {
			reach, _ = nodeaffinity.NewNodeSelector(&corev1.NodeSelector{}) // which no node meets; the API's validation lets no such volume in
		}
	}
	s.storage.volumes[v.Name] = reach
}

// RemoveVolume forgets a volume.
func (s *State) RemoveVolume(name string) {
	s.unshare()
	delete(s.storage.volumes, name)
}

// noProvisioner is the provisioner of classes whose volumes are made by hand.
const noProvisioner = "kubernetes.io/no-provisioner"

// SetStorageClass takes in a storage class.
func (s *State) SetStorageClass(c *storagev1.StorageClass) {
	s.unshare()
	late := c.VolumeBindingMode != nil && *c.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	s.storage.classes[c.Name] = storageClass{late: late, byHand: c.Provisioner == noProvisioner}
}

// RemoveStorageClass forgets a storage class.
func (s *State) RemoveStorageClass(name string) {
	s.unshare()
	delete(s.storage.classes, name)
}

// volumeNeeds is what the claims of a class of pods ask of a node.
type volumeNeeds struct {
	// unready is why no node can take the pod yet; "" when some may.
	unready string
	// byHand: a claim waits for a volume that nobody makes.
	byHand bool
	bound  []string // names of volumes
	late   []string // names of claims whose volumes are made on the pod's node
}

// volumeNeeds looks at a pod's claims, in Kubernetes' order and words.
func (s *Snapshot) volumeNeeds(p *podInfo) volumeNeeds {
	var n volumeNeeds
	for _, ref := range p.claims {
		c, ok := s.storage.claims[types.NamespacedName{Namespace: p.pod.Namespace, Name: ref.name}]
		switch {
		case !ok && ref.ephemeral:
			n.unready = fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", ref.name)
		case !ok:
			n.unready = fmt.Sprintf("persistentvolumeclaim %q not found", ref.name)
		case ref.ephemeral && c.owner != p.pod.UID:
			n.unready = fmt.Sprintf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", p.pod.Namespace, ref.name, p.pod.Namespace, p.pod.Name)
		case c.lost:
			n.unready = fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", ref.name, c.volume)
		case c.deleting:
			n.unready = fmt.Sprintf("persistentvolumeclaim %q is being deleted", ref.name)
		case c.volume != "":
			n.bound = append(n.bound, c.volume)
		case s.storage.classes[c.class].late && s.storage.classes[c.class].byHand:
			n.byHand = true
		case s.storage.classes[c.class].late:
			n.late = append(n.late, ref.name)
		default:
			n.unready = "pod has unbound immediate PersistentVolumeClaims"
		}
		if n.unready != "" {
			return n
		}
	}
	return n
}

// refuses returns why a node cannot have the volumes, or "".
func (n *volumeNeeds) refuses(s *Snapshot, node *corev1.Node) string {
	for _, name := range n.bound {
		reach, ok := s.storage.volumes[name]
		switch {
		case !ok:
			return "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
		case reach != nil && !reach.Match(node):
			return "node(s) didn't match PersistentVolume's node affinity"
		}
	}
	if n.byHand {
		return "node(s) didn't find available persistent volumes to bind"
	}
	return ""
}
