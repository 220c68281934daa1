package scheduler

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var update = flag.Bool("update", false, "rewrite the files under testdata")

func always(v corev1.ContainerRestartPolicy) *corev1.ContainerRestartPolicy { return &v }

func init64(s string, sidecar bool) podOption {
	return func(p *corev1.Pod) {
		c := corev1.Container{Name: fmt.Sprintf("init%d", len(p.Spec.InitContainers)), Resources: corev1.ResourceRequirements{Requests: list(s)}}
		if sidecar {
			c.RestartPolicy = always(corev1.ContainerRestartPolicyAlways)
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
}

func service(name, selector string) *corev1.Service {
	k, v, _ := strings.Cut(selector, "=")
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{Selector: map[string]string{k: v}}}
}

// then is "pod=node" for each placement, or "pod: message".
func then(placements []Placement) []string {
	var out []string
	for _, p := range placements {
		if p.Node == "" {
			out = append(out, p.Pending.Pod().Name+": "+p.Reasons.Message)
		} else {
			out = append(out, p.Pending.Pod().Name+"="+p.Node)
		}
	}
	return out
}

func TestSchedule(t *testing.T) {
	hard, soft := corev1.DoNotSchedule, corev1.ScheduleAnyway
	for _, c := range []struct {
		name string
		in   *State
		pods []*corev1.Pod
		want []string
	}{
		{"no nodes", given(), []*corev1.Pod{pod("a")}, []string{"a: no nodes available to schedule pods"}},
		{
			"the emptier node wins", given(node("n1"), node("n2"), pod("x", on("n1"), requests("cpu=2,memory=4Gi"))),
			[]*corev1.Pod{pod("a", requests("cpu=1,memory=1Gi"))},
			[]string{"a=n2"},
		},
		{
			"each decision counts on those before it", given(node("n1", allocatable("cpu=1,memory=1Gi,pods=10")), node("n2", allocatable("cpu=1,memory=1Gi,pods=10"))),
			[]*corev1.Pod{pod("a", requests("cpu=600m"), priority(3)), pod("b", requests("cpu=600m"), priority(2)), pod("c", requests("cpu=600m"), priority(1))},
			[]string{"a=n2", "b=n1", "c: 0/2 nodes are available: 2 Insufficient cpu."},
		},
		{
			"priority before age", given(node("n1", allocatable("cpu=1,memory=1Gi,pods=1"))),
			[]*corev1.Pod{pod("low"), pod("high", priority(9))},
			[]string{"high=n1", "low: 0/1 nodes are available: 1 Too many pods."},
		},
		{
			"every reason of a node is told", given(node("n1", allocatable("cpu=1,memory=1Gi,pods=0")), node("n2", cordoned), node("n3", taint("gpu", "yes", corev1.TaintEffectNoSchedule))),
			[]*corev1.Pod{pod("a", requests("cpu=2,memory=2Gi,example.com/gpu=1"))},
			[]string{"a: 0/3 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/gpu, 1 Insufficient memory, 1 Too many pods, 1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable."},
		},
		{
			"extended resources", given(node("n1"), node("n2", allocatable("cpu=1,memory=1Gi,pods=9,example.com/gpu=2")), pod("x", on("n2"), requests("example.com/gpu=1"))),
			[]*corev1.Pod{pod("a", requests("example.com/gpu=1")), pod("b", requests("example.com/gpu=1"))},
			[]string{"a=n2", "b: 0/2 nodes are available: 2 Insufficient example.com/gpu."},
		},
		{
			"the largest init container counts, sidecars add up", given(node("n1", allocatable("cpu=2,memory=1Gi,pods=9"))),
			[]*corev1.Pod{
				pod("a", requests("cpu=1"), init64("cpu=2500m", false)), pod("b", requests("cpu=1"), init64("cpu=1500m", true)),
				pod("c", requests("cpu=1"), init64("cpu=1", false), init64("cpu=500m", true)),
			},
			[]string{"a: 0/1 nodes are available: 1 Insufficient cpu.", "b: 0/1 nodes are available: 1 Insufficient cpu.", "c=n1"},
		},
		{
			"overhead counts", given(node("n1", allocatable("cpu=1,memory=1Gi,pods=9"))),
			[]*corev1.Pod{pod("a", requests("cpu=900m"), func(p *corev1.Pod) { p.Spec.Overhead = list("cpu=200m") })},
			[]string{"a: 0/1 nodes are available: 1 Insufficient cpu."},
		},
		{
			"finished pods take nothing", given(node("n1", allocatable("cpu=1,memory=1Gi,pods=1")), pod("x", on("n1"), requests("cpu=1"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })),
			[]*corev1.Pod{pod("a", requests("cpu=1"))},
			[]string{"a=n1"},
		},
		{"a node that tolerates nobody else", given(node("n1", taint("k", "v", corev1.TaintEffectNoExecute)), node("n2")), []*corev1.Pod{pod("a", tolerates("k"), selects("kubernetes.io/hostname=n1"))}, []string{"a=n1"}},
		{"cordoned, but tolerated", given(node("n1", cordoned)), []*corev1.Pod{pod("a", tolerates(corev1.TaintNodeUnschedulable))}, []string{"a=n1"}},
		{"PreferNoSchedule is a preference", given(node("n1", taint("k", "", corev1.TaintEffectPreferNoSchedule)), node("n2"), pod("x", on("n2"), requests("cpu=2,memory=4Gi"))), []*corev1.Pod{pod("a")}, []string{"a=n2"}},
		{"node selector", given(node("n1"), node("n2", nodeLabels("disk=ssd"))), []*corev1.Pod{pod("a", selects("disk=ssd")), pod("b", selects("disk=tape"))}, []string{"a=n2", "b: 0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."}},
		{"affinity In", given(node("n1", nodeLabels("d=a")), node("n2", nodeLabels("d=b"))), []*corev1.Pod{pod("a", nodeAffinity(false, "d", corev1.NodeSelectorOpIn, "b", "c"))}, []string{"a=n2"}},
		{"affinity NotIn", given(node("n1", nodeLabels("d=a")), node("n2", nodeLabels("d=b"))), []*corev1.Pod{pod("a", nodeAffinity(false, "d", corev1.NodeSelectorOpNotIn, "b"))}, []string{"a=n1"}},
		{"affinity Exists", given(node("n1"), node("n2", nodeLabels("d=b"))), []*corev1.Pod{pod("a", nodeAffinity(false, "d", corev1.NodeSelectorOpExists))}, []string{"a=n2"}},
		{"affinity DoesNotExist", given(node("n1"), node("n2", nodeLabels("d=b"))), []*corev1.Pod{pod("a", nodeAffinity(false, "d", corev1.NodeSelectorOpDoesNotExist))}, []string{"a=n1"}},
		{"affinity Gt", given(node("n1", nodeLabels("d=3")), node("n2", nodeLabels("d=5"))), []*corev1.Pod{pod("a", nodeAffinity(false, "d", corev1.NodeSelectorOpGt, "4"))}, []string{"a=n2"}},
		{"affinity Lt", given(node("n1", nodeLabels("d=3")), node("n2", nodeLabels("d=5"))), []*corev1.Pod{pod("a", nodeAffinity(false, "d", corev1.NodeSelectorOpLt, "4"))}, []string{"a=n1"}},
		{"affinity matchFields, as of daemon sets", given(node("n1"), node("n2"), node("n3")), []*corev1.Pod{pod("a", nodeAffinity(true, "metadata.name", corev1.NodeSelectorOpIn, "n3"))}, []string{"a=n3"}},
		{"preferred node affinity", given(node("n1"), node("n2"), node("n3", nodeLabels("disk=ssd"))), []*corev1.Pod{pod("a", prefersNode("disk", "ssd", 50))}, []string{"a=n3"}},
		{"host ports", given(node("n1"), node("n2"), pod("x", on("n1"), hostport(80, ""))), []*corev1.Pod{pod("a", hostport(80, "10.0.0.1")), pod("b", hostport(80, ""))}, []string{"a=n2", "b: 0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports."}},
		{"host ports of different addresses", given(node("n1")), []*corev1.Pod{pod("a", hostport(80, "10.0.0.1")), pod("b", hostport(80, "10.0.0.2"))}, []string{"a=n1", "b=n1"}},
		{"image that is there", given(node("n1"), node("n2"), node("n3", image("img:1", 2000))), []*corev1.Pod{pod("a")}, []string{"a=n3"}},
		{"pods of one owner are spread", given(node("n1"), node("n2"), node("n3"), pod("x", on("n1"), owned("rs")), pod("y", on("n3"), owned("rs"))), []*corev1.Pod{pod("a", owned("rs"))}, []string{"a=n2"}},
		{
			"over zones too", given(node("n1", zone("a")), node("n2", zone("a")), node("n3", zone("b")), pod("x", on("n1"), owned("rs")), pod("z", on("n3"), requests("cpu=500m,memory=1Gi"))),
			[]*corev1.Pod{pod("a", owned("rs"))},
			[]string{"a=n3"},
		},
		{
			"pods of a service are spread", given(node("n1"), node("n2"), service("web", "app=web"), pod("x", on("n1"), podLabels("app=web")), pod("z", on("n2"))),
			[]*corev1.Pod{pod("a", podLabels("app=web"))},
			[]string{"a=n2"},
		},
		{
			"spread constraint that must hold",
			given(node("n1", zone("a")), node("n2", zone("b")), node("n3"), pod("x", on("n1"), podLabels("app=web")), pod("y", on("n2"), requests("cpu=4"))),
			[]*corev1.Pod{pod("a", podLabels("app=web"), requests("cpu=1"), spreadOver(corev1.LabelTopologyZone, "app=web", 1, hard))},
			[]string{"a: 0/3 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints, 1 node(s) didn't match pod topology spread constraints (missing required label)."},
		},
		{
			"spread constraint over a batch", given(node("n1", zone("a")), node("n2", zone("b"), allocatable("cpu=1,memory=1Gi,pods=2"))),
			[]*corev1.Pod{
				pod("a", podLabels("app=web"), spreadOver(corev1.LabelTopologyZone, "app=web", 1, hard)), pod("b", podLabels("app=web"), spreadOver(corev1.LabelTopologyZone, "app=web", 1, hard)),
				pod("c", podLabels("app=web"), spreadOver(corev1.LabelTopologyZone, "app=web", 1, hard)), pod("d", podLabels("app=web"), spreadOver(corev1.LabelTopologyZone, "app=web", 1, hard)),
				pod("e", podLabels("app=web"), spreadOver(corev1.LabelTopologyZone, "app=web", 1, hard)), pod("f", podLabels("app=web"), spreadOver(corev1.LabelTopologyZone, "app=web", 1, hard)),
			},
			[]string{"a=n1", "b=n2", "c=n1", "d=n2", "e=n1", "f: 0/2 nodes are available: 1 Too many pods, 1 node(s) didn't match pod topology spread constraints."},
		},
		{
			"spread constraint that may be broken", given(node("n1", zone("a")), node("n2", zone("b")), pod("x", on("n2"), podLabels("app=web"))),
			[]*corev1.Pod{pod("a", podLabels("app=web"), spreadOver(corev1.LabelTopologyZone, "app=web", 1, soft))},
			[]string{"a=n1"},
		},
		{"near a pod", given(node("n1", zone("a")), node("n2", zone("b")), pod("x", on("n2"), podLabels("app=db"))), []*corev1.Pod{pod("a", near("app=db", corev1.LabelTopologyZone))}, []string{"a=n2"}},
		{"near nobody", given(node("n1", zone("a"))), []*corev1.Pod{pod("a", near("app=db", corev1.LabelTopologyZone))}, []string{"a: 0/1 nodes are available: 1 node(s) didn't match pod affinity rules."}},
		{"the first of a group that wants to be together", given(node("n1", zone("a")), node("n2", zone("b"))), []*corev1.Pod{pod("a", podLabels("g=1"), near("g=1", corev1.LabelTopologyZone)), pod("b", podLabels("g=1"), near("g=1", corev1.LabelTopologyZone))}, []string{"a=n2", "b=n2"}},
		{
			"away from each other", given(node("n1"), node("n2")),
			[]*corev1.Pod{
				pod("a", podLabels("g=1"), awayFrom("g=1", corev1.LabelHostname)), pod("b", podLabels("g=1"), awayFrom("g=1", corev1.LabelHostname)),
				pod("c", podLabels("g=1"), awayFrom("g=1", corev1.LabelHostname)), pod("d", podLabels("g=1")),
			},
			[]string{
				"a=n2", "b=n1", "c: 0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.",
				"d: 0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules.",
			},
		},
		{"rather near a pod", given(node("n1"), node("n2"), pod("x", on("n1"), podLabels("app=db"), requests("cpu=100m,memory=200Mi"))), []*corev1.Pod{pod("a", ratherNear("app=db", corev1.LabelHostname))}, []string{"a=n1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := then(Schedule(c.in.Snapshot(7), pendings(c.pods...), Options{Seed: 1}))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func TestReasons(t *testing.T) {
	in := given(
		node("n1", zone("a")), node("n2", zone("a"), cordoned), node("n3", zone("b"), image("img:1", 500)), node("n4", zone("b")),
		node("n5", taint("dedicated", "db", corev1.TaintEffectNoSchedule)), node("n6", cordoned), node("n7", cordoned), node("n8", cordoned),
		node("n9", allocatable("cpu=100m,memory=1Gi,pods=5")), pod("x", on("n1"), owned("rs"), requests("cpu=1,memory=1Gi")),
	)
	placements := Schedule(in.Snapshot(42), pendings(
		pod("web", owned("rs"), requests("cpu=500m,memory=512Mi"), priority(1)), pod("huge", requests("cpu=64")),
	), Options{Seed: 7})
	var reasons []Reasons
	for _, p := range placements {
		reasons = append(reasons, p.Reasons)
	}
	got, err := json.MarshalIndent(reasons, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "reasons.json", append(got, '\n'))
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (rewrite with -update): -want +got\n%s", path, d)
	}
}

func TestSnapshotsDoNotChange(t *testing.T) {
	s := given(node("n1"), pod("x", on("n1"), requests("cpu=1"), owned("rs"), hostport(80, "")))
	snap := s.Snapshot(1)
	before := then(Schedule(snap, pendings(pod("a", requests("cpu=3"))), Options{}))
	s.SetPod(pod("y", on("n1"), requests("cpu=2"), owned("rs")))
	s.RemovePod(podKey(pod("x")))
	s.SetNode(node("n1", cordoned))
	s.SetNode(node("n0"))
	if d := cmp.Diff(before, then(Schedule(snap, pendings(pod("a", requests("cpu=3"))), Options{}))); d != "" {
		t.Errorf("the snapshot changed with the state:\n%s", d)
	}
}

func TestAPodBoundBeforeItsNodeIsSeen(t *testing.T) {
	s := given(pod("x", on("n1"), requests("cpu=4")), node("n1"))
	got := then(Schedule(s.Snapshot(1), pendings(pod("a", requests("cpu=1"))), Options{}))
	if d := cmp.Diff([]string{"a: 0/1 nodes are available: 1 Insufficient cpu."}, got); d != "" {
		t.Error(d)
	}
}
