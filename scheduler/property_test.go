package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"pgregory.net/rapid"
)

var keys = []string{"a", "b", "c"}

func drawNode(t *rapid.T, i int) *corev1.Node {
	n := node(fmt.Sprintf("n%d", i), allocatable(fmt.Sprintf("cpu=%dm,memory=%dMi,pods=%d,example.com/x=%d",
		rapid.IntRange(100, 4000).Draw(t, "cpu"), rapid.IntRange(64, 4096).Draw(t, "memory"), rapid.IntRange(0, 6).Draw(t, "pods"), rapid.IntRange(0, 3).Draw(t, "x"))))
	zone(rapid.SampledFrom(keys).Draw(t, "zone"))(n)
	if rapid.Bool().Draw(t, "labelled") {
		nodeLabels("disk=" + rapid.SampledFrom(keys).Draw(t, "disk"))(n)
	}
	if rapid.IntRange(0, 3).Draw(t, "tainted") == 0 {
		taint(rapid.SampledFrom(keys).Draw(t, "taint"), "", rapid.SampledFrom([]corev1.TaintEffect{
			corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute, corev1.TaintEffectPreferNoSchedule,
		}).Draw(t, "effect"))(n)
	}
	n.Spec.Unschedulable = rapid.IntRange(0, 5).Draw(t, "cordoned") == 0
	return n
}

func drawPod(t *rapid.T, i int) *corev1.Pod {
	p := pod(fmt.Sprintf("p%d", i), podLabels("app="+rapid.SampledFrom(keys).Draw(t, "app")), owned(rapid.SampledFrom(keys).Draw(t, "owner")))
	if rapid.Bool().Draw(t, "requests") {
		requests(fmt.Sprintf("cpu=%dm,memory=%dMi,example.com/x=%d", rapid.IntRange(0, 1500).Draw(t, "cpu"),
			rapid.IntRange(0, 1024).Draw(t, "memory"), rapid.IntRange(0, 1).Draw(t, "x")))(p)
	}
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		selects("disk=" + rapid.SampledFrom(keys).Draw(t, "disk"))(p)
	case 1:
		tolerates(rapid.SampledFrom(keys).Draw(t, "tolerates"))(p)
	case 2:
		hostport(int32(rapid.IntRange(80, 82).Draw(t, "port")), "")(p)
	case 3:
		awayFrom("app="+rapid.SampledFrom(keys).Draw(t, "away"), corev1.LabelHostname)(p)
	case 4:
		spreadOver(corev1.LabelTopologyZone, "app="+p.Labels["app"], 1, corev1.DoNotSchedule)(p)
	case 5:
		near("app="+rapid.SampledFrom(keys).Draw(t, "near"), corev1.LabelTopologyZone)(p)
	}
	n := int32(rapid.IntRange(0, 2).Draw(t, "priority"))
	p.Spec.Priority = &n
	return p
}

// TestPlacementsKeepTheRules judges the outcome by rules written down a second time, as simply as can be, over the pods
// themselves.
func TestPlacementsKeepTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewState()
		nodes := map[string]*corev1.Node{}
		for i := range rapid.IntRange(0, 6).Draw(t, "nodes") {
			n := drawNode(t, i)
			nodes[n.Name] = n
			s.SetNode(n)
		}
		var pods []*corev1.Pod
		for i := range rapid.IntRange(1, 25).Draw(t, "count") {
			pods = append(pods, drawPod(t, i))
		}
		seed := rapid.Uint64().Draw(t, "seed")
		on := map[string][]*corev1.Pod{} // by node, in the order of their placing
		place := func(placements []Placement) {
			for _, p := range placements {
				if p.Node == "" {
					if p.Reasons.Message == "" {
						t.Fatalf("%s was refused without a word", p.Pending.Pod().Name)
					}
					refusedAll(t, p, nodes)
					continue
				}
				pod, n := p.Pending.Pod(), nodes[p.Node]
				admitted(t, pod, n, on, nodes)
				on[p.Node] = append(on[p.Node], pod)
				bound := pod.DeepCopy()
				bound.Spec.NodeName = p.Node
				s.SetPod(bound)
			}
		}
		// Two rounds, so that the second stands on what the state made of the first.
		half := len(pods) / 2
		for _, batch := range [][]*corev1.Pod{pods[:half], pods[half:]} {
			snap := s.Snapshot(1)
			placements := Schedule(snap, pendings(batch...), Options{Seed: seed})
			shuffled := rapid.Permutation(pendings(batch...)).Draw(t, "order")
			if d := cmp.Diff(then(placements), then(Schedule(snap, shuffled, Options{Seed: seed}))); d != "" {
				t.Fatalf("the order of the input made a difference:\n%s", d)
			}
			place(placements)
		}
	})
}

func refusedAll(t *rapid.T, p Placement, nodes map[string]*corev1.Node) {
	byNode := map[string]bool{}
	for _, r := range p.Reasons.Refused {
		for _, n := range r.Nodes {
			byNode[n] = true
		}
	}
	if len(nodes) <= 3 && len(byNode) != len(nodes) {
		t.Fatalf("%s: reasons for %v only, of the nodes %v", p.Pending.Pod().Name, slices.Collect(maps.Keys(byNode)), slices.Collect(maps.Keys(nodes)))
	}
}

func admitted(t *rapid.T, pod *corev1.Pod, n *corev1.Node, on map[string][]*corev1.Pod, nodes map[string]*corev1.Node) {
	if n.Spec.Unschedulable {
		t.Fatalf("%s is on the cordoned %s", pod.Name, n.Name)
	}
	for k, v := range pod.Spec.NodeSelector {
		if n.Labels[k] != v {
			t.Fatalf("%s wants %s=%s and is on %s with %v", pod.Name, k, v, n.Name, n.Labels)
		}
	}
	for _, taint := range n.Spec.Taints {
		tolerated := taint.Effect == corev1.TaintEffectPreferNoSchedule
		for _, tol := range pod.Spec.Tolerations {
			tolerated = tolerated || tol.Key == taint.Key
		}
		if !tolerated {
			t.Fatalf("%s is on %s against the taint %s", pod.Name, n.Name, taint.Key)
		}
	}
	all := append(slices.Clone(on[n.Name]), pod)
	if int64(len(all)) > n.Status.Allocatable.Pods().Value() {
		t.Fatalf("%s has %d pods", n.Name, len(all))
	}
	sum := map[corev1.ResourceName]int64{}
	for _, q := range all {
		for name, v := range resourcehelper.PodRequests(q, resourcehelper.PodResourcesOptions{}) {
			sum[name] += v.MilliValue()
		}
	}
	for name, v := range sum {
		if limit := n.Status.Allocatable[name]; v > limit.MilliValue() && v > 0 {
			t.Fatalf("%s is overcommitted: %d of %d %s", n.Name, v, limit.MilliValue(), name)
		}
	}
	for _, q := range on[n.Name] {
		for _, a := range pod.Spec.Containers[0].Ports {
			for _, b := range q.Spec.Containers[0].Ports {
				if a.HostPort == b.HostPort {
					t.Fatalf("%s and %s share port %d of %s", pod.Name, q.Name, a.HostPort, n.Name)
				}
			}
		}
		if hates(pod, q) || hates(q, pod) {
			t.Fatalf("%s and %s are together on %s", pod.Name, q.Name, n.Name)
		}
	}
	zones := map[string]int{}
	for _, m := range nodes {
		zones[m.Labels[corev1.LabelTopologyZone]] += 0
	}
	var wanted int
	for name, list := range on {
		for _, q := range list {
			if q.Labels["app"] == pod.Labels["app"] {
				zones[nodes[name].Labels[corev1.LabelTopologyZone]]++
			}
			if likes(pod, q) && nodes[name].Labels[corev1.LabelTopologyZone] == n.Labels[corev1.LabelTopologyZone] {
				wanted++
			}
		}
	}
	if len(pod.Spec.TopologySpreadConstraints) > 0 {
		here := zones[n.Labels[corev1.LabelTopologyZone]] + 1
		if least := slices.Min(slices.Collect(maps.Values(zones))); here-least > 1 {
			t.Fatalf("%s in zone %s makes a skew of %d: %v", pod.Name, n.Labels[corev1.LabelTopologyZone], here-least, zones)
		}
	}
	if pod.Spec.Affinity != nil && pod.Spec.Affinity.PodAffinity != nil && wanted == 0 && !likes(pod, pod) {
		t.Fatalf("%s is in zone %s, where nobody is that it wants to be near", pod.Name, n.Labels[corev1.LabelTopologyZone])
	}
}

func hates(a, b *corev1.Pod) bool {
	return a.Spec.Affinity != nil && a.Spec.Affinity.PodAntiAffinity != nil &&
		a.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector.MatchLabels["app"] == b.Labels["app"]
}

func likes(a, b *corev1.Pod) bool {
	return a.Spec.Affinity != nil && a.Spec.Affinity.PodAffinity != nil &&
		a.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector.MatchLabels["app"] == b.Labels["app"]
}

// TestStateEqualsRecomputation compares the state after a random history with one built from what is left.
func TestStateEqualsRecomputation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewState()
		nodes, pods := map[string]*corev1.Node{}, map[string]*corev1.Pod{}
		var taken []Snapshot
		var were [][]string
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				n := drawNode(t, rapid.IntRange(0, 3).Draw(t, "node"))
				nodes[n.Name] = n
				s.SetNode(n)
			case 1:
				name := fmt.Sprintf("n%d", rapid.IntRange(0, 3).Draw(t, "node"))
				delete(nodes, name)
				s.RemoveNode(name)
			case 2, 3:
				p := drawPod(t, rapid.IntRange(0, 5).Draw(t, "pod"))
				p.Spec.NodeName = fmt.Sprintf("n%d", rapid.IntRange(0, 3).Draw(t, "on"))
				if rapid.IntRange(0, 3).Draw(t, "done") == 0 {
					p.Status.Phase = corev1.PodFailed
				}
				pods[p.Name] = p
				s.SetPod(p)
			case 4:
				name := fmt.Sprintf("p%d", rapid.IntRange(0, 5).Draw(t, "pod"))
				delete(pods, name)
				s.RemovePod(podKey(pod(name)))
			case 5:
				snap := s.Snapshot(1) // whatever is shared from now on must be copied
				taken = append(taken, snap)
				were = append(were, describe(snap))
			}
		}
		fresh := NewState()
		for _, n := range nodes {
			fresh.SetNode(n)
		}
		for _, p := range pods {
			fresh.SetPod(p)
		}
		if d := cmp.Diff(describe(fresh.Snapshot(1)), describe(s.Snapshot(1))); d != "" {
			t.Fatalf("-recomputed +kept\n%s", d)
		}
		for i, snap := range taken {
			if d := cmp.Diff(were[i], describe(snap)); d != "" {
				t.Fatalf("a snapshot changed: -before +after\n%s", d)
			}
		}
	})
}

func describe(s Snapshot) []string {
	var out []string
	for _, n := range s.nodes {
		var pods, ports []string
		for _, p := range n.pods {
			pods = append(pods, p.pod.Name)
		}
		for _, p := range n.ports {
			ports = append(ports, fmt.Sprint(p))
		}
		slices.Sort(pods)
		slices.Sort(ports)
		out = append(out, fmt.Sprint(n.name, n.node.Spec, n.allocatable, n.maxPods, n.used, pods, ports, n.owners, n.withAffinity))
	}
	return out
}
