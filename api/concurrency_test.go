package api_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/shiplog/shiplog/api/apitest"
	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
)

func TestANameIsTakenOnce(t *testing.T) {
	c := apitest.Start(t)
	ctx := timeout(t)
	for round := range 3 { // the second time the stream ends with a deletion
		var made atomic.Int32
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				_, err := c.Client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "one"}}, metav1.CreateOptions{})
				switch {
				case err == nil:
					made.Add(1)
				case !apierrors.IsAlreadyExists(err):
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
		if made.Load() != 1 {
			t.Fatalf("round %d: the name was taken %d times", round, made.Load())
		}
		if err := c.Client.CoreV1().ConfigMaps("default").Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAddressesAndPortsAreTakenOnce(t *testing.T) {
	c := apitest.Start(t)
	ctx := timeout(t)
	var mu sync.Mutex
	addresses, ports := map[string]string{}, map[int32]string{}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			svc, err := c.Client.CoreV1().Services("default").Create(ctx, &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("svc-%d", i)},
				Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Errorf("service %d: %v", i, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other, taken := addresses[svc.Spec.ClusterIP]; taken {
				t.Errorf("%s and %s have the address %s", svc.Name, other, svc.Spec.ClusterIP)
			}
			if other, taken := ports[svc.Spec.Ports[0].NodePort]; taken {
				t.Errorf("%s and %s have the port %d", svc.Name, other, svc.Spec.Ports[0].NodePort)
			}
			addresses[svc.Spec.ClusterIP], ports[svc.Spec.Ports[0].NodePort] = svc.Name, svc.Name
		})
	}
	wg.Wait()
	// A deleted service gives both back.
	svc, err := c.Client.CoreV1().Services("default").Get(ctx, "svc-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Client.CoreV1().Services("default").Delete(ctx, "svc-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	again := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "again"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, ClusterIP: svc.Spec.ClusterIP, Ports: []corev1.ServicePort{{Port: 80, NodePort: svc.Spec.Ports[0].NodePort}},
	}}
	if _, err := c.Client.CoreV1().Services("default").Create(ctx, again, metav1.CreateOptions{}); err != nil {
		t.Errorf("the address and the port of a deleted service: %v", err)
	}
}

// seen is one event that a watch delivered.
type seen struct {
	kind    watch.EventType
	name    string
	version uint64
}

// broken names the promise of a watch that a recorded history breaks; "" when none is.
func broken(history []seen, wrote map[string][]uint64) string {
	last := uint64(0)
	got := map[string][]uint64{}
	for _, e := range history {
		if e.version < last {
			return fmt.Sprintf("not ordered: version %d after %d", e.version, last)
		}
		if e.version == last {
			return fmt.Sprintf("not unique: version %d twice", e.version)
		}
		last = e.version
		got[e.name] = append(got[e.name], e.version)
	}
	for name, versions := range wrote {
		if fmt.Sprint(got[name]) != fmt.Sprint(versions) {
			return fmt.Sprintf("not complete: of %s %v were written and %v were seen", name, versions, got[name])
		}
	}
	return ""
}

func TestTheCheckerOfWatchesFindsEveryBrokenPromise(t *testing.T) {
	wrote := map[string][]uint64{"a": {1, 3}, "b": {2}}
	for want, history := range map[string][]seen{
		"":             {{watch.Added, "a", 1}, {watch.Added, "b", 2}, {watch.Modified, "a", 3}},
		"not ordered":  {{watch.Added, "b", 2}, {watch.Added, "a", 1}, {watch.Modified, "a", 3}},
		"not unique":   {{watch.Added, "a", 1}, {watch.Added, "a", 1}, {watch.Added, "b", 2}, {watch.Modified, "a", 3}},
		"not complete": {{watch.Added, "a", 1}, {watch.Modified, "a", 3}},
	} {
		if got := broken(history, wrote); len(got) < len(want) || got[:len(want)] != want || want == "" && got != "" {
			t.Errorf("%v: got %q, want %q", history, got, want)
		}
	}
}

// TestPromisesOfAWatch checks over a recorded history that a watch is ordered, unique, complete and, as it is broken off and resumed
// again and again, resumable.
func TestPromisesOfAWatch(t *testing.T) {
	c := apitest.Start(t, apitest.WithHistory)
	ctx := timeout(t)
	cms := c.Client.CoreV1().ConfigMaps("default")
	begin, err := cms.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const writers, writes = 8, 40
	var mu sync.Mutex
	wrote := map[string][]uint64{}
	record := func(name, version string) {
		n, err := strconv.ParseUint(version, 10, 64)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		wrote[name] = append(wrote[name], n)
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() { write(ctx, t, c.Client, fmt.Sprintf("cm-%d", w), writes, record) })
	}
	history := follow(ctx, t, c.Client, begin.ResourceVersion, writers*writes)
	wg.Wait()
	if why := broken(history, wrote); why != "" {
		t.Error(why)
	}
}

// write creates, changes and deletes one object over and over; each step is one event. The version of a deletion is not told to who
// deletes, so only those of the other steps are recorded; the watch tells that of the deletions.
func write(ctx context.Context, t *testing.T, client kubernetes.Interface, name string, n int, record func(name, version string)) {
	cms := client.CoreV1().ConfigMaps("default")
	cm, err := cms.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Error(err)
		return
	}
	record(name, cm.ResourceVersion)
	for i := 1; i < n; i++ {
		cm = cm.DeepCopy()
		cm.Data = map[string]string{"i": strconv.Itoa(i)}
		if cm, err = cms.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
			t.Error(err)
			return
		}
		record(name, cm.ResourceVersion)
	}
}

// follow watches until it has seen n events, and breaks the watch off every now and then.
func follow(ctx context.Context, t *testing.T, client kubernetes.Interface, version string, n int) []seen {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	var out []seen
	for len(out) < n {
		w, err := client.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: version})
		if err != nil {
			t.Fatal(err)
		}
		for range 1 + random.IntN(30) {
			if len(out) == n {
				break
			}
			e, ok := <-w.ResultChan()
			if !ok {
				break
			}
			cm, ok := e.Object.(*corev1.ConfigMap)
			if !ok {
				t.Fatalf("%s: %v", e.Type, e.Object)
			}
			v, err := strconv.ParseUint(cm.ResourceVersion, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			out, version = append(out, seen{e.Type, cm.Name, v}), cm.ResourceVersion
		}
		w.Stop()
	}
	return out
}

func TestPagesOfAListShowOneMoment(t *testing.T) {
	c := apitest.Start(t, apitest.WithHistory)
	ctx := timeout(t)
	cms := c.Client.CoreV1().ConfigMaps("default")
	for i := range int64(10) {
		if _, err := cms.Create(ctx, configMap(i), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for next := ""; ; {
		list, err := cms.List(ctx, metav1.ListOptions{Limit: 3, Continue: next})
		if err != nil {
			t.Fatal(err)
		}
		for _, cm := range list.Items {
			names = append(names, cm.Name)
		}
		if next = list.Continue; next == "" {
			break
		}
		if err := cms.Delete(ctx, "cm-9", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	if len(names) != 10 {
		t.Errorf("the pages show %v", names)
	}
}

func TestEverythingIsThereAfterARestart(t *testing.T) {
	dir := t.TempDir()
	c := apitest.StartIn(t, dir)
	ctx := timeout(t)
	made, err := c.Client.CoreV1().ConfigMaps("default").Create(ctx, configMap(1), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before, err := c.Log.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c.Stop()
	c = apitest.StartIn(t, dir)
	defer c.Stop()
	got, err := c.Client.CoreV1().ConfigMaps("default").Get(ctx, made.Name, metav1.GetOptions{})
	if err != nil || got.ResourceVersion != made.ResourceVersion || got.UID != made.UID {
		t.Errorf("got %v, %v; made %v", got, err, made)
	}
	after, err := c.Log.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// The endpoints of the service "kubernetes" follow the port, which is another; nothing else changes.
	if after-before > 2 {
		for p := before + 1; p <= after; p++ {
			ev := eventAt(t, c, uint64(p))
			t.Logf("%s of %s: %s", ev.Type, ev.Ref, ev.Change)
		}
		t.Errorf("a restart wrote %d events", after-before)
	}
}

func TestDeleteCollection(t *testing.T) {
	c := apitest.Start(t)
	ctx := timeout(t)
	cms := c.Client.CoreV1().ConfigMaps("default")
	for i := range int64(20) {
		cm := configMap(i)
		cm.Labels = map[string]string{"even": strconv.FormatBool(i%2 == 0)}
		if _, err := cms.Create(ctx, cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := cms.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "even=true"}); err != nil {
		t.Fatal(err)
	}
	left, err := cms.List(ctx, metav1.ListOptions{})
	if err != nil || len(left.Items) != 10 {
		t.Errorf("%d are left, %v", len(left.Items), err)
	}
}

// TestTheBusAppliesOnBehalfOfItsActor shows that a server-side apply, which goes through the HTTP handlers, ends in an event of the
// command's actor, with its cause and correlation.
func TestTheBusAppliesOnBehalfOfItsActor(t *testing.T) {
	c := apitest.Start(t)
	res, err := c.Bus.Do(timeout(t), commands.Command{
		Verb: commands.Patch, Resource: corev1.SchemeGroupVersion.WithResource("configmaps"), Namespace: "default", Name: "applied",
		PatchType: types.ApplyPatchType, FieldManager: "pilot", Force: true,
		Patch:       []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"},"data":{"a":"b"}}`),
		Actor:       domain.Actor{User: "system:controller:pilot"},
		Cause:       &domain.Cause{ID: "why", Position: 2},
		Correlation: "together",
	})
	if err != nil {
		t.Fatal(err)
	}
	cm, ok := res.Object.(*corev1.ConfigMap)
	if !ok || cm.Data["a"] != "b" || len(cm.ManagedFields) != 1 || cm.ManagedFields[0].Manager != "pilot" {
		t.Errorf("got %v", res.Object)
	}
	ev := eventAt(t, c, res.Position)
	if ev.Actor.User != "system:controller:pilot" || ev.Cause == nil || ev.Cause.ID != "why" || ev.Correlation != "together" {
		t.Errorf("the event: %+v", ev)
	}
}
