package scheduler

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func pvc(name, volume, class string, opts ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: volume, StorageClassName: &class},
	}
	for _, o := range opts {
		o(c)
	}
	return c
}

func pv(name, node string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if node != "" {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}}
	}
	return v
}

func storageClassOf(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

func needs(claims ...string) podOption {
	return func(p *corev1.Pod) {
		for _, c := range claims {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c},
			}})
		}
	}
}

func scratch(p *corev1.Pod) {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}})
}

func TestVolumes(t *testing.T) {
	n1, n2 := node("n1"), node("n2")
	soon, late := storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer
	lost := func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost }
	gone := func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = &metav1.Time{} }
	ownedBy := func(uid types.UID) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) {
			yes := true
			c.OwnerReferences = []metav1.OwnerReference{{UID: uid, Controller: &yes}}
		}
	}
	for _, c := range []struct {
		name   string
		in     *State
		pod    *corev1.Pod
		want   string
		claims []string
	}{
		{"no claim", given(n1, n2), pod("a", needs("data")), `a: 0/2 nodes are available: persistentvolumeclaim "data" not found.`, nil},
		{"a claim that nothing is bound to", given(n1, n2, storageClassOf("fast", "x", soon), pvc("data", "", "fast")), pod("a", needs("data")), "a: 0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.", nil},
		{"a claim of no class", given(n1, pvc("data", "", "")), pod("a", needs("data")), "a: 0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", nil},
		{"a lost claim", given(n1, pvc("data", "v", "", lost)), pod("a", needs("data")), `a: 0/1 nodes are available: persistentvolumeclaim "data" bound to non-existent persistentvolume "v".`, nil},
		{"a claim that goes", given(n1, pvc("data", "v", "", gone)), pod("a", needs("data")), `a: 0/1 nodes are available: persistentvolumeclaim "data" is being deleted.`, nil},
		{"a volume that is on one node", given(n1, n2, pv("v", "n2"), pvc("data", "v", "")), pod("a", needs("data")), "a=n2", nil},
		{"a volume that is everywhere", given(n1, pv("v", ""), pvc("data", "v", "")), pod("a", needs("data")), "a=n1", nil},
		{"two volumes on two nodes", given(n1, n2, pv("v", "n1"), pv("w", "n2"), pvc("data", "v", ""), pvc("more", "w", "")), pod("a", needs("data", "more")), "a: 0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity.", nil},
		{"a volume that is not there", given(n1, pvc("data", "v", "")), pod("a", needs("data")), "a: 0/1 nodes are available: 1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s).", nil},
		{"a volume that is made later", given(n1, storageClassOf("local", "x", late), pvc("data", "", "local")), pod("a", needs("data")), "a=n1", []string{"data"}},
		{"a volume that is made by hand", given(n1, storageClassOf("local", noProvisioner, late), pvc("data", "", "local")), pod("a", needs("data")), "a: 0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind.", nil},
		{"an ephemeral volume without its claim", given(n1), pod("a", scratch), `a: 0/1 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "a-scratch".`, nil},
		{"an ephemeral volume with another's claim", given(n1, pvc("a-scratch", "v", "")), pod("a", scratch), "a: 0/1 nodes are available: PVC default/a-scratch was not created for pod default/a (pod is not owner).", nil},
		{"an ephemeral volume", given(n1, pv("v", ""), pvc("a-scratch", "v", "", ownedBy("uid-a"))), pod("a", scratch), "a=n1", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Schedule(c.in.Snapshot(1), pendings(c.pod), Options{})
			if d := cmp.Diff(c.want, then(got)[0]); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
			if d := cmp.Diff(c.claims, got[0].Claims); d != "" {
				t.Errorf("claims: -want +got\n%s", d)
			}
		})
	}
}

func TestForgottenStorage(t *testing.T) {
	s := given(node("n1"), storageClassOf("local", "x", storagev1.VolumeBindingWaitForFirstConsumer), pv("v", ""), pvc("bound", "v", ""), pvc("late", "", "local"))
	before := s.Snapshot(1)
	s.RemoveVolume("v")
	s.RemoveStorageClass("local")
	s.RemoveClaim("default", "late")
	for _, c := range []struct {
		snap  Snapshot
		claim string
		want  string
	}{
		{before, "bound", "a=n1"},
		{before, "late", "a=n1"},
		{s.Snapshot(2), "bound", "a: 0/1 nodes are available: 1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)."},
		{s.Snapshot(2), "late", `a: 0/1 nodes are available: persistentvolumeclaim "late" not found.`},
	} {
		if got := then(Schedule(c.snap, pendings(pod("a", needs(c.claim))), Options{}))[0]; got != c.want {
			t.Errorf("%s: %q, want %q", c.claim, got, c.want)
		}
	}
}
