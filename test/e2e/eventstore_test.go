package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/shiplog/shiplog/ops/postgres"
	"github.com/shiplog/shiplog/test/harness"
)

// clientOf speaks to one control plane, without the start of a process for each request.
func clientOf(t *testing.T, c *harness.Cluster) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(c.Dir, "admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// writers create ConfigMaps through clients, each through one, until they are stopped; acknowledged holds the names of those that
// were made.
type writers struct {
	acknowledged sync.Map
	count        atomic.Int64
	stopped      atomic.Bool
	running      sync.WaitGroup
}

func (w *writers) start(ctx context.Context, clients ...*kubernetes.Clientset) {
	for i, client := range clients {
		w.running.Go(func() {
			for n := 0; !w.stopped.Load() && ctx.Err() == nil; n++ {
				name := fmt.Sprintf("acked-%d-%d", i, n)
				_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
				if err == nil {
					w.acknowledged.Store(name, true)
					w.count.Add(1)
				}
			}
		})
	}
}

// more waits until n more were acknowledged.
func (w *writers) more(t *testing.T, n int64) {
	t.Helper()
	want := w.count.Load() + n
	harness.Eventually(t, soon, fmt.Sprintf("%d more writes", n), func() error {
		if w.count.Load() < want {
			return errNotYet
		}
		return nil
	})
}

func (w *writers) stop() {
	w.stopped.Store(true)
	w.running.Wait()
}

// check wants everything that was acknowledged to be there.
func (w *writers) check(t *testing.T, client *kubernetes.Clientset) {
	t.Helper()
	list, err := client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, cm := range list.Items {
		there[cm.Name] = true
	}
	w.acknowledged.Range(func(name, _ any) bool {
		if !there[name.(string)] {
			t.Errorf("%s was acknowledged and is gone", name)
		}
		return true
	})
}

// TestKilledEventStore: the event store dies while clients write, and comes back. What was acknowledged is there, and the control
// plane goes on by itself.
func TestKilledEventStore(t *testing.T) {
	harness.OnEventStore(t)
	t.Parallel()
	store := harness.StartEventStore(t)
	c := harness.Start(t, harness.Options{Args: []string{"--no-node", "--sim-nodes", "2"}, EventStore: store})
	c.Apply(webDeployment)
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=120s")
	client := clientOf(t, c)
	var w writers
	w.start(t.Context(), client, client, client)
	for range 3 {
		w.more(t, 20)
		store.Kill()
		store.Launch()
	}
	w.more(t, 20)
	w.stop()
	w.check(t, client)
	c.Kubectl("scale", "deployment/web", "--replicas=5")
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=120s")
	if r := c.Shiplog("history", "deployment/web"); r.Code != 0 || !strings.Contains(r.Stdout, "DeploymentScaled") {
		t.Errorf("history: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := c.Shiplog("verify"); r.Code != 0 {
		t.Errorf("verify: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}

	// Forgetting where the log is would begin another history.
	c.Stop()
	if r := c.Shiplog("up", "--no-node", "--listen", "127.0.0.1:0", "--graphql", "", "--data-dir", c.Dir); r.Code == 0 || !strings.Contains(r.Stderr, "--eventstore") {
		t.Errorf("starting without --eventstore: exit code %d\n%s", r.Code, r.Stderr)
	}
}

// TestTwoControlPlanes: two control planes on one event store and one Postgres both serve reads and writes, one leads. When it is
// killed the other takes over; nothing acknowledged is lost, and no conflict goes unnoticed.
func TestTwoControlPlanes(t *testing.T) {
	harness.OnEventStore(t)
	t.Parallel()
	harness.NeedRoot(t) // Postgres runs as a user of its own
	store := harness.StartEventStore(t)
	// Not t.TempDir: a socket's path has a limit, and another user has to get there.
	pgDir, err := os.MkdirTemp("", "shiplog-e2e-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(pgDir) })
	if err := os.Chmod(pgDir, 0o755); err != nil {
		t.Fatal(err)
	}
	pg, err := postgres.Start(t.Context(), filepath.Join(pgDir, "pg"), postgres.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Stop(context.Background()); err != nil {
			t.Errorf("stopping Postgres: %v", err)
		}
	})
	shared := []string{"--no-node", "--postgres", pg.DSN()}
	first := harness.Start(t, harness.Options{Args: shared, EventStore: store})
	// Certificates and signing keys are the cluster's, and so the same in each control plane.
	dir := harness.TempDir(t)
	if err := os.CopyFS(filepath.Join(dir, "pki"), os.DirFS(filepath.Join(first.Dir, "pki"))); err != nil {
		t.Fatal(err)
	}
	second := harness.Start(t, harness.Options{Args: append(shared, "--sim-nodes", "2"), EventStore: store, Dir: dir})
	a, b := clientOf(t, first), clientOf(t, second)
	ctx := t.Context()

	// Who writes through one reads it through the other, at once.
	for i := range 20 {
		name := fmt.Sprintf("seen-%d", i)
		to, from := a, b
		if i%2 == 1 {
			to, from = b, a
		}
		if _, err := to.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := from.CoreV1().ConfigMaps("default").Get(ctx, name, metav1.GetOptions{}); err != nil {
			t.Errorf("through the other control plane: %v", err)
		}
	}
	leader := func() string {
		lease, err := b.CoordinationV1().Leases("kube-system").Get(ctx, "shiplog-controllers", metav1.GetOptions{})
		if err != nil || lease.Spec.HolderIdentity == nil {
			t.Fatalf("reading who leads: %v", err)
		}
		return *lease.Spec.HolderIdentity
	}
	if want := fmt.Sprintf("_%d", first.Pid()); !strings.HasSuffix(leader(), want) {
		t.Errorf("%s leads, want the one that came first (%s)", leader(), want)
	}
	if strings.Contains(second.Log(), "msg=leading") {
		t.Error("the second control plane leads too")
	}

	countTogether(t, a, b)

	second.Apply(webDeployment)
	second.Kubectl("rollout", "status", "deployment/web", "--timeout=120s")
	var w writers
	w.start(ctx, a, b, a, b)
	w.more(t, 40)
	first.Kill()
	w.more(t, 40) // through the one that is left
	w.stop()
	w.check(t, b)
	second.Kubectl("scale", "deployment/web", "--replicas=5")
	second.Kubectl("rollout", "status", "deployment/web", "--timeout=120s")
	if want := fmt.Sprintf("_%d", second.Pid()); !strings.HasSuffix(leader(), want) {
		t.Errorf("%s leads after the first was killed, want the second (%s)", leader(), want)
	}
	first.Launch()
	w.check(t, clientOf(t, first))
	if r := second.Shiplog("verify"); r.Code != 0 {
		t.Errorf("verify: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// countTogether counts in one object through two control planes at the same time: each increment that was acknowledged is there.
func countTogether(t *testing.T, clients ...*kubernetes.Clientset) {
	t.Helper()
	ctx := t.Context()
	const key = "counted"
	if _, err := clients[0].CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "counter"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var counted, conflicts atomic.Int64
	var counting sync.WaitGroup
	for w := range 4 {
		configMaps := clients[w%len(clients)].CoreV1().ConfigMaps("default")
		counting.Go(func() {
			for done := 0; done < 15; {
				cm, err := configMaps.Get(ctx, "counter", metav1.GetOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				cm.Data = map[string]string{key: cm.Data[key] + "|"}
				_, err = configMaps.Update(ctx, cm, metav1.UpdateOptions{})
				switch {
				case err == nil:
					counted.Add(1)
					done++
				case apierrors.IsConflict(err):
					conflicts.Add(1)
				default:
					t.Error(errors.Join(errors.New("counting"), err))
					return
				}
			}
		})
	}
	counting.Wait()
	for i, client := range clients {
		cm, err := client.CoreV1().ConfigMaps("default").Get(ctx, "counter", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := int64(len(cm.Data[key])); got != counted.Load() {
			t.Errorf("control plane %d counts %d, %d were acknowledged", i, got, counted.Load())
		}
	}
	if conflicts.Load() == 0 {
		t.Error("there was no conflict, so the test proved nothing")
	}
}
