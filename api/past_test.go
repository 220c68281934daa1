package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"

	"github.com/shiplog/shiplog/api"
	"github.com/shiplog/shiplog/api/apitest"
	"github.com/shiplog/shiplog/commands/storage"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
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

// A pod of two days ago is as old as it was then, and so is all else that a table tells as an age.
func TestAgesAreThoseOfThen(t *testing.T) {
	c := apitest.Start(t, apitest.WithHistory)
	ctx := timeout(t)
	then := time.Now().Add(-48 * time.Hour).Truncate(time.Second)
	created := metav1.NewTime(then.Add(-50 * time.Minute))
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f", CreationTimestamp: created},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "c", RestartCount: 3, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(then.Add(-40 * time.Minute))}},
		}}},
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "old", UID: "1a2b6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f", CreationTimestamp: created}}
	var position uint64
	for resource, object := range map[string]metav1.Object{"pods": pod, "namespaces": namespace} {
		position = happened(t, c, resource, object, then)
	}
	past := fmt.Sprintf("/at/%d", position)
	for path, want := range map[string]map[string]any{
		past + "/api/v1/namespaces/default/pods":     {"Restarts": "3 (40m ago)", "Age": "50m"},
		past + "/api/v1/namespaces/default/pods/web": {"Restarts": "3 (40m ago)", "Age": "50m"},
		"/api/v1/namespaces/default/pods":            {"Restarts": "3 (2d ago)", "Age": "2d"},
		past + "/api/v1/namespaces/old":              {"Age": "50m"},
	} {
		raw, err := c.Client.CoreV1().RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var table metav1.Table
		if err := json.Unmarshal(raw, &table); err != nil || len(table.Rows) != 1 {
			t.Fatalf("%s: %s, %v", path, raw, err)
		}
		var object metav1.PartialObjectMetadata
		if err := json.Unmarshal(table.Rows[0].Object.Raw, &object); err != nil || !object.CreationTimestamp.Equal(&created) {
			t.Errorf("%s: the row's object was created at %s, want %s: %v", path, object.CreationTimestamp, created, err)
		}
		for i, column := range table.ColumnDefinitions {
			if w, ok := want[column.Name]; ok && w != table.Rows[0].Cells[i] {
				t.Errorf("%s: %s is %v, want %v", path, column.Name, table.Rows[0].Cells[i], w)
			}
		}
	}
}

// happened puts the creation of an object into the log as of a time, and returns its position when the live view has it.
func happened(t *testing.T, c *apitest.Cluster, resource string, object metav1.Object, at time.Time) uint64 {
	t.Helper()
	kind, _ := c.Kinds.ByResource(domain.Resource{Resource: resource})
	data, err := domain.Encode(kind, object.(runtime.Object))
	if err != nil {
		t.Fatal(err)
	}
	e := domain.Event{
		ID: uuid.NewString(), Type: kind.Kind + "Created", Ref: kind.Ref(object.GetNamespace(), object.GetName()), Op: domain.Created, Change: data,
		Time: at, Version: domain.SchemaVersion, Actor: domain.Actor{User: "ada"}, Command: domain.CommandInfo{Verb: "create"}, Correlation: uuid.NewString(),
	}
	e.Ref.UID = object.GetUID()
	p, err := eventstore.Propose(e)
	if err != nil {
		t.Fatal(err)
	}
	done, err := c.Log.Append(t.Context(), e.Ref.Stream(), eventstore.NoStream, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Live.WaitFor(t.Context(), uint64(done.Position)); err != nil {
		t.Fatal(err)
	}
	return uint64(done.Position)
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

// Each table of each kind tells the age that an object had then, or when it was created; the object itself is what it was.
func TestEveryTableTellsAgesAsOfThen(t *testing.T) {
	c := apitest.Start(t, apitest.WithHistory)
	then := time.Now().Add(-48 * time.Hour).Truncate(time.Second)
	created := metav1.NewTime(then.Add(-50 * time.Minute))
	past := storage.WithMoment(t.Context(), func() (time.Time, error) { return then, nil })
	ages := 0
	for _, group := range c.Server.Registry().Groups() {
		for _, stores := range group.VersionedResourcesStorageMap {
			for path, store := range stores {
				tables, ok := store.(rest.TableConvertor)
				if _, listed := store.(rest.Lister); !ok || !listed {
					continue
				}
				object := store.New()
				m, err := meta.Accessor(object)
				if err != nil {
					continue // not an object that is kept: reviews, component statuses
				}
				m.SetName("x")
				m.SetCreationTimestamp(created)
				table, err := tables.ConvertToTable(past, object, &metav1.TableOptions{})
				if err != nil || len(table.Rows) != 1 {
					t.Errorf("%s: %v, %v", path, table, err)
					continue
				}
				row := table.Rows[0]
				if shown, err := meta.Accessor(row.Object.Object); err != nil || !shown.GetCreationTimestamp().Time.Equal(created.Time) {
					t.Errorf("%s: the row's object was created at %v, want %s: %v", path, shown, created, err)
				}
				for i, column := range table.ColumnDefinitions {
					switch got := row.Cells[i]; column.Name {
					case "Age":
						if ages++; got != "50m" {
							t.Errorf("%s: age %v, want 50m", path, got)
						}
					case "Created At":
						if want := created.UTC().Format(time.RFC3339); got != want {
							t.Errorf("%s: created at %v, want %s", path, got, want)
						}
					}
				}
			}
		}
	}
	if ages < 30 {
		t.Errorf("%d tables told an age: nearly all do", ages)
	}
}
