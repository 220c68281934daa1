package api_test

import (
	"context"
	"net/http"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/shiplog/shiplog/api"
	"github.com/shiplog/shiplog/api/apitest"
)

// at returns a client of the cluster as it was.
func at(t *testing.T, c *apitest.Cluster, moment string) kubernetes.Interface {
	t.Helper()
	conf := *c.Admin
	conf.Host += "/at/" + moment
	client, err := kubernetes.NewForConfig(&conf)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestTheClusterAsItWas(t *testing.T) {
	c := apitest.Start(t, apitest.WithHistory)
	ctx := timeout(t)
	cms := c.Client.CoreV1().ConfigMaps("default")
	first, err := cms.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": "1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second := first.DeepCopy()
	second.Data["k"] = "2"
	if second, err = cms.Update(ctx, second, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := cms.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	then := at(t, c, first.ResourceVersion).CoreV1().ConfigMaps("default")
	got, err := then.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || got.Data["k"] != "1" || got.ResourceVersion != first.ResourceVersion {
		t.Errorf("at %s: got %v, %v", first.ResourceVersion, got, err)
	}
	list, err := then.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.ResourceVersion != first.ResourceVersion {
		t.Errorf("at %s: list %v, %v", first.ResourceVersion, list, err)
	}
	got, err = at(t, c, second.ResourceVersion).CoreV1().ConfigMaps("default").Get(ctx, "a", metav1.GetOptions{})
	if err != nil || got.Data["k"] != "2" {
		t.Errorf("at %s: got %v, %v", second.ResourceVersion, got, err)
	}
	if _, err := cms.Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("now: %v", err)
	}

	t.Run("a list of an exact version", func(t *testing.T) {
		list, err := cms.List(ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
		if err != nil || len(list.Items) != 1 || list.Items[0].Data["k"] != "1" {
			t.Errorf("got %v, %v", list, err)
		}
	})
	t.Run("a watch of the past ends with what happened then", func(t *testing.T) {
		p, err := strconv.ParseUint(first.ResourceVersion, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		w, err := at(t, c, second.ResourceVersion).CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{
			ResourceVersion: strconv.FormatUint(p-1, 10), AllowWatchBookmarks: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		for _, want := range []watch.EventType{watch.Added, watch.Modified, watch.Bookmark} {
			if e := <-w.ResultChan(); e.Type != want {
				t.Errorf("got %s, want %s: %v", e.Type, want, e.Object)
			}
		}
	})
	t.Run("the past takes no writes", func(t *testing.T) {
		_, err := then.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, metav1.CreateOptions{})
		if !apierrors.IsForbidden(err) {
			t.Fatalf("got %v", err)
		}
		contains(t, "the error", err.Error(), "the past cannot be changed")
		if err := then.Delete(ctx, "a", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("delete: %v", err)
		}
		if _, err := then.Update(ctx, first, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("update: %v", err)
		}
	})
	t.Run("by time", func(t *testing.T) {
		moment := time.Now().UTC().Format(time.RFC3339Nano)
		if _, err := cms.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "later"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		list, err := at(t, c, moment).CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 0 {
			t.Errorf("got %v, %v", list, err)
		}
	})
	t.Run("kubectl", func(t *testing.T) {
		out, err := c.Kubectl(t, "--server", c.Server.URL()+"/at/"+first.ResourceVersion, "get", "cm", "-n", "default")
		if err != nil {
			t.Fatal(err)
		}
		contains(t, "kubectl get", out, "a ", "DATA")
	})
	for name, moment := range map[string]string{
		"the future": time.Now().Add(time.Hour).UTC().Format(time.RFC3339), "a position to come": "99999999", "no moment": "yesterday",
		"before the log": "2001-01-01T00:00:00Z",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := at(t, c, moment).CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
			if !apierrors.IsBadRequest(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestWatchFromAnyVersion(t *testing.T) {
	// Given a live view that remembers next to nothing
	c := apitest.Start(t, apitest.WithHistory, apitest.WithShortMemory)
	ctx := timeout(t)
	cms := c.Client.CoreV1().ConfigMaps("default")
	begin, err := cms.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(50) {
		if _, err := cms.Create(ctx, configMap(i), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// When a watch asks for what has happened since
	w, err := cms.Watch(ctx, metav1.ListOptions{ResourceVersion: begin.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if _, err := cms.Create(ctx, configMap(50), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Then it gets everything, in order, and goes on
	for i := range 51 {
		e := <-w.ResultChan()
		cm, ok := e.Object.(*corev1.ConfigMap)
		if !ok || e.Type != watch.Added || cm.Name != "cm-"+strconv.Itoa(i) {
			t.Fatalf("event %d: %s %v", i, e.Type, e.Object)
		}
	}
}

func TestWithoutHistoryThePastIsUnavailable(t *testing.T) {
	c := apitest.Start(t, func(a *api.Config) { a.History = nil })
	_, err := at(t, c, "1").CoreV1().ConfigMaps("default").List(context.Background(), metav1.ListOptions{})
	if !apierrors.IsServiceUnavailable(err) {
		t.Errorf("got %v, want %d", err, http.StatusServiceUnavailable)
	}
}
