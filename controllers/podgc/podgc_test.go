package podgc_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/podgc"
	"github.com/shiplog/shiplog/controllers/pods"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

func pod(name, node string, edits ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	for _, e := range edits {
		e(p)
	}
	return p
}

func ended(ago time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodSucceeded
		p.CreationTimestamp = metav1.NewTime(controllertest.Epoch.Add(-ago))
	}
}

func left(c *controllertest.Cluster) string {
	s := ""
	for o := range c.Snapshot().List(pods.Resource, "") {
		s += o.Ref.Name + " "
	}
	return s
}

func settle(t *testing.T, c *controllertest.Cluster, o podgc.Options, horizon time.Duration) *controllertest.Simulation {
	t.Helper()
	sim := controllertest.NewSimulation(1, c, podgc.New(o))
	sim.Broken = func(*corev1.Pod) bool { return true } // nodes leave the pods alone
	if err := sim.Settle(1000, horizon); err != nil {
		t.Fatal(err)
	}
	return sim
}

func TestPodsThatEndedFirstGoFirst(t *testing.T) {
	c := controllertest.NewCluster(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	for i := range 6 {
		c.MustCreate(pod(fmt.Sprint("p", i), "n", ended(time.Duration(10-i)*time.Hour)))
	}
	settle(t, c, podgc.Options{Terminated: 4}, time.Hour)
	if got := left(c); got != "p2 p3 p4 p5 " {
		t.Errorf("left: %s", got)
	}
}

func TestPodsOfANodeThatIsGone(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	c := controllertest.NewCluster(node, pod("on-n", "n"), pod("on-gone", "gone"))
	sim := settle(t, c, podgc.Options{}, 39*time.Second)
	if got := left(c); got != "on-gone on-n " {
		t.Errorf("left after 39 s: %s", got)
	}
	p, _ := projections.Get[*corev1.Pod](c.Snapshot(), pods.Resource, "default", "on-gone")
	if cond := pods.Condition(p, corev1.DisruptionTarget); cond == nil || cond.Reason != "DeletionByPodGC" || p.Status.Phase == corev1.PodFailed {
		t.Errorf("status %+v", p.Status)
	}
	if err := sim.Settle(1000, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := left(c); got != "on-n " {
		t.Errorf("left: %s", got)
	}
	failed := false
	for _, ch := range c.Changes(0) {
		if after, ok := controllers.Of(ch.After).(*corev1.Pod); ok && after.Name == "on-gone" && after.Status.Phase == corev1.PodFailed {
			failed = true
		}
	}
	if !failed {
		t.Error("the pod was not marked as failed before it was removed")
	}
}

func TestANodeThatComesBackKeepsItsPods(t *testing.T) {
	c := controllertest.NewCluster(pod("p", "n"))
	sim := settle(t, c, podgc.Options{}, 20*time.Second)
	c.MustCreate(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	if err := sim.Settle(1000, time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := left(c); got != "p " {
		t.Errorf("left: %q", got)
	}
}

func TestPodsThatNoNodeWillEnd(t *testing.T) {
	deleting := func(p *corev1.Pod) {
		at, grace := metav1.NewTime(controllertest.Epoch), int64(30)
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, &grace
	}
	down := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "down"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}}}
	for what, c := range map[string]struct {
		objects []runtime.Object
		want    []string
	}{
		"never scheduled":             {[]runtime.Object{pod("p", "", deleting)}, []string{"delete pods default/p"}},
		"scheduled":                   {[]runtime.Object{pod("p", "n", deleting), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}}, nil},
		"on a node out of service":    {[]runtime.Object{pod("p", "down", deleting), down}, []string{"update pods/status default/p"}},
		"not deleted, out of service": {[]runtime.Object{pod("p", "down"), down}, nil},
	} {
		d := controllertest.When(t, podgc.New(podgc.Options{}), controllertest.Given(c.objects...), controllers.KeyOf(pods.Resource, "default", "p"), controllertest.Epoch)
		controllertest.Then(t, d, c.want...)
		for _, cmd := range d.Commands {
			if cmd.Verb == commands.Delete && (*cmd.DeleteOptions.GracePeriodSeconds != 0 || cmd.Resource != resources.Pods) {
				t.Errorf("%s: %+v", what, cmd)
			}
		}
	}
}
