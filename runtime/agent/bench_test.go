package agent_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/shiplog/shiplog/runtime/internal/runtimetest"
)

func running(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }

// waitFor waits on the control plane's changes rather than by looking again and again.
func (f *fixture) waitFor(holds func() bool) {
	f.t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		f.cp.mu.Lock()
		changed := f.cp.changed
		f.cp.mu.Unlock()
		if holds() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			f.t.Fatal("waited two minutes in vain")
		}
	}
}

// BenchmarkPod is the time from a pod's creation to its phase Running, its image being there.
func BenchmarkPod(b *testing.B) {
	f := newFixture(b)
	var took []time.Duration
	n := 0
	for b.Loop() {
		name := fmt.Sprintf("p%d", n)
		n++
		began := time.Now()
		f.cp.put("pods", newPod(name, "sleep 1000"))
		f.waitFor(func() bool { p, ok := f.cp.pod(name); return ok && running(p) })
		took = append(took, time.Since(began))
		b.StopTimer()
		f.cp.deletePod(name, 0)
		f.untilGone(name)
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Milliseconds()), "p99-ms")
}

// BenchmarkFiftyPods is the time until fifty pods that are created at once all run.
func BenchmarkFiftyPods(b *testing.B) {
	f := newFixture(b)
	n := 0
	for b.Loop() {
		round := n
		n++
		name := func(i int) string { return fmt.Sprintf("r%d-%d", round, i) }
		for i := range 50 {
			f.cp.put("pods", newPod(name(i), "sleep 1000"))
		}
		f.waitFor(func() bool {
			f.cp.mu.Lock()
			defer f.cp.mu.Unlock()
			for i := range 50 {
				if o, ok := f.cp.objects[refOf(schema.GroupResource{Resource: "pods"}, "default", name(i))]; !ok || !running(o.(*corev1.Pod)) {
					return false
				}
			}
			return true
		})
		b.StopTimer()
		for i := range 50 {
			f.cp.deletePod(name(i), 0)
		}
		runtimetest.Eventually(b, "they are gone", func() bool { return len(f.agent.Pods()) == 0 })
		b.StartTimer()
	}
}
