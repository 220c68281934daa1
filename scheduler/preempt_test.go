package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func never(p *corev1.Pod) {
	policy := corev1.PreemptNever
	p.Spec.PreemptionPolicy = &policy
}

func leaving(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }

func started(second int64) podOption {
	return func(p *corev1.Pod) {
		at := metav1.Unix(second, 0)
		p.Status.StartTime = &at
	}
}

func protects(label string, allowed int32) *policyv1.PodDisruptionBudget {
	k, v, _ := strings.Cut(label, "=")
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "budget"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}},
		Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed},
	}
}

// thenPreempts is "pod=node" for a placement, "pod->node without a b" for a preemption, "pod: waits" for neither.
func thenPreempts(placements []Placement) []string {
	var out []string
	for _, p := range placements {
		name := p.Pending.Pod().Name
		switch {
		case p.Node != "":
			out = append(out, name+"="+p.Node)
		case p.Nominated != "":
			s := name + "->" + p.Nominated
			for i, v := range p.Victims {
				if i == 0 {
					s += " without"
				}
				s += " " + v.Pod().Name
			}
			out = append(out, s)
		default:
			out = append(out, name+": waits")
		}
	}
	return out
}

func TestPreemption(t *testing.T) {
	one := allocatable("cpu=1,memory=1Gi,pods=10")
	half, full := requests("cpu=500m"), requests("cpu=1")
	for _, c := range []struct {
		name string
		in   *State
		pods []Pending
		want []string
	}{
		{"the lower goes", given(node("n1", one), pod("x", on("n1"), full)), pendings(pod("a", full, priority(1))), []string{"a->n1 without x"}},
		{"equals stay", given(node("n1", one), pod("x", on("n1"), full, priority(1))), pendings(pod("a", full, priority(1))), []string{"a: waits"}},
		{"one that never preempts", given(node("n1", one), pod("x", on("n1"), full)), pendings(pod("a", full, priority(1), never)), []string{"a: waits"}},
		{"no more than needed", given(node("n1", one), pod("x", on("n1"), half), pod("y", on("n1"), half, priority(1))), pendings(pod("a", half, priority(2))), []string{"a->n1 without x"}},
		{"the younger of equals goes", given(node("n1", one), pod("x", on("n1"), half, started(5)), pod("y", on("n1"), half, started(9))), pendings(pod("a", half, priority(2))), []string{"a->n1 without y"}},
		{"where the least important goes", given(node("n1", one), node("n2", one), pod("x", on("n1"), full, priority(2)), pod("y", on("n2"), full, priority(1))), pendings(pod("a", full, priority(3))), []string{"a->n2 without y"}},
		{"where fewer go", given(node("n1", one), node("n2", one), pod("x", on("n1"), half), pod("y", on("n1"), half), pod("z", on("n2"), full)), pendings(pod("a", full, priority(3))), []string{"a->n2 without z"}},
		{
			"where no budget is broken", given(node("n1", one), node("n2", one), protects("app=db", 0), pod("x", on("n1"), full, podLabels("app=db")), pod("y", on("n2"), full, priority(1))),
			pendings(pod("a", full, priority(3))),
			[]string{"a->n2 without y"},
		},
		{
			"a budget is no wall", given(node("n1", one), protects("app=db", 0), pod("x", on("n1"), full, podLabels("app=db"))),
			pendings(pod("a", full, priority(3))),
			[]string{"a->n1 without x"},
		},
		{"not where a taint keeps the pod off", given(node("n1", one, taint("k", "", corev1.TaintEffectNoSchedule)), pod("x", on("n1"), full)), pendings(pod("a", full, priority(1))), []string{"a: waits"}},
		{"not where it would not fit anyway", given(node("n1", one), pod("x", on("n1"), full)), pendings(pod("a", requests("cpu=2"), priority(1))), []string{"a: waits"}},
		{"for a port", given(node("n1"), pod("x", on("n1"), hostport(80, "")), pod("y", on("n1"), hostport(81, ""))), pendings(pod("a", hostport(80, ""), priority(1))), []string{"a->n1 without x"}},
		{
			"two pods, two nodes", given(node("n1", one), node("n2", one), pod("x", on("n1"), full), pod("y", on("n2"), full)),
			pendings(pod("a", full, priority(2)), pod("b", full, priority(1))),
			[]string{"a->n2 without y", "b->n1 without x"},
		},
		{
			"what was made room for is not taken by another", given(node("n1", one), pod("x", on("n1"), full)),
			pendings(pod("a", half, priority(3)), pod("b", half, priority(2)), pod("c", half, priority(1))),
			[]string{"a->n1 without x", "b: waits", "c: waits"},
		},
		{
			"what the victims leave over is nobody's while they are there", given(node("n1", one), pod("x", on("n1"), full)),
			pendings(pod("a", half, priority(3)), pod("b", requests("cpu=400m"))),
			[]string{"a->n1 without x", "b: waits"},
		},
		{
			"room is on its way", given(node("n1", one), pod("x", on("n1"), full, leaving), pod("y", on("n1"), priority(0))),
			[]Pending{NewPending(pod("a", full, priority(1))).For("n1")},
			[]string{"a->n1"},
		},
		{"who goes already is not asked again", given(node("n1", one), pod("x", on("n1"), full, leaving)), pendings(pod("a", full, priority(1))), []string{"a->n1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := thenPreempts(Schedule(c.in.Snapshot(7), c.pods, Options{Seed: 3}))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
	in := given(node("n1", one), pod("x", on("n1"), full))
	if got := thenPreempts(Schedule(in.Snapshot(7), pendings(pod("a", full, priority(1))), Options{NoPreemption: true})); got[0] != "a: waits" {
		t.Errorf("with preemption switched off: %v", got)
	}
}

func TestNominationsHoldRoom(t *testing.T) {
	one := allocatable("cpu=1,memory=1Gi,pods=10")
	s := given(node("n1", one))
	important := NewPending(pod("important", requests("cpu=1"), priority(5))).For("n1")
	s.Nominate(important, "n1")
	snap := s.Snapshot(1)
	for _, c := range []struct {
		pod  Pending
		want string
	}{
		{NewPending(pod("lower", requests("cpu=1"), priority(4))), "lower: waits"},
		{NewPending(pod("equal", requests("cpu=1"), priority(5))), "equal: waits"},
		{NewPending(pod("higher", requests("cpu=1"), priority(6))), "higher=n1"},
		{important, "important=n1"},
	} {
		if got := thenPreempts(Schedule(snap, []Pending{c.pod}, Options{})); got[0] != c.want {
			t.Errorf("%v, want %s", got, c.want)
		}
	}
	s.Nominate(important, "")
	if got := thenPreempts(Schedule(s.Snapshot(2), pendings(pod("lower", requests("cpu=1"))), Options{})); got[0] != "lower=n1" {
		t.Errorf("after the nomination: %v", got)
	}
}

// TestVictimsAreWorthIt: victims are of lower priority and on the nominated node; without them the pod fits, and it would not
// with any one of them.
func TestVictimsAreWorthIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewState()
		var nodes []*corev1.Node
		for i := range rapid.IntRange(1, 3).Draw(t, "nodes") {
			n := node(fmt.Sprintf("n%d", i), allocatable(fmt.Sprintf("cpu=%dm,memory=1Gi,pods=%d", rapid.IntRange(100, 2000).Draw(t, "cpu"), rapid.IntRange(1, 6).Draw(t, "pods"))))
			nodes = append(nodes, n)
			s.SetNode(n)
		}
		running := map[string][]*corev1.Pod{}
		for i := range rapid.IntRange(0, 12).Draw(t, "running") {
			p := pod(fmt.Sprintf("r%d", i), requests(fmt.Sprintf("cpu=%dm", rapid.IntRange(0, 800).Draw(t, "request"))),
				priority(int32(rapid.IntRange(0, 3).Draw(t, "priority"))), started(int64(rapid.IntRange(1, 9).Draw(t, "started"))))
			if rapid.IntRange(0, 3).Draw(t, "port") == 0 {
				hostport(80, "")(p)
			}
			n := nodes[rapid.IntRange(0, len(nodes)-1).Draw(t, "on")].Name
			on(n)(p)
			running[n] = append(running[n], p)
			s.SetPod(p)
		}
		p := pod("a", requests(fmt.Sprintf("cpu=%dm", rapid.IntRange(0, 1500).Draw(t, "request"))), priority(2))
		if rapid.Bool().Draw(t, "port") {
			hostport(80, "")(p)
		}
		fitsOn := func(name string, without ...*corev1.Pod) bool {
			alone := NewState()
			for _, n := range nodes {
				if n.Name == name {
					alone.SetNode(n)
				}
			}
			for _, q := range running[name] {
				if !slices.Contains(without, q) {
					alone.SetPod(q)
				}
			}
			return Schedule(alone.Snapshot(1), pendings(p), Options{NoPreemption: true})[0].Node == name
		}
		got := Schedule(s.Snapshot(1), pendings(p), Options{})[0]
		if got.Node != "" {
			return
		}
		if got.Nominated == "" {
			for _, n := range nodes {
				var lower []*corev1.Pod
				for _, q := range running[n.Name] {
					if *q.Spec.Priority < 2 {
						lower = append(lower, q)
					}
				}
				if fitsOn(n.Name, lower...) {
					t.Fatalf("nobody is preempted although room could be made on %s", n.Name)
				}
			}
			return
		}
		var victims []*corev1.Pod
		for _, v := range got.Victims {
			if *v.Pod().Spec.Priority >= 2 || v.Pod().Spec.NodeName != got.Nominated {
				t.Fatalf("%s of priority %d on %s is a victim for %s", v.Pod().Name, *v.Pod().Spec.Priority, v.Pod().Spec.NodeName, got.Nominated)
			}
			victims = append(victims, v.Pod())
		}
		if !fitsOn(got.Nominated, victims...) {
			t.Fatalf("the pod does not fit on %s even without its victims", got.Nominated)
		}
		for i := range victims {
			if fitsOn(got.Nominated, slices.Delete(slices.Clone(victims), i, i+1)...) {
				t.Fatalf("%s need not have gone", victims[i].Name)
			}
		}
	})
}
