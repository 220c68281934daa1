package nodefeed_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/internal/clustertest"
	"github.com/shiplog/shiplog/projections/nodefeed"
)

// BenchmarkChange is what a change of a service costs that 100 nodes are told.
func BenchmarkChange(b *testing.B) {
	c := clustertest.New()
	for i := range 2000 {
		c.Put(podWith(fmt.Sprintf("p%d", i), fmt.Sprintf("n%d", i%100)))
	}
	source := nodefeed.NewSource(c, c.Kinds)
	var streams []nodefeed.Stream
	ctx, cancel := context.WithTimeout(context.Background(), 1<<40)
	defer cancel()
	for i := range 100 {
		s, err := source.Open(ctx, fmt.Sprintf("n%d", i), 0)
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Next(ctx); err != nil {
			b.Fatal(err)
		}
		streams = append(streams, s)
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		c.Forget()
		b.StartTimer()
		c.Put(&corev1.Service{ObjectMeta: objectMeta("default", "svc")})
		for _, s := range streams {
			if _, err := s.Next(ctx); err != nil {
				b.Fatal(err)
			}
		}
	}
}
