package snapshot

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections/live"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

// BenchmarkStart: 20,000 pods to a file and back into a view's tables.
func BenchmarkStart(b *testing.B) {
	kinds := domain.NewSet(domain.Kinds())
	log := projectiontest.NewLog()
	scribe := projectiontest.NewScribe(log, kinds)
	controller := true
	const objects = 20_000
	for i := range objects {
		pod := &corev1.Pod{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{
				Namespace: fmt.Sprint("team-", i%40), Name: fmt.Sprintf("web-%05d", i), Labels: map[string]string{"app": "web"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "u", Controller: &controller}},
			},
			Spec:   corev1.PodSpec{NodeName: fmt.Sprint("n", i%200), Containers: []corev1.Container{{Name: "c", Image: "registry.example/web:1"}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		}
		if _, err := scribe.Put(b.Context(), pod, nil); err != nil {
			b.Fatal(err)
		}
	}
	dir := &Dir{Path: b.TempDir(), Log: log, Kinds: kinds}
	state := viewOf(context.Background(), b, log, kinds, live.Options{})
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			info, err := dir.Write(b.Context(), state)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(info.Bytes)/objects, "bytes/object")
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			base, err := dir.Base(b.Context())
			if err != nil || base.Objects.Len() != objects {
				b.Fatalf("%+v, %v", base, err)
			}
		}
	})
}
