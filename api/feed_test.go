package api_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	restclient "k8s.io/client-go/rest"

	"github.com/shiplog/shiplog/api"
	"github.com/shiplog/shiplog/api/apitest"
	"github.com/shiplog/shiplog/api/feedclient"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections/nodefeed"
)

// scripted is a source that tells every node the same.
type scripted struct{ items [][]nodefeed.Item }

func (s *scripted) Open(_ context.Context, _ string, after uint64) (nodefeed.Stream, error) {
	out := &scriptedStream{}
	for _, batch := range s.items {
		if batch[len(batch)-1].Position > after {
			out.left = append(out.left, batch)
		}
	}
	return out, nil
}

type scriptedStream struct{ left [][]nodefeed.Item }

func (s *scriptedStream) Next(ctx context.Context) ([]nodefeed.Item, error) {
	if len(s.left) == 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	next := s.left[0]
	s.left = s.left[1:]
	return next, nil
}
func (s *scriptedStream) Close() error { return nil }

func source(t *testing.T, c *apitest.Cluster, conf *restclient.Config) *feedclient.Source {
	t.Helper()
	client, err := restclient.HTTPClientFor(conf)
	if err != nil {
		t.Fatal(err)
	}
	return feedclient.New(c.Server.URL(), client, c.Kinds)
}

func TestNodeFeed(t *testing.T) {
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", Annotations: map[string]string{"long": strings.Repeat("x", 200<<10)}},
	}
	ref := domain.Ref{Resource: "pods", Namespace: "default", Name: "p"}
	c := apitest.Start(t, func(a *api.Config) {
		a.Feed = &scripted{[][]nodefeed.Item{
			{{Op: nodefeed.Reset, Position: 3}, {Op: nodefeed.Put, Position: 3, Ref: ref, Object: pod, EventID: "e"}, {Op: nodefeed.Synced, Position: 3}},
			{{Op: nodefeed.Delete, Position: 5, Ref: ref}},
		}}
	})
	ctx := timeout(t)
	n1 := source(t, c, as(t, c, "system:node:n1", "system:nodes"))
	stream, err := n1.Open(ctx, "n1", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var got []nodefeed.Item
	for len(got) < 4 {
		items, err := stream.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, items...)
	}
	put, ok := got[1].Object.(*corev1.Pod)
	if !ok || put.Name != "p" || len(put.Annotations["long"]) != 200<<10 || got[1].EventID != "e" || got[1].Ref != ref {
		t.Errorf("got %v", got[1])
	}
	for i, op := range []nodefeed.Op{nodefeed.Reset, nodefeed.Put, nodefeed.Synced, nodefeed.Delete} {
		if got[i].Op != op {
			t.Errorf("item %d is %s, want %s", i, got[i].Op, op)
		}
	}
	t.Run("from a checkpoint", func(t *testing.T) {
		again, err := n1.Open(ctx, "n1", 3)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		items, err := again.Next(ctx)
		if err != nil || len(items) != 1 || items[0].Op != nodefeed.Delete {
			t.Errorf("got %v, %v", items, err)
		}
	})
	t.Run("not another node's", func(t *testing.T) {
		if s, err := n1.Open(ctx, "n2", 0); err == nil {
			s.Close()
			t.Error("n1 reads the feed of n2")
		}
	})
	t.Run("not a person's", func(t *testing.T) {
		if s, err := source(t, c, as(t, c, "ann")).Open(ctx, "n1", 0); err == nil {
			s.Close()
			t.Error("ann reads the feed of n1")
		}
	})
	t.Run("the end", func(t *testing.T) {
		stream.Close()
		if _, err := stream.Next(ctx); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v", err)
		}
	})
}
