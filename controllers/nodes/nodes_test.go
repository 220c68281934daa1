package nodes_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/controllertest"
	"github.com/shiplog/shiplog/controllers/nodes"
	"github.com/shiplog/shiplog/controllers/resources"
)

var (
	now = controllertest.Epoch
	n1  = controllers.KeyOf(resources.Nodes.GroupResource(), "", "n1")
	p1  = controllers.KeyOf(resources.Pods.GroupResource(), "default", "p")
)

func node(name string, ready corev1.ConditionStatus, edits ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
	if ready != "" {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastHeartbeatTime: metav1.NewTime(now.Add(-time.Hour))}}
	}
	for _, e := range edits {
		e(n)
	}
	return n
}

func lease(name string, ago time.Duration) *coordinationv1.Lease {
	at := metav1.NewMicroTime(now.Add(-ago))
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: name}, Spec: coordinationv1.LeaseSpec{RenewTime: &at}}
}

func tainted(ts ...corev1.Taint) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, ts...) }
}

func taints(n *corev1.Node) string {
	var out []string
	for _, t := range n.Spec.Taints {
		out = append(out, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestSignsOfLife(t *testing.T) {
	for _, c := range []struct {
		what    string
		objects []runtime.Object
		began   time.Duration // before now
		want    []string
		again   time.Duration
	}{
		{"renewed in time", []runtime.Object{node("n1", "True"), lease("n1", 30*time.Second)}, time.Hour, nil, 10 * time.Second},
		{"overdue", []runtime.Object{node("n1", "True"), lease("n1", 40*time.Second)}, time.Hour, []string{"update nodes/status /n1"}, 0},
		{"overdue, but the controller has only begun", []runtime.Object{node("n1", "True"), lease("n1", time.Hour)}, 10 * time.Second, nil, 30 * time.Second},
		{"no lease, but a status", []runtime.Object{node("n1", "True", func(n *corev1.Node) {
			n.Status.Conditions[0].LastHeartbeatTime = metav1.NewTime(now.Add(-15 * time.Second))
		})}, time.Hour, nil, 25 * time.Second},
		{"new, and silent so far", []runtime.Object{node("n1", "", tainted(corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}), func(n *corev1.Node) { n.CreationTimestamp = metav1.NewTime(now.Add(-20 * time.Second)) })}, time.Hour, nil, 40 * time.Second},
		{"never said anything", []runtime.Object{node("n1", "")}, time.Hour, []string{"update nodes/status /n1"}, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			l := nodes.NewLifecycle(nodes.Options{}).(controllers.Starter).Started(now.Add(-c.began))
			d := controllertest.When(t, l, controllertest.Given(append(c.objects, node("n2", "True"))...), n1, now)
			controllertest.Then(t, d, c.want...)
			if c.again != 0 && !d.Again.Equal(now.Add(c.again)) {
				t.Errorf("again at %v, want in %v", d.Again, c.again)
			}
		})
	}
	l := nodes.NewLifecycle(nodes.Options{})
	d := controllertest.When(t, l, controllertest.Given(node("n1", "True"), lease("n1", time.Minute)), n1, now)
	for _, c := range controllertest.Find[*corev1.Node](t, d, "update nodes/status /n1").Status.Conditions {
		if c.Status != corev1.ConditionUnknown || !c.LastTransitionTime.Time.Equal(now) {
			t.Errorf("condition %+v", c)
		}
	}
	if len(d.Events) != 1 || d.Events[0].Reason != "NodeNotReady" || d.Events[0].About.UID != "n1" {
		t.Errorf("events %+v", d.Events)
	}
}

func TestTaints(t *testing.T) {
	mine := corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoExecute}
	pressure := func(n *corev1.Node) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue})
	}
	for _, c := range []struct {
		what   string
		node   *corev1.Node
		others corev1.ConditionStatus
		want   string // "-" when nothing is written
	}{
		{"well", node("n1", "True"), "True", "-"},
		{"not ready", node("n1", "False", tainted(mine)), "True", "mine:NoExecute not-ready:NoExecute not-ready:NoSchedule"},
		{"unreachable", node("n1", "Unknown"), "True", "unreachable:NoExecute unreachable:NoSchedule"},
		{"unreachable like all others", node("n1", "Unknown"), "Unknown", "unreachable:NoSchedule"},
		{"well again", node("n1", "True", tainted(mine, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule})), "True", "mine:NoExecute"},
		{"cordoned, disk full", node("n1", "True", pressure, func(n *corev1.Node) { n.Spec.Unschedulable = true }), "True", "disk-pressure:NoSchedule unschedulable:NoSchedule"},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := controllertest.When(t, nodes.NewLifecycle(nodes.Options{}), controllertest.Given(c.node, lease("n1", 0), node("n2", c.others)), n1, now)
			got := "-"
			if len(d.Commands) > 0 {
				got = taints(controllertest.Find[*corev1.Node](t, d, "update nodes /n1"))
			}
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func pod(edits ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "p"}, Spec: corev1.PodSpec{NodeName: "n1"}}
	for _, e := range edits {
		e(p)
	}
	return p
}

func tolerates(key string, op corev1.TolerationOperator, value string, effect corev1.TaintEffect, seconds int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		t := corev1.Toleration{Key: key, Operator: op, Value: value, Effect: effect}
		if seconds >= 0 {
			t.TolerationSeconds = &seconds
		}
		p.Spec.Tolerations = append(p.Spec.Tolerations, t)
	}
}

func TestWhichPodsAreEvicted(t *testing.T) {
	at := metav1.NewTime(now.Add(-time.Minute))
	taint := corev1.Taint{Key: "k", Value: "v", Effect: corev1.TaintEffectNoExecute, TimeAdded: &at}
	all := corev1.TaintEffect("")
	for _, c := range []struct {
		what   string
		pod    *corev1.Pod
		taints []corev1.Taint
		want   string // "stays", "goes", or in how many seconds
	}{
		{"no taint", pod(), nil, "stays"},
		{"only NoSchedule", pod(), []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}, "stays"},
		{"not tolerated", pod(), []corev1.Taint{taint}, "goes"},
		{"tolerated for ever", pod(tolerates("k", corev1.TolerationOpExists, "", corev1.TaintEffectNoExecute, -1)), []corev1.Taint{taint}, "stays"},
		{"tolerated by value", pod(tolerates("k", corev1.TolerationOpEqual, "v", all, -1)), []corev1.Taint{taint}, "stays"},
		{"another value", pod(tolerates("k", corev1.TolerationOpEqual, "w", all, -1)), []corev1.Taint{taint}, "goes"},
		{"everything tolerated", pod(tolerates("", corev1.TolerationOpExists, "", all, -1)), []corev1.Taint{taint}, "stays"},
		{"tolerated for a while", pod(tolerates("k", corev1.TolerationOpExists, "", all, 90)), []corev1.Taint{taint}, "30"},
		{"tolerated for a while that is over", pod(tolerates("k", corev1.TolerationOpExists, "", all, 60)), []corev1.Taint{taint}, "goes"},
		{"the shortest of several counts", pod(tolerates("k", corev1.TolerationOpExists, "", all, 300), tolerates("k", corev1.TolerationOpExists, "", all, 70)), []corev1.Taint{taint}, "10"},
		{"one of two not tolerated", pod(tolerates("k", corev1.TolerationOpExists, "", all, -1)), []corev1.Taint{taint, {Key: "l", Effect: corev1.TaintEffectNoExecute}}, "goes"},
		{"ended", pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), []corev1.Taint{taint}, "stays"},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := controllertest.When(t, nodes.NewEviction(), controllertest.Given(c.pod, node("n1", "False", tainted(c.taints...))), p1, now)
			got := "stays"
			switch {
			case len(d.Commands) > 0:
				got = "goes"
				controllertest.Then(t, d, "update pods/status default/p")
				next := d.Then([]controllers.Outcome{{Command: d.Commands[0]}})
				controllertest.Then(t, next, "delete pods default/p")
				if len(next.Events) != 1 || next.Events[0].Reason != "TaintManagerEviction" {
					t.Errorf("events %+v", next.Events)
				}
			case !d.Again.IsZero():
				got = fmt.Sprint(int(d.Again.Sub(now) / time.Second))
			}
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}
