package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/test/harness"
)

// TestStartFromASnapshot: a cluster that stops leaves a snapshot, the next start uses it, and one that is damaged is left out: the
// objects are the same each time.
func TestStartFromASnapshot(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Args: []string{"--no-node", "-v"}, Embedded: "the log is filled while the cluster is stopped"})
	if code := c.Stop(); code != 0 {
		t.Fatalf("the cluster ended with exit code %d", code)
	}
	const objects, changes = 100, 100
	fillLog(t, filepath.Join(c.Dir, "log"), objects, changes)
	snapshots := func() []string {
		files, err := filepath.Glob(filepath.Join(c.Dir, "snapshots", "*.snapshot"))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	check := func(when string) {
		t.Helper()
		var list corev1.ConfigMapList
		c.Get(&list, "configmaps", "-l", "made=here")
		if len(list.Items) != objects {
			t.Errorf("%s: %d objects, want %d", when, len(list.Items), objects)
		}
		for _, o := range list.Items {
			if o.Data["n"] != fmt.Sprint(changes) {
				t.Errorf("%s: %s is %v", when, o.Name, o.Data)
			}
		}
	}
	c.Launch()
	check("from the log")
	c.Stop()
	if n := len(snapshots()); n == 0 {
		t.Fatalf("the cluster left no snapshot:\n%s", c.Log())
	}
	c.Launch()
	if !strings.Contains(c.Log(), "the live view starts from a snapshot") {
		t.Errorf("the snapshot was not used:\n%s", c.Log())
	}
	check("from the snapshot")
	c.Kill()
	for _, path := range snapshots() {
		if err := os.Truncate(path, 100); err != nil {
			t.Fatal(err)
		}
	}
	c.Launch()
	if !strings.Contains(c.Log(), "a snapshot is left out") {
		t.Errorf("nothing was said of damaged snapshots:\n%s", c.Log())
	}
	check("after damage")
	c.Kubectl("create", "configmap", "after")
}

// fillLog appends the lives of ConfigMaps to the log of a stopped cluster.
func fillLog(t *testing.T, dir string, objects, changes int) {
	t.Helper()
	log, err := embedded.Open(dir, embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range objects {
		ref := domain.Ref{Resource: "configmaps", Namespace: "default", Name: fmt.Sprintf("c-%d", i), UID: "0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f"}
		var events []eventstore.Proposed
		for n := range changes + 1 {
			e := domain.Event{ID: uuid.NewString(), Ref: ref, Type: "ConfigMapDataChanged", Op: domain.Changed, Time: time.Now(), Change: fmt.Appendf(nil, `{"~data":{"=n":"%d"}}`, n)}
			if n == 0 {
				e.Type, e.Op = "ConfigMapCreated", domain.Created
				e.Change = fmt.Appendf(nil, `{"apiVersion":"v1","data":{"n":"0"},"kind":"ConfigMap","metadata":{"labels":{"made":"here"},"name":%q,"namespace":"default","uid":%q}}`, ref.Name, ref.UID)
			}
			proposed, err := eventstore.Propose(e)
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, proposed)
		}
		if _, err := log.Append(t.Context(), ref.Stream(), eventstore.NoStream, events...); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}
