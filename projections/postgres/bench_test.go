package postgres_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/domain"
)

// pods writes a life of pods into a log: each is created, bound, started and made ready, and so on until there are n events.
func (w *world) pods(n int) {
	w.t.Helper()
	pod := func(i, step int) *corev1.Pod {
		p := &corev1.Pod{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{
				Namespace: fmt.Sprint("team-", i%7), Name: fmt.Sprintf("web-%05d", i), Labels: map[string]string{"app": "web", "pod-template-hash": "5d59d67564"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5d59d67564", UID: "7d0f0d1c-2f5e-4f0e-9a37-1f3c5c0e4a11"}},
			},
			Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, SchedulerName: "default-scheduler", ServiceAccountName: "default",
				Volumes:    []corev1.Volume{{Name: "kube-api-access", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
				Containers: []corev1.Container{{Name: "web", Image: "registry.example.org/web:1.2.3", TerminationMessagePath: "/dev/termination-log", ImagePullPolicy: corev1.PullIfNotPresent, Env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}, VolumeMounts: []corev1.VolumeMount{{Name: "kube-api-access", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true}}}},
			},
		}
		if step > 0 {
			p.Spec.NodeName = fmt.Sprint("node-", i%100)
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
		}
		if step > 1 {
			p.Status.Phase, p.Status.PodIP, p.Status.HostIP = corev1.PodRunning, "10.1.2.3", "10.0.0.1"
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Image: "registry.example.org/web:1.2.3", ContainerID: "shiplog://0123456789abcdef", RestartCount: int32(step)}}
		}
		return p
	}
	const steps = 8
	var cause *domain.Event
	for i := 0; n > 0; i++ {
		for s := 0; s < steps && n > 0; s, n = s+1, n-1 {
			e, err := w.scribe.Put(w.ctx, pod(i, s), cause)
			w.check(err)
			if cause == nil {
				cause = &e
			}
		}
	}
}

const benchEvents = 40000

// BenchmarkRebuild builds all models from a log of pods' lives.
func BenchmarkRebuild(b *testing.B) {
	w := newWorld(b)
	w.pods(benchEvents)
	w.start()
	w.caughtUp()
	b.ResetTimer()
	for range b.N {
		w.check(w.models.Rebuild(w.ctx, nil, nil))
	}
	b.ReportMetric(float64(benchEvents)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.StopTimer()
	w.stop()
}

// BenchmarkFollow keeps models up to date that are there and far behind.
func BenchmarkFollow(b *testing.B) {
	for range b.N {
		b.StopTimer()
		w := newWorld(b).start()
		w.caughtUp()
		w.stop()
		w.pods(benchEvents)
		b.StartTimer()
		w.start()
		w.caughtUp()
		b.StopTimer()
		w.stop()
	}
	b.ReportMetric(float64(benchEvents)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkQueries asks for the past of a cluster of 5,000 pods with eight events each.
func BenchmarkQueries(b *testing.B) {
	w := newWorld(b)
	w.pods(benchEvents)
	w.start()
	w.caughtUp()
	gr := domain.Resource{Resource: "pods"}
	middle := w.head() / 2
	b.Run("ListAt", func(b *testing.B) {
		n := 0
		for range b.N {
			list, err := w.models.ListAt(w.ctx, gr, "", middle)
			w.check(err)
			n = len(list)
		}
		b.ReportMetric(float64(n), "objects")
	})
	b.Run("GetAt", func(b *testing.B) {
		for i := range b.N {
			_, err := w.models.GetAt(w.ctx, domain.Ref{Resource: "pods", Namespace: fmt.Sprint("team-", i%1000%7), Name: fmt.Sprintf("web-%05d", i%1000)}, middle)
			w.check(err)
		}
	})
	b.Run("PositionAt", func(b *testing.B) {
		for range b.N {
			_, err := w.models.PositionAt(w.ctx, w.scribe.Now.Add(-20*time.Second))
			w.check(err)
		}
	})
	b.StopTimer()
	w.stop()
}
