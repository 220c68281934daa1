package endpoints_test

//lint:file-ignore SA1019 Endpoints are deprecated for those who write clients; a cluster keeps them for those who still read them.

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/endpoints"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	now = controllertest.Epoch
	web = controllers.KeyOf(resources.Services.GroupResource(), "default", "web")
)

func service(edits ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "svc", Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.10", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{
				{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("web")},
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(5353)},
			},
		},
	}
	for _, e := range edits {
		e(s)
	}
	return s
}

func pod(n int, edits ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("web-%04d", n), UID: types.UID(fmt.Sprintf("pod-%04d", n)), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}}},
	}
	controllertest.MakeReady(p, now)
	setIP(p, fmt.Sprintf("10.0.%d.%d", n/200, n%200+1))
	for _, e := range edits {
		e(p)
	}
	return p
}

func setIP(p *corev1.Pod, ips ...string) {
	p.Status.PodIP, p.Status.PodIPs = ips[0], nil
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
}

func unready(p *corev1.Pod) { p.Status.Conditions = nil }

func terminating(p *corev1.Pod) {
	at := metav1.NewTime(now)
	p.DeletionTimestamp, p.Finalizers = &at, []string{"test/hold"}
}

func node() *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: "east"}}}
}

// What both controllers make of services of every sort, as whole documents.
func TestServices(t *testing.T) {
	otherPort := func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 9090 }
	for name, objects := range map[string][]runtime.Object{
		"empty":    {service()},
		"ports":    {service(), node(), pod(1), pod(2, unready), pod(3, terminating), pod(4, otherPort), pod(5, func(p *corev1.Pod) { p.Labels = nil })},
		"unlisted": {service(), pod(1, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), pod(2, func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil })},
		"headless": {
			service(func(s *corev1.Service) {
				s.Spec.ClusterIP, s.Spec.Ports, s.Spec.PublishNotReadyAddresses = corev1.ClusterIPNone, nil, true
			}),
			pod(1, unready, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "web-0", "web" }), pod(2, terminating),
		},
		"dual": {
			service(func(s *corev1.Service) {
				s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
			}),
			pod(1, func(p *corev1.Pod) { setIP(p, "10.0.0.1", "fd00::1") }), pod(2),
		},
		"near":     {service(func(s *corev1.Service) { near := "PreferSameZone"; s.Spec.TrafficDistribution = &near }), node(), pod(1), pod(2, unready)},
		"external": {service(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }), pod(1)},
		"byhand":   {service(func(s *corev1.Service) { s.Spec.Selector = nil }), pod(1)},
	} {
		t.Run(name, func(t *testing.T) {
			var doc strings.Builder
			for _, c := range []controllers.Controller{endpoints.NewEndpoints(), endpoints.NewSlices()} {
				text, err := controllertest.Document(controllertest.When(t, c, controllertest.Given(objects...), web, now))
				if err != nil {
					t.Fatal(err)
				}
				doc.WriteString(text)
			}
			golden(t, name, doc.String())
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".yaml")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is made now (-update writes it):\n%s", path, got)
	}
}

func TestHandWrittenEndpointsAreMirrored(t *testing.T) {
	byHand := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "ep", Labels: map[string]string{"l": "v"}},
		Subsets: []corev1.EndpointSubset{{
			Addresses:         []corev1.EndpointAddress{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}},
			NotReadyAddresses: []corev1.EndpointAddress{{IP: "192.0.2.2"}},
			Ports:             []corev1.EndpointPort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
		}},
	}
	without := service(func(s *corev1.Service) { s.Spec.Selector = nil })
	text, err := controllertest.Document(controllertest.When(t, endpoints.NewMirror(), controllertest.Given(without, byHand), web, now))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "mirror", text)
	for what, objects := range map[string][]runtime.Object{
		"a selector": {service(), byHand},
		"no service": {byHand},
		"skip": {without, func() runtime.Object {
			skip := byHand.DeepCopy()
			skip.Labels[discoveryv1.LabelSkipMirror] = "true"
			return skip
		}()},
	} {
		mine := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-x", Labels: map[string]string{
			discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: "endpointslicemirroring-controller.k8s.io",
		}}}
		d := controllertest.When(t, endpoints.NewMirror(), controllertest.Given(append(objects, mine)...), web, now)
		if got := controllertest.Lines(d.Commands); !slices.Equal(got, []string{"delete endpointslices default/web-x"}) {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func TestEndpointsGoWithTheirService(t *testing.T) {
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "ep"}}
	controllertest.Then(t, controllertest.When(t, endpoints.NewEndpoints(), controllertest.Given(e), web, now), "delete endpoints default/web")
	lock := e.DeepCopy()
	lock.Annotations = map[string]string{"control-plane.alpha.kubernetes.io/leader": "{}"}
	controllertest.Then(t, controllertest.When(t, endpoints.NewEndpoints(), controllertest.Given(lock), web, now))
}

func TestTooManyAddressesAreCut(t *testing.T) {
	objects := []runtime.Object{service()}
	for i := range 1100 {
		edits := []func(*corev1.Pod){}
		if i < 200 {
			edits = append(edits, unready)
		}
		objects = append(objects, pod(i, edits...))
	}
	view := controllertest.Given(objects...)
	d := controllertest.When(t, endpoints.NewEndpoints(), view, web, now)
	e := controllertest.Find[*corev1.Endpoints](t, d, "create endpoints default/web")
	if n, m := len(e.Subsets[0].Addresses), len(e.Subsets[0].NotReadyAddresses); n != 900 || m != 100 || e.Annotations[corev1.EndpointsOverCapacity] != "truncated" {
		t.Errorf("%d ready and %d not, annotations %v", n, m, e.Annotations)
	}
	d = controllertest.When(t, endpoints.NewSlices(), view, web, now)
	if len(d.Commands) != 11 {
		t.Errorf("%d slices for 1,100 pods", len(d.Commands))
	}
}

// Only what leads to other endpoints asks for the service.
func TestWhichPodChangesMatter(t *testing.T) {
	noIP := func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil }
	for what, c := range map[string]struct {
		before, after *corev1.Pod
		keys          int
	}{
		"created without an address": {nil, pod(1, noIP), 0},
		"got an address":             {pod(1, noIP), pod(1, unready), 1},
		"became ready":               {pod(1, unready), pod(1), 1},
		"an annotation":              {pod(1), pod(1, func(p *corev1.Pod) { p.Annotations = map[string]string{"a": "b"} }), 0},
		"no longer selected":         {pod(1), pod(1, func(p *corev1.Pod) { p.Labels = nil }), 1},
		"being deleted":              {pod(1), pod(1, terminating), 1},
		"gone":                       {pod(1), nil, 1},
		"another app":                {nil, pod(1, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} }), 0},
	} {
		view := controllertest.Given(service(), service(func(s *corev1.Service) { s.Name, s.Spec.Selector = "other", map[string]string{"app": "x"} }))
		ch := projections.Change{Event: domain.Event{Ref: domain.Ref{Resource: "pods", Namespace: "default", Name: "web-0001"}}}
		if c.before != nil {
			ch.Before, _ = controllertest.Given(c.before).Get(resources.Pods.GroupResource(), "default", c.before.Name)
		}
		if c.after != nil {
			ch.After, _ = controllertest.Given(c.after).Get(resources.Pods.GroupResource(), "default", c.after.Name)
		}
		if keys := controllers.KeysOf(endpoints.NewSlices(), view, ch); len(keys) != c.keys {
			t.Errorf("%s: %v", what, keys)
		}
	}
}

// However pods come, go and change: the slices hold each member once, never more than 100 to a slice, and one change of one pod
// writes at most two slices.
func TestSlicesAreStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := controllertest.NewCluster(service())
		settle := func() int {
			writes := 0
			for range 5 {
				d, err := endpoints.NewSlices().Reconcile(c.Snapshot(), web, now)
				if err != nil {
					t.Fatal(err)
				}
				if len(d.Commands) == 0 {
					break
				}
				for _, cmd := range d.Commands {
					writes++
					c.MustDo(cmd)
				}
			}
			members := map[types.UID]int{}
			for s := range projections.List[*discoveryv1.EndpointSlice](c.Snapshot(), resources.EndpointSlices.GroupResource(), "") {
				if len(s.Endpoints) > 100 {
					t.Fatalf("slice %s holds %d", s.Name, len(s.Endpoints))
				}
				for _, e := range s.Endpoints {
					members[e.TargetRef.UID]++
				}
			}
			pods := 0
			for p := range projections.List[*corev1.Pod](c.Snapshot(), resources.Pods.GroupResource(), "") {
				pods++
				if members[p.UID] != 1 {
					t.Fatalf("pod %s is in %d slices", p.Name, members[p.UID])
				}
			}
			if pods != len(members) {
				t.Fatalf("%d pods, %d endpoints", pods, len(members))
			}
			return writes
		}
		there := map[int]bool{}
		for i := range rapid.IntRange(0, 350).Draw(t, "pods") {
			c.MustCreate(pod(i))
			there[i] = true
		}
		settle()
		for range rapid.IntRange(1, 20).Draw(t, "changes") {
			n := rapid.IntRange(0, 360).Draw(t, "pod")
			if there[n] {
				zero := int64(0)
				c.MustDo(commands.Command{Verb: commands.Delete, Resource: resources.Pods, Namespace: "default", Name: pod(n).Name, DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: &zero}})
			} else {
				c.MustCreate(pod(n))
			}
			there[n] = !there[n]
			if writes := settle(); writes > 2 {
				t.Fatalf("one change wrote %d slices", writes)
			}
		}
	})
}

func benchmark(b *testing.B, c controllers.Controller) {
	objects := []runtime.Object{service(), node()}
	for i := range 1000 {
		objects = append(objects, pod(i))
	}
	d, err := c.Reconcile(controllertest.Given(objects...), web, time.Time{})
	if err != nil {
		b.Fatal(err)
	}
	for i, cmd := range d.Commands {
		o := cmd.Object.(controllers.Object)
		o.SetUID(types.UID(fmt.Sprint("made-", i)))
		objects = append(objects, o)
	}
	view := controllertest.Given(objects...)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if d, err := c.Reconcile(view, web, time.Time{}); err != nil || len(d.Commands) != 0 {
			b.Fatal(err, controllertest.Lines(d.Commands))
		}
	}
}

func BenchmarkEndpointsOfThousandPods(b *testing.B) { benchmark(b, endpoints.NewEndpoints()) }
func BenchmarkSlicesOfThousandPods(b *testing.B)    { benchmark(b, endpoints.NewSlices()) }
