package garbage_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/garbage"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

var (
	now        = controllertest.Epoch
	kinds      = domain.NewSet(domain.Kinds())
	configMaps = resources.ConfigMaps.GroupResource()
)

func key(name string) controllers.Key { return controllers.KeyOf(configMaps, "default", name) }

func configMap(name string, edits ...func(*corev1.ConfigMap)) *corev1.ConfigMap {
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)}}
	for _, e := range edits {
		e(c)
	}
	return c
}

func ownedBy(owners ...string) func(*corev1.ConfigMap) {
	return func(c *corev1.ConfigMap) {
		for _, o := range owners {
			block := true
			c.OwnerReferences = append(c.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: o, UID: types.UID("uid-" + o), BlockOwnerDeletion: &block})
		}
	}
}

func ref(apiVersion, kind, name, uid string) func(*corev1.ConfigMap) {
	return func(c *corev1.ConfigMap) {
		c.OwnerReferences = append(c.OwnerReferences, metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: types.UID(uid)})
	}
}

func deletedWith(finalizers ...string) func(*corev1.ConfigMap) {
	return func(c *corev1.ConfigMap) {
		at := metav1.NewTime(now)
		c.DeletionTimestamp, c.Finalizers = &at, finalizers
	}
}

func TestOneLook(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node"}}
	for _, c := range []struct {
		what    string
		key     string
		objects []runtime.Object
		want    []string
		policy  metav1.DeletionPropagation
		patch   string
	}{
		{what: "the owner is there", key: "b", objects: []runtime.Object{configMap("a"), configMap("b", ownedBy("a"))}},
		{what: "the owner is gone", key: "b", objects: []runtime.Object{configMap("b", ownedBy("a"))}, want: []string{"delete configmaps default/b"}, policy: metav1.DeletePropagationBackground},
		{what: "another of the owner's name", key: "b", objects: []runtime.Object{configMap("a", func(c *corev1.ConfigMap) { c.UID = "new" }), configMap("b", ownedBy("a"))}, want: []string{"delete configmaps default/b"}},
		{
			what: "one of two owners is gone", key: "b", objects: []runtime.Object{configMap("a"), configMap("b", ref("v1", "ConfigMap", "a", "uid-a"), ref("v1", "ConfigMap", "x", "uid-x"))},
			want: []string{"patch configmaps default/b"}, patch: `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"a","uid":"uid-a"}],"resourceVersion":"100","uid":"uid-b"}}`,
		},
		{what: "an owner without a namespace", key: "b", objects: []runtime.Object{node, configMap("b", ref("v1", "Node", "n1", "node"))}},
		{what: "an owner without a namespace, gone", key: "b", objects: []runtime.Object{configMap("b", ref("v1", "Node", "n1", "node"))}, want: []string{"delete configmaps default/b"}},
		{what: "an owner of a kind that nobody knows", key: "b", objects: []runtime.Object{configMap("b", ref("example.org/v1", "Thing", "t", "thing"))}},
		{what: "another version of the owner's kind", key: "b", objects: []runtime.Object{configMap("b", ref("apps/v1beta1", "Deployment", "d", "gone"))}, want: []string{"delete configmaps default/b"}},
		{
			what: "foreground: dependents first", key: "a",
			objects: []runtime.Object{configMap("a", deletedWith(metav1.FinalizerDeleteDependents)), configMap("b", ownedBy("a")), configMap("c", ownedBy("a"), deletedWith("test/hold"))},
			want:    []string{"delete configmaps default/b"}, policy: metav1.DeletePropagationBackground,
		},
		{
			what: "foreground: dependents that have dependents", key: "a", objects: []runtime.Object{configMap("a", deletedWith(metav1.FinalizerDeleteDependents)), configMap("b", ownedBy("a")), configMap("c", ownedBy("b"))},
			want: []string{"delete configmaps default/b"}, policy: metav1.DeletePropagationForeground,
		},
		{
			what: "foreground: dependents that another owner keeps", key: "a", objects: []runtime.Object{configMap("a", deletedWith(metav1.FinalizerDeleteDependents)), configMap("k"), configMap("b", ownedBy("a", "k"))},
			want: []string{"patch configmaps default/b"},
		},
		{what: "foreground: one still blocks", key: "a", objects: []runtime.Object{configMap("a", deletedWith(metav1.FinalizerDeleteDependents)), configMap("c", ownedBy("a"), deletedWith("test/hold"))}},
		{
			what: "foreground: one that does not block", key: "a", objects: []runtime.Object{configMap("a", deletedWith(metav1.FinalizerDeleteDependents, "test/more")), configMap("c", ref("v1", "ConfigMap", "a", "uid-a"), deletedWith("test/hold"))},
			want: []string{"patch configmaps default/a"}, patch: `{"metadata":{"finalizers":["test/more"],"resourceVersion":"100","uid":"uid-a"}}`,
		},
		{
			what: "orphan: dependents forget", key: "a", objects: []runtime.Object{configMap("a", deletedWith(metav1.FinalizerOrphanDependents)), configMap("b", ownedBy("a"))},
			want: []string{"patch configmaps default/b"}, patch: `{"metadata":{"ownerReferences":null,"resourceVersion":"100","uid":"uid-b"}}`,
		},
		{what: "orphan: all have", key: "a", objects: []runtime.Object{configMap("a", deletedWith(metav1.FinalizerOrphanDependents)), configMap("b")}, want: []string{"patch configmaps default/a"}},
		{what: "being deleted otherwise", key: "b", objects: []runtime.Object{configMap("b", ownedBy("a"), deletedWith("test/hold"))}},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := controllertest.When(t, garbage.New(kinds), controllertest.Given(c.objects...), key(c.key), now)
			controllertest.Then(t, d, c.want...)
			if len(d.Commands) != 1 {
				return
			}
			got := d.Commands[0]
			if c.patch != "" && string(got.Patch) != c.patch {
				t.Errorf("patch %s, want %s", got.Patch, c.patch)
			}
			if c.policy != "" && *got.DeleteOptions.PropagationPolicy != c.policy {
				t.Errorf("policy %s, want %s", *got.DeleteOptions.PropagationPolicy, c.policy)
			}
			if got.Verb == commands.Delete && (got.DeleteOptions.Preconditions == nil || *got.DeleteOptions.Preconditions.ResourceVersion != "100") {
				t.Error("the deletion does not insist on the object as it was seen")
			}
		})
	}
}

// Whatever graph of owners is deleted in whatever way and order: in the end exactly those objects are left that nobody deleted
// and that have no owners, or one that is left.
func TestWhatIsLeft(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := controllertest.NewCluster()
		n := rapid.IntRange(2, 14).Draw(t, "objects")
		for i := range n {
			var owners []string
			for j := range i { // owners come first: no cycles
				if rapid.IntRange(0, 3).Draw(t, "owner") == 0 {
					owners = append(owners, fmt.Sprint("o", j))
				}
			}
			c.MustCreate(configMap(fmt.Sprint("o", i), ownedBy(owners...)))
		}
		sim := controllertest.NewSimulation(rapid.Uint64().Draw(t, "seed"), c, garbage.New(kinds))
		sim.Faults = controllertest.Faults{Conflict: 6, Lost: 12, Stale: 2, Crash: 20}
		for i := range n {
			if rapid.IntRange(0, 3).Draw(t, "delete") != 0 {
				continue
			}
			cmd := commands.Command{Verb: commands.Delete, Resource: resources.ConfigMaps, Namespace: "default", Name: fmt.Sprint("o", i), DeleteOptions: &metav1.DeleteOptions{}}
			policy := rapid.SampledFrom([]metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan}).Draw(t, "policy")
			cmd.DeleteOptions.PropagationPolicy = &policy
			if _, ok := c.Snapshot().Get(configMaps, "default", cmd.Name); !ok {
				continue
			}
			// What must be left once all has settled, from what there is now.
			want := expected(c.Snapshot(), cmd.Name, policy)
			c.MustDo(cmd)
			if err := sim.Settle(5000, time.Minute); err != nil {
				t.Fatal(err, "\n", sim.Trace())
			}
			var got []string
			for o := range c.Snapshot().List(configMaps, "") {
				got = append(got, o.Ref.Name)
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Fatalf("after %s of %s: %v, want %v\n%s", policy, cmd.Name, got, want, sim.Trace())
			}
		}
	})
}

// expected is a plain reckoning of what a deletion leaves.
func expected(view projections.Reader, deleted string, policy metav1.DeletionPropagation) []string {
	owners := map[string][]string{}
	for o := range projections.List[*corev1.ConfigMap](view, configMaps, "") {
		owners[o.Name] = nil
		for _, r := range o.OwnerReferences {
			owners[o.Name] = append(owners[o.Name], r.Name)
		}
	}
	delete(owners, deleted)
	for name, refs := range owners {
		if policy == metav1.DeletePropagationOrphan {
			owners[name] = slices.DeleteFunc(refs, func(r string) bool { return r == deleted })
		}
	}
	for changed := true; changed; {
		changed = false
		for name, refs := range owners {
			if len(refs) > 0 && !slices.ContainsFunc(refs, func(r string) bool { _, ok := owners[r]; return ok }) {
				delete(owners, name)
				changed = true
			}
		}
	}
	var left []string
	for name := range owners {
		left = append(left, name)
	}
	return left
}
