package memory_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

var (
	pods       = domain.Resource{Resource: "pods"}
	configMaps = domain.Resource{Resource: "configmaps"}
)

func pod(namespace, name, node, owner string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + name)}, Spec: corev1.PodSpec{NodeName: node}}
	if owner != "" {
		p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(owner)}}
	}
	return p
}

func names(r projections.Reader, seq func(func(*projections.Object) bool)) []string {
	var out []string
	for o := range seq {
		out = append(out, o.Ref.Namespace+"/"+o.Ref.Name)
	}
	return out
}

func TestAGivenView(t *testing.T) {
	kinds := domain.NewSet(domain.Kinds())
	old := pod("a", "old", "", "")
	old.ResourceVersion = "3"
	view := memory.New(kinds, 7, pod("b", "z", "n1", ""), pod("a", "y", "n2", "rs1"), pod("b", "a", "n1", "rs1"), old,
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"}})
	for _, c := range []struct {
		what string
		got  []string
		want []string
	}{
		{"all pods", names(view, view.List(pods, "")), []string{"a/old", "a/y", "b/a", "b/z"}},
		{"pods of a namespace", names(view, view.List(pods, "b")), []string{"b/a", "b/z"}},
		{"pods of a node", names(view, view.Index(pods, domain.NodeIndex, "n1")), []string{"b/a", "b/z"}},
		{"pods without a node", names(view, view.Index(pods, domain.NodeIndex, "")), []string{"a/old"}},
		{"pods of an owner", names(view, view.Index(pods, domain.OwnerIndex, "rs1")), []string{"a/y", "b/a"}},
		{"an index that is not there", names(view, view.Index(pods, "colour", "red")), nil},
		{"a resource that is not there", names(view, view.List(configMaps, "")), nil},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
	if view.Position() != 7 {
		t.Errorf("position %d", view.Position())
	}
	for name, want := range map[string]string{"old": "3", "y": "7"} {
		p, ok := projections.Get[*corev1.Pod](view, pods, "a", name)
		if !ok || p.ResourceVersion != want || p.Kind != "Pod" {
			t.Errorf("a/%s = %+v, want resourceVersion %s and its kind", name, p, want)
		}
	}
	if old.Kind != "" {
		t.Error("the given object was changed")
	}
}

func TestAnUnreadableObjectBreaksNoOther(t *testing.T) {
	kinds := domain.NewSet(domain.Kinds())
	s := memory.NewStore()
	for name, data := range map[string]string{
		"bad":  `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad"},"spec":{"nodeName":7}}`,
		"good": `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"good"},"spec":{"nodeName":"n1"}}`,
	} {
		s.Put(memory.Decoded(kinds, projections.Object{Ref: domain.Ref{Resource: "pods", Name: name}, JSON: []byte(data)}))
	}
	view := s.Snapshot(1)
	if got := names(view, view.List(pods, "")); !slices.Equal(got, []string{"/bad", "/good"}) {
		t.Errorf("list: %v", got)
	}
	if got := names(view, view.Index(pods, domain.NodeIndex, "n1")); !slices.Equal(got, []string{"/good"}) {
		t.Errorf("index: %v", got)
	}
	bad, _ := view.Get(pods, "", "bad")
	if _, err := bad.Typed(); err == nil {
		t.Error("reading the bad pod gives no error")
	}
	if s.Delete(pods, "", "bad") == nil || s.Len() != 1 {
		t.Error("the bad pod cannot be deleted")
	}
}

// A custom resource has no kind in the set: it is what it says of itself.
func TestACustomResource(t *testing.T) {
	kinds := domain.NewSet(domain.Kinds())
	s := memory.NewStore()
	ref := domain.Ref{Group: "example.org", Resource: "widgets", Namespace: "a", Name: "w"}
	s.Put(memory.Decoded(kinds, projections.Object{Ref: ref, Position: 4, JSON: []byte(
		`{"apiVersion":"example.org/v1","kind":"Widget","metadata":{"name":"w","namespace":"a","ownerReferences":[{"uid":"u1"}]}}`)}))
	view := s.Snapshot(4)
	for o := range view.Index(ref.GroupResource(), domain.OwnerIndex, "u1") {
		typed, err := o.Typed()
		if err != nil {
			t.Fatal(err)
		}
		if gvk := typed.GetObjectKind().GroupVersionKind().String(); gvk != "example.org/v1, Kind=Widget" || o.Kind.Version != "v1" {
			t.Errorf("%s, kind %+v", gvk, o.Kind)
		}
		return
	}
	t.Error("not found by its owner")
}

// Snapshots taken between random changes each keep what a plain map said when they were taken.
func TestSnapshotsNeverChange(t *testing.T) {
	kinds := domain.NewSet(domain.Kinds())
	podKind, _ := kinds.ByResource(pods)
	type row struct{ node, owner string }
	rapid.Check(t, func(t *rapid.T) {
		s := memory.NewStore()
		model := map[string]row{}
		var snapshots []*memory.Snapshot
		var models []map[string]row
		steps := rapid.IntRange(1, 80).Draw(t, "steps")
		drawName := func() (ns, name string) {
			return rapid.SampledFrom([]string{"a", "b"}).Draw(t, "ns"), fmt.Sprintf("p%d", rapid.IntRange(0, 40).Draw(t, "name"))
		}
		drawPod := func(ns, name string, position int) (*projections.Object, row) {
			r := row{rapid.SampledFrom([]string{"", "n1", "n2"}).Draw(t, "node"), rapid.SampledFrom([]string{"", "o1", "o2"}).Draw(t, "owner")}
			o, ok := memory.Known(projections.Object{Kind: podKind, Ref: podKind.Ref(ns, name), Position: uint64(position)}, pod(ns, name, r.node, r.owner))
			if !ok {
				t.Fatal("not a pod")
			}
			return o, r
		}
		for i := range steps {
			ns, name := drawName()
			// Only while the store is empty PutAll puts something off that is then asked for, frozen and changed.
			switch op := rapid.IntRange(0, 4).Draw(t, "op"); {
			case op == 4 || op == 3 && i == 0:
				var many []*projections.Object
				for range rapid.IntRange(0, 20).Draw(t, "many") {
					ns, name := drawName()
					o, r := drawPod(ns, name, i+1)
					many, model[ns+"/"+name] = append(many, o), r
				}
				if s.PutAll(many); s.Len() != len(model) {
					t.Fatalf("%d objects, the model has %d", s.Len(), len(model))
				}
			case op <= 1:
				o, r := drawPod(ns, name, i+1)
				_, was := model[ns+"/"+name]
				if before := s.Put(o); (before != nil) != was {
					t.Fatalf("put: before %v, the model has %v", before, was)
				}
				model[ns+"/"+name] = r
			case op == 2:
				_, was := model[ns+"/"+name]
				if before := s.Delete(pods, ns, name); (before != nil) != was {
					t.Fatalf("delete: before %v, the model has %v", before, was)
				}
				delete(model, ns+"/"+name)
			case op == 3:
				snapshots = append(snapshots, s.Snapshot(uint64(i+1)))
				copied := map[string]row{}
				for k, v := range model {
					copied[k] = v
				}
				models = append(models, copied)
			}
		}
		for i, snap := range snapshots {
			want := func(keep func(row) bool) []string {
				var out []string
				for k, r := range models[i] {
					if keep(r) {
						out = append(out, k)
					}
				}
				slices.Sort(out)
				return out
			}
			check := func(what string, got, want []string) {
				if !slices.Equal(got, want) {
					t.Fatalf("snapshot %d, %s: %v, want %v", i, what, got, want)
				}
			}
			check("list", names(snap, snap.List(pods, "")), want(func(row) bool { return true }))
			for _, n := range []string{"", "n1", "n2"} {
				check("node "+n, names(snap, snap.Index(pods, domain.NodeIndex, n)), want(func(r row) bool { return r.node == n }))
			}
			for _, o := range []string{"o1", "o2"} {
				check("owner "+o, names(snap, snap.Index(pods, domain.OwnerIndex, o)), want(func(r row) bool { return r.owner == o }))
			}
		}
	})
}

// Whoever looks at a moment of the past for a few objects does not wait until all are decoded.
func TestManyObjectsAreDecodedWhenAnIndexIsAskedFor(t *testing.T) {
	kinds := domain.NewSet(domain.Kinds())
	podKind, _ := kinds.ByResource(pods)
	var decoded atomic.Int32
	var many []*projections.Object
	for n := range 3 {
		p := pod("a", fmt.Sprintf("p%d", n), "n1", "")
		many = append(many, projections.NewObject(projections.Object{Kind: podKind, Ref: podKind.Ref("a", p.Name)}, func() (runtime.Object, error) {
			decoded.Add(1)
			return p, nil
		}))
	}
	s := memory.NewStore()
	s.PutAll(many)
	view := s.Snapshot(1)
	if all := names(view, view.List(pods, "")); len(all) != 3 || decoded.Load() > 0 {
		t.Errorf("a list of %v has decoded %d", all, decoded.Load())
	}
	for range 2 {
		if got := names(view, view.Index(pods, domain.NodeIndex, "n1")); len(got) != 3 || decoded.Load() != 3 {
			t.Errorf("an index holds %v, %d decoded", got, decoded.Load())
		}
	}
}

// What is put off is done once, whoever asks first: readers of a snapshot, or the writer who changes the store.
func TestManyObjectsAreIndexedWhileTheStoreChanges(t *testing.T) {
	kinds := domain.NewSet(domain.Kinds())
	podKind, _ := kinds.ByResource(pods)
	object := func(n int, node string) *projections.Object {
		name := fmt.Sprintf("p%02d", n)
		return memory.Decoded(kinds, projections.Object{
			Kind: podKind, Ref: podKind.Ref("a", name), Position: 1,
			JSON: fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Pod","metadata":{"namespace":"a","name":%q},"spec":{"nodeName":%q}}`, name, node),
		})
	}
	var many []*projections.Object
	for n := range 50 {
		many = append(many, object(n, "n1"))
	}
	for range 20 {
		s := memory.NewStore()
		s.PutAll(many)
		before := s.Snapshot(1)
		var asking sync.WaitGroup
		for range 4 {
			asking.Go(func() {
				for range 3 {
					if n := len(names(before, before.Index(pods, domain.NodeIndex, "n1"))); n != 50 {
						t.Errorf("%d pods on the node of a snapshot, want 50", n)
					}
				}
			})
		}
		for n := range 10 {
			s.Put(object(n, "n2"))
		}
		after := s.Snapshot(2)
		for node, want := range map[string]int{"n1": 40, "n2": 10} {
			if n := len(names(after, after.Index(pods, domain.NodeIndex, node))); n != want {
				t.Errorf("%d pods on %s, want %d", n, node, want)
			}
		}
		asking.Wait()
	}
}

func BenchmarkPutAndSnapshot(b *testing.B) {
	kinds := domain.NewSet(domain.Kinds())
	podKind, _ := kinds.ByResource(pods)
	s := memory.NewStore()
	put := func(i int) {
		name := fmt.Sprintf("p%d", i%2000)
		o, _ := memory.Known(projections.Object{Kind: podKind, Ref: podKind.Ref("default", name)}, pod("default", name, fmt.Sprintf("n%d", i%100), "rs"))
		s.Put(o)
	}
	for i := range 2000 {
		put(i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		put(i)
		s.Snapshot(uint64(i))
	}
}
