package live

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

func benchPod(i, step int) *corev1.Pod {
	p := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: fmt.Sprintf("web-%05d", i), Labels: map[string]string{"app": "web", "pod-template-hash": "5d59d67564"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5d59d67564", UID: "7d0f0d1c-2f5e-4f0e-9a37-1f3c5c0e4a11"}},
		},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, SchedulerName: "default-scheduler", ServiceAccountName: "default",
			Volumes: []corev1.Volume{{Name: "kube-api-access", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
			Containers: []corev1.Container{{
				Name: "web", Image: "registry.example.org/web:1.2.3", ImagePullPolicy: corev1.PullIfNotPresent, Env: []corev1.EnvVar{{Name: "A", Value: "1"}},
				VolumeMounts: []corev1.VolumeMount{{Name: "kube-api-access", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true}},
			}},
		},
	}
	if step > 0 {
		p.Spec.NodeName = fmt.Sprint("node-", i%100)
		p.Status.Phase, p.Status.PodIP, p.Status.HostIP = corev1.PodRunning, "10.1.2.3", "10.0.0.1"
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", ContainerID: "shiplog://0123456789abcdef", RestartCount: int32(step)}}
	}
	return p
}

// benchLog is a log of pods that are created, then changed four times each.
func benchLog(b *testing.B, pods int) ([]eventstore.Recorded, *domain.Set) {
	b.Helper()
	ctx := context.Background()
	log, kinds := projectiontest.NewLog(), domain.NewSet(domain.Kinds())
	scribe := projectiontest.NewScribe(log, kinds)
	for step := range 5 {
		for i := range pods {
			if _, err := scribe.Put(ctx, benchPod(i, step), nil); err != nil {
				b.Fatal(err)
			}
		}
	}
	var out []eventstore.Recorded
	for r, err := range log.ReadAll(ctx, eventstore.ReadAll{}) {
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, r)
	}
	return out, kinds
}

// BenchmarkApply folds events of pods into a view of 2,000 pods, decoding each (the worst case: pods are indexed by what is in them,
// and nobody has lent the typed form).
func BenchmarkApply(b *testing.B) {
	records, kinds := benchLog(b, 2000)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; {
		b.StopTimer()
		v := New(projectiontest.NewLog(), kinds, Options{})
		b.StartTimer()
		for i := 0; i < len(records) && n < b.N; i, n = i+1, n+1 {
			if err := v.apply(records[i:i+1], 0); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkApplyExpected does the same with the typed forms lent by whoever made the events, and a snapshot after each event.
func BenchmarkApplyExpected(b *testing.B) {
	records, kinds := benchLog(b, 2000)
	typed := make([]*corev1.Pod, len(records))
	for i := range records {
		typed[i] = benchPod(i%2000, i/2000)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; {
		b.StopTimer()
		v := New(projectiontest.NewLog(), kinds, Options{})
		b.StartTimer()
		for i := 0; i < len(records) && n < b.N; i, n = i+1, n+1 {
			v.Expect(records[i].ID.String(), typed[i])
			if err := v.apply(records[i:i+1], 0); err != nil {
				b.Fatal(err)
			}
			v.Snapshot()
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkFanOut tells changes of one resource to 100 followers, each of which reads them all.
func BenchmarkFanOut(b *testing.B) {
	records, kinds := benchLog(b, 2000)
	v := New(projectiontest.NewLog(), kinds, Options{MaxChanges: b.N + 1, MaxChangeBytes: 1 << 30})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 100)
	for range 100 {
		f, err := v.Follow(0, domain.Resource{Resource: "pods"})
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			for seen := 0; seen < b.N; {
				changes, _, err := f.Next(ctx)
				if err != nil {
					done <- err
					return
				}
				seen += len(changes)
			}
			done <- nil
		}()
	}
	b.ResetTimer()
	for n := range b.N {
		i := n % len(records)
		r := records[i]
		r.Position = eventstore.Position(n*4 + 1)
		e, _, err := projections.EventOf(r)
		if err != nil {
			b.Fatal(err)
		}
		o := &projections.Object{Ref: e.Ref, Position: e.Position}
		v.ring.add([]projections.Change{{Event: e, After: o}}, e.Position)
		if n%1024 == 1023 {
			runtime.Gosched()
		}
	}
	v.ring.progress()
	for range 100 {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(100*float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
}

// BenchmarkMemory reports what a view of 2,000 pods keeps, with what is in the buffer of recent changes and without.
func BenchmarkMemory(b *testing.B) {
	records, kinds := benchLog(b, 2000)
	for _, c := range []struct {
		name string
		opts Options
	}{{"all changes kept", Options{}}, {"no changes kept", Options{MaxChanges: 1}}} {
		b.Run(c.name, func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			v := New(projectiontest.NewLog(), kinds, c.opts)
			if err := v.apply(records, 0); err != nil {
				b.Fatal(err)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/2000, "B/pod")
			_, estimated, _ := v.ring.stats()
			b.ReportMetric(float64(estimated)/2000, "estimatedB/pod")
			runtime.KeepAlive(v)
			runtime.KeepAlive(records)
			for range b.N {
				v.Snapshot()
			}
		})
	}
}

// BenchmarkStart starts a view of a log of 50,000 events, and waits until it is ready.
func BenchmarkStart(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	log, kinds := projectiontest.NewLog(), domain.NewSet(domain.Kinds())
	scribe := projectiontest.NewScribe(log, kinds)
	const events = 50000
	for i := range events {
		if _, err := scribe.Put(ctx, benchPod(i%2500, i/2500), nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for range b.N {
		v := New(log, kinds, Options{})
		runCtx, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- v.Run(runCtx) }()
		if err := v.WaitReady(ctx); err != nil {
			b.Fatal(err)
		}
		stop()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(events*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
