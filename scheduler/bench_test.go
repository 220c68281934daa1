package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func BenchmarkSchedule(b *testing.B) {
	for _, c := range []struct{ pods, nodes, owners int }{{1_000, 100, 1}, {1_000, 100, 100}, {10_000, 1_000, 1}, {10_000, 1_000, 500}} {
		b.Run(fmt.Sprintf("pods=%d/nodes=%d/owners=%d", c.pods, c.nodes, c.owners), func(b *testing.B) {
			s := NewState()
			for i := range c.nodes {
				s.SetNode(node(fmt.Sprintf("n%d", i), zone(keys[i%3]), allocatable("cpu=32,memory=256Gi,pods=110")))
			}
			var pods []*corev1.Pod
			for i := range c.pods {
				owner := fmt.Sprintf("rs%d", i%c.owners)
				pods = append(pods, pod(fmt.Sprintf("p%d", i), owned(owner), podLabels("app="+owner), requests("cpu=100m,memory=128Mi")))
			}
			b.ReportAllocs()
			for b.Loop() {
				for _, p := range Schedule(s.Snapshot(1), pendings(pods...), Options{}) {
					if p.Node == "" {
						b.Fatal(p.Reasons.Message)
					}
				}
			}
		})
	}
}

func BenchmarkState(b *testing.B) {
	s := NewState()
	for i := range 1_000 {
		s.SetNode(node(fmt.Sprintf("n%d", i)))
	}
	for i := range 10_000 {
		s.SetPod(pod(fmt.Sprintf("p%d", i), on(fmt.Sprintf("n%d", i%1000)), owned("rs"), requests("cpu=1m,memory=1Mi")))
	}
	p := pod("more", on("n7"), owned("rs"), requests("cpu=1m,memory=1Mi"))
	b.ReportAllocs()
	for b.Loop() {
		s.SetPod(p)
		s.Snapshot(1)
		s.RemovePod(podKey(p))
	}
}
