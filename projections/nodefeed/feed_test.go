package nodefeed_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/internal/clustertest"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/nodefeed"
)

var (
	pods    = domain.Resource{Resource: "pods"}
	secrets = domain.Resource{Resource: "secrets"}
)

func objectMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func secret(name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: objectMeta("default", name)}
}

func podWith(name, node string, volumes ...corev1.VolumeSource) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: objectMeta("default", name), Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: "default"}}
	for i, v := range volumes {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: fmt.Sprintf("v%d", i), VolumeSource: v})
	}
	return p
}

func fromSecret(name string) corev1.VolumeSource {
	return corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}
}

func fromClaim(name string) corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
}

// receiver is a node: it follows its feed and is disconnected now and then.
type receiver struct {
	node   string
	source nodefeed.Source
	copy   *nodefeed.Copy
	stream nodefeed.Stream
	given  map[domain.Ref]bool // everything it was ever given
	resets int
}

func (r *receiver) connect(ctx context.Context) error {
	if r.stream != nil {
		return nil
	}
	var err error
	r.stream, err = r.source.Open(ctx, r.node, r.copy.Position())
	return err
}

func (r *receiver) disconnect() {
	if r.stream != nil {
		r.stream.Close()
		r.stream = nil
	}
}

// receive applies up to limit items of the next step (negative: all) and calls at at each checkpoint. It returns false when
// there is nothing more.
func (r *receiver) receive(ctx context.Context, limit int, at func()) (bool, error) {
	if err := r.connect(ctx); err != nil {
		if errors.Is(err, projections.ErrTooOld) {
			return true, nil // the view forgot its past just now: a node tries again
		}
		return false, err
	}
	items, err := r.stream.Next(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return false, nil
	}
	if err != nil { // fell behind
		r.disconnect()
		return true, nil
	}
	for i, item := range items {
		if i == limit {
			r.disconnect()
			return true, nil
		}
		if item.Op == nodefeed.Reset {
			r.resets++
		}
		if item.Op == nodefeed.Put {
			ref := item.Ref
			ref.UID = ""
			r.given[ref] = true
		}
		before := r.copy.Position()
		r.copy.Apply(item)
		if p := r.copy.Position(); p != 0 && p != before {
			at()
		}
	}
	return true, nil
}

// receiveNow is receive with an end, for tests with a clock of their own.
func (r *receiver) receiveNow() (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return r.receive(ctx, -1, func() {})
}

func newReceiver(source nodefeed.Source, node string) *receiver {
	return &receiver{node: node, source: source, copy: nodefeed.NewCopy(), given: map[domain.Ref]bool{}}
}

// versions are the objects of a copy by reference, with their resourceVersions.
func versions(c *nodefeed.Copy) map[string]string {
	out := map[string]string{}
	for _, ref := range c.Refs() {
		o, _ := c.Get(ref.GroupResource(), ref.Namespace, ref.Name)
		m, _ := meta.Accessor(o)
		out[ref.String()] = m.GetResourceVersion()
	}
	return out
}

func wantedVersions(kinds *domain.Set, view projections.Reader, node string) map[string]string {
	out := map[string]string{}
	for ref, o := range nodefeed.Wanted(kinds, view, node) {
		out[ref.String()] = fmt.Sprint(o.Position)
	}
	return out
}

// change makes one random change of the cluster.
func change(t *rapid.T, c *clustertest.Cluster) {
	pick := func(what string, from ...string) string { return rapid.SampledFrom(from).Draw(t, what) }
	names := []string{"a", "b"}
	nodes := []string{"", "n1", "n2", "n3"}
	gone := rapid.IntRange(0, 3).Draw(t, "gone") == 0
	put := func(gr domain.Resource, namespace, name string, o runtime.Object) {
		if gone {
			c.Remove(gr, namespace, name)
		} else {
			c.Put(o)
		}
	}
	res := func(name string) domain.Resource { return domain.Resource{Resource: name} }
	switch rapid.IntRange(0, 11).Draw(t, "what") {
	case 0, 1, 2, 3:
		name := pick("pod", "p1", "p2", "p3")
		var volumes []corev1.VolumeSource
		for range rapid.IntRange(0, 2).Draw(t, "volumes") {
			if rapid.Bool().Draw(t, "claim") {
				volumes = append(volumes, fromClaim(pick("claim name", names...)))
			} else {
				volumes = append(volumes, fromSecret(pick("secret name", names...)))
			}
		}
		p := podWith(name, pick("node", nodes...), volumes...)
		p.Spec.ServiceAccountName = pick("account", "default", "other")
		p.Status.Phase = rapid.SampledFrom([]corev1.PodPhase{corev1.PodRunning, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed}).Draw(t, "phase")
		put(pods, "default", name, p)
	case 4, 5:
		name := pick("secret", "a", "b", "pull", "csi")
		put(secrets, "default", name, secret(name))
	case 6:
		name := pick("account", "default", "other")
		sa := &corev1.ServiceAccount{ObjectMeta: objectMeta("default", name)}
		if rapid.Bool().Draw(t, "pulls") {
			sa.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
		}
		put(res("serviceaccounts"), "default", name, sa)
	case 7:
		name := pick("claim", names...)
		put(res("persistentvolumeclaims"), "default", name, &corev1.PersistentVolumeClaim{
			ObjectMeta: objectMeta("default", name), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: pick("volume", "", "pv1", "pv2")},
		})
	case 8:
		name := pick("volume", "pv1", "pv2")
		put(res("persistentvolumes"), "", name, &corev1.PersistentVolume{ObjectMeta: objectMeta("", name), Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: pick("claimed by", names...)},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodePublishSecretRef: &corev1.SecretReference{Namespace: "default", Name: "csi"},
			}},
		}})
	case 9:
		put(res("services"), "default", "svc", &corev1.Service{ObjectMeta: objectMeta("default", "svc")})
	case 10:
		put(domain.Resource{Group: "discovery.k8s.io", Resource: "endpointslices"}, "default", "svc-1", &discoveryv1.EndpointSlice{ObjectMeta: objectMeta("default", "svc-1")})
	case 11:
		name := pick("node object", "n1", "n2", "n3")
		put(res("nodes"), "", name, &corev1.Node{ObjectMeta: objectMeta("", name)})
	}
}

// mayHave says, written down a second time, whether a pod on the node gives it a right to a secret.
func mayHave(view projections.Reader, node, name string) bool {
	for p := range projections.List[*corev1.Pod](view, pods, "") {
		if p.Spec.NodeName != node || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		sa, ok := projections.Get[*corev1.ServiceAccount](view, domain.Resource{Resource: "serviceaccounts"}, "default", p.Spec.ServiceAccountName)
		if ok && len(sa.ImagePullSecrets) > 0 && sa.ImagePullSecrets[0].Name == name {
			return true
		}
		for _, v := range p.Spec.Volumes {
			if v.Secret != nil && v.Secret.SecretName == name {
				return true
			}
			if v.PersistentVolumeClaim == nil || name != "csi" {
				continue
			}
			claim, ok := projections.Get[*corev1.PersistentVolumeClaim](view, domain.Resource{Resource: "persistentvolumeclaims"}, "default", v.PersistentVolumeClaim.ClaimName)
			if !ok {
				continue
			}
			pv, ok := projections.Get[*corev1.PersistentVolume](view, domain.Resource{Resource: "persistentvolumes"}, "", claim.Spec.VolumeName)
			if ok && pv.Spec.ClaimRef.Name == claim.Name {
				return true
			}
		}
	}
	return false
}

// TestCopiesFollowTheCluster: whatever happens, and however often a node is cut off, at each checkpoint its copy is what
// concerns it in the cluster as of that position, and no secret ever reaches a node that no pod entitles to it.
func TestCopiesFollowTheCluster(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := clustertest.New()
		source := nodefeed.NewSource(c, c.Kinds)
		views := map[uint64]projections.Reader{0: c.Snapshot()}
		receivers := []*receiver{newReceiver(source, "n1"), newReceiver(source, "n2")}
		check := func(r *receiver) {
			p := r.copy.Position()
			if d := cmp.Diff(wantedVersions(c.Kinds, views[p], r.node), versions(r.copy)); d != "" {
				t.Fatalf("%s at position %d: -wanted +copied\n%s", r.node, p, d)
			}
		}
		// Every node is told of a service, so that Next always has something to return.
		tell := func() uint64 {
			p := c.Put(&corev1.Service{ObjectMeta: objectMeta("default", "told")})
			views[p] = c.Snapshot()
			return p
		}
		step := func(r *receiver, limit int) {
			if _, err := r.receive(context.Background(), limit, func() { check(r) }); err != nil {
				t.Fatal(err)
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			default:
				change(t, c)
				views[c.Snapshot().Position()] = c.Snapshot()
			case 5, 6:
				tell()
				step(receivers[rapid.IntRange(0, 1).Draw(t, "receiver")], -1)
			case 7:
				tell()
				step(receivers[rapid.IntRange(0, 1).Draw(t, "receiver")], rapid.IntRange(0, 5).Draw(t, "cut after"))
			case 8:
				receivers[rapid.IntRange(0, 1).Draw(t, "receiver")].disconnect()
			case 9:
				if rapid.IntRange(0, 3).Draw(t, "forget") == 0 {
					c.Forget()
				}
			}
		}
		for _, r := range receivers {
			for end := tell(); r.copy.Position() < end; {
				step(r, -1)
			}
			final := c.Snapshot()
			if d := cmp.Diff(wantedVersions(c.Kinds, final, r.node), versions(r.copy)); d != "" {
				t.Fatalf("%s in the end: -wanted +copied\n%s", r.node, d)
			}
			for ref := range r.given {
				if ref.GroupResource() != secrets {
					continue
				}
				ever := false
				for _, view := range views {
					ever = ever || mayHave(view, r.node, ref.Name)
				}
				if !ever {
					t.Fatalf("%s was given %s", r.node, ref)
				}
			}
			r.disconnect()
		}
	})
}

func TestAFeedResumesWithoutAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(secret("a"), secret("b"), podWith("p1", "n1", fromSecret("a")))
		r := newReceiver(nodefeed.NewSource(c, c.Kinds), "n1")
		drain := func() {
			for more := true; more; {
				var err error
				if more, err = r.receiveNow(); err != nil {
					t.Fatal(err)
				}
			}
		}
		drain()
		r.disconnect()
		c.Put(podWith("p1", "n1", fromSecret("b")))
		c.Put(podWith("p2", "n2", fromSecret("a")))
		drain()
		if r.resets != 1 {
			t.Errorf("%d resets, want the first only", r.resets)
		}
		want := []string{"secrets/default/b", "pods/default/p1"}
		var got []string
		for _, ref := range r.copy.Refs() {
			got = append(got, ref.String())
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		r.disconnect()
		c.Forget()
		c.Put(secret("b"))
		c.Forget()
		drain()
		if r.resets != 2 {
			t.Errorf("%d resets, want a second one after the past was forgotten", r.resets)
		}
		r.disconnect()
	})
}

func TestAQuietNodeIsToldThePosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New()
		r := newReceiver(nodefeed.NewSource(c, c.Kinds), "n1")
		for i := range 2000 {
			c.Put(podWith("p1", "n2"))
			if i%100 == 0 {
				if _, err := r.receiveNow(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if p := r.copy.Position(); p < 1000 {
			t.Errorf("the node's position is %d, the cluster's %d", p, c.Snapshot().Position())
		}
		r.disconnect()
	})
}

func TestAClaimDoesNotOpenOthersSecrets(t *testing.T) {
	csi := &corev1.PersistentVolume{ObjectMeta: objectMeta("", "pv"), Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{Namespace: "prod", Name: "data"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			NodePublishSecretRef: &corev1.SecretReference{Namespace: "prod", Name: "key"},
		}},
	}}
	c := clustertest.New(csi, &corev1.Secret{ObjectMeta: objectMeta("prod", "key")},
		&corev1.PersistentVolumeClaim{ObjectMeta: objectMeta("default", "mine"), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}},
		podWith("p", "n1", fromClaim("mine")))
	for ref := range nodefeed.Wanted(c.Kinds, c.Snapshot(), "n1") {
		if ref.GroupResource() == secrets {
			t.Errorf("the node gets %s", ref)
		}
	}
}

func TestACopySurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(secret("a"), podWith("p1", "n1", fromSecret("a")), &corev1.Service{ObjectMeta: objectMeta("default", "svc")})
		source := nodefeed.NewSource(c, c.Kinds)
		r := newReceiver(source, "n1")
		path := filepath.Join(t.TempDir(), "copy")
		store := nodefeed.NewStore(path, c.Kinds)
		if err := store.Save(r.copy); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("an incomplete copy was saved")
		}
		if _, err := r.receiveNow(); err != nil {
			t.Fatal(err)
		}
		if err := store.Save(r.copy); err != nil {
			t.Fatal(err)
		}
		r.disconnect()
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file: %v, %v", info, err)
		}
		loaded, err := nodefeed.NewStore(path, c.Kinds).Load()
		if err != nil {
			t.Fatal(err)
		}
		if !loaded.Synced() || loaded.Position() != r.copy.Position() || !maps.Equal(versions(loaded), versions(r.copy)) {
			t.Errorf("loaded %v at %d, saved %v at %d", versions(loaded), loaded.Position(), versions(r.copy), r.copy.Position())
		}
		p, ok := nodefeed.Get[*corev1.Pod](loaded, pods, "default", "p1")
		if !ok || p.Spec.Volumes[0].Secret.SecretName != "a" {
			t.Errorf("the pod: %+v", p)
		}
		// It goes on from where it was.
		again := newReceiver(source, "n1")
		again.copy = loaded
		c.Remove(secrets, "default", "a")
		if _, err := again.receiveNow(); err != nil {
			t.Fatal(err)
		}
		if _, ok := loaded.Get(secrets, "default", "a"); ok || again.resets != 0 {
			t.Errorf("after the restart: %v, %d resets", versions(loaded), again.resets)
		}
		again.disconnect()
	})
}

func TestADamagedFileIsNoCopy(t *testing.T) {
	c := clustertest.New()
	for name, text := range map[string]string{
		"cut off":   `{"op":"reset","position":0}` + "\n" + `{"op":"syn`,
		"no end":    `{"op":"reset","position":0}` + "\n",
		"garbage":   "\x00\x00\x00\n",
		"no kind":   `{"op":"put","position":0,"ref":{"resource":"ghosts","name":"x"},"object":{}}` + "\n",
		"no op":     `{"position":7}` + "\n",
		"no object": `{"op":"put","position":0,"ref":{"resource":"pods","name":"x"}}` + "\n",
	} {
		path := filepath.Join(t.TempDir(), "copy")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		loaded, err := nodefeed.NewStore(path, c.Kinds).Load()
		if !errors.Is(err, nodefeed.ErrBadItem) || loaded.Synced() || loaded.Position() != 0 {
			t.Errorf("%s: %v, position %d", name, err, loaded.Position())
		}
	}
}

func TestItemsSurviveTheWire(t *testing.T) {
	c := clustertest.New()
	for _, item := range []nodefeed.Item{
		{Op: nodefeed.Reset},
		{Op: nodefeed.Synced, Position: 9},
		{Op: nodefeed.Delete, Position: 7, Ref: domain.Ref{Resource: "pods", Namespace: "default", Name: "p", UID: "u"}, EventID: "e"},
		{Op: nodefeed.Put, Position: 7, Ref: domain.Ref{Resource: "pods", Namespace: "default", Name: "p", UID: "u"}, Object: podWith("p", "n1", fromSecret("a"))},
	} {
		data, err := nodefeed.MarshalItem(item)
		if err != nil {
			t.Fatal(err)
		}
		back, err := nodefeed.UnmarshalItem(c.Kinds, data)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(item, back); d != "" {
			t.Errorf("%s: -before +after\n%s", data, d)
		}
	}
}

// TestCutOffInTheMiddleOfAStep cuts the node off after each number of items of a step, and then brings back, or changes again,
// what the step changed.
func TestCutOffInTheMiddleOfAStep(t *testing.T) {
	accounts, nodes := domain.Resource{Resource: "serviceaccounts"}, domain.Resource{Resource: "nodes"}
	account := &corev1.ServiceAccount{ObjectMeta: objectMeta("default", "default")}
	own := &corev1.Node{ObjectMeta: objectMeta("", "n1")}
	begin := func() *clustertest.Cluster {
		return clustertest.New(secret("a"), secret("b"), account, own, podWith("p1", "n1", fromSecret("a")))
	}
	for name, tc := range map[string]struct{ step, after func(*clustertest.Cluster) }{
		"a pod goes and comes back": {
			func(c *clustertest.Cluster) { c.Remove(pods, "default", "p1") },
			func(c *clustertest.Cluster) { c.Put(podWith("p1", "n1", fromSecret("a"))) },
		},
		"a pod comes and goes": {
			func(c *clustertest.Cluster) { c.Put(podWith("p2", "n1", fromSecret("b"))) },
			func(c *clustertest.Cluster) { c.Remove(pods, "default", "p2") },
		},
		"a pod ends and another needs the same": {
			func(c *clustertest.Cluster) {
				p := podWith("p1", "n1", fromSecret("a"))
				p.Status.Phase = corev1.PodSucceeded
				c.Put(p)
			},
			func(c *clustertest.Cluster) { c.Put(podWith("p2", "n1", fromSecret("a"))) },
		},
		"an account gives a secret and takes it back": {
			func(c *clustertest.Cluster) {
				sa := account.DeepCopy()
				sa.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "b"}}
				c.Put(sa)
			},
			func(c *clustertest.Cluster) { c.Remove(accounts, "default", "default") },
		},
		"the node object goes": {
			func(c *clustertest.Cluster) { c.Put(own); c.Put(secret("a")) },
			func(c *clustertest.Cluster) { c.Remove(nodes, "", "n1") },
		},
	} {
		for cut := range 6 {
			t.Run(fmt.Sprintf("%s/cut after %d", name, cut), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := begin()
					r := newReceiver(nodefeed.NewSource(c, c.Kinds), "n1")
					if _, err := r.receiveNow(); err != nil {
						t.Fatal(err)
					}
					tc.step(c)
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					if _, err := r.receive(ctx, cut, func() {}); err != nil {
						t.Fatal(err)
					}
					r.disconnect()
					tc.after(c)
					for more := true; more; {
						var err error
						if more, err = r.receiveNow(); err != nil {
							t.Fatal(err)
						}
					}
					r.disconnect()
					if d := cmp.Diff(wantedVersions(c.Kinds, c.Snapshot(), "n1"), versions(r.copy)); d != "" {
						t.Errorf("-wanted +copied\n%s", d)
					}
				})
			})
		}
	}
}
