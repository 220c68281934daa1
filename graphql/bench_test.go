package graphql_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/graphql"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

// still is a live view that never changes.
type still struct {
	projections.Live
	reader projections.Reader
}

func (s still) Snapshot() projections.Reader { return s.reader }

// BenchmarkList answers a page of 1,000 of 2,000 pods, each with its node.
func BenchmarkList(b *testing.B) {
	kinds := domain.NewSet(domain.Kinds())
	objects := []runtime.Object{}
	for i := range 100 {
		n := node(fmt.Sprintf("n%d", i), true)
		n.APIVersion, n.Kind = "v1", "Node"
		objects = append(objects, n)
	}
	for i := range 2000 {
		p := pod(fmt.Sprintf("p%d", i), "default", func(p *corev1.Pod) {
			p.APIVersion, p.Kind = "v1", "Pod"
			p.Spec.NodeName, p.Status.Phase = fmt.Sprintf("n%d", i%100), corev1.PodRunning
		})
		objects = append(objects, p)
	}
	handler := graphql.NewHandler(graphql.Config{Live: still{reader: memory.New(kinds, 1, objects...)}, Log: projectiontest.NewLog(), Kinds: kinds})
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/graphql", strings.NewReader(`{"query":"{ pods(first: 1000) { totalCount nodes { id phase node { name ready } } } }"}`))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"totalCount":2000`) || strings.Contains(w.Body.String(), `"errors"`) {
			b.Fatal(w.Body.String()[:200])
		}
	}
}
