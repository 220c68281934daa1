package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/test/harness"
)

// TestKilledControlPlane: whatever a client was told is committed survives kill -9, and the cluster goes on where it was.
func TestKilledControlPlane(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Args: []string{"--no-node", "--sim-nodes", "2"}})
	c.Apply(webDeployment)
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")

	const rounds, writers = 2, 4
	var acknowledged sync.Map
	for round := range rounds {
		var stop atomic.Bool
		var wg sync.WaitGroup
		wrote := make(chan struct{}, 1024)
		for w := range writers {
			wg.Go(func() {
				for i := 0; !stop.Load(); i++ {
					name := fmt.Sprintf("acked-%d-%d-%d", round, w, i)
					if r := c.TryKubectl("create", "configmap", name); r.Code == 0 {
						acknowledged.Store(name, true)
						wrote <- struct{}{}
					}
				}
			})
		}
		for range 2 * writers {
			<-wrote
		}
		c.Kill()
		stop.Store(true)
		wg.Wait()
		c.Launch()
	}
	var list corev1.ConfigMapList
	c.Get(&list, "configmaps")
	there := map[string]bool{}
	for _, cm := range list.Items {
		there[cm.Name] = true
	}
	n := 0
	acknowledged.Range(func(name, _ any) bool {
		n++
		if !there[name.(string)] {
			t.Errorf("%s was acknowledged and is gone", name)
		}
		return true
	})
	if n < rounds*writers {
		t.Fatalf("only %d creations were acknowledged; the test proved nothing", n)
	}
	c.Kubectl("scale", "deployment/web", "--replicas=4")
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	if r := c.Shiplog("verify"); r.Code != 0 {
		t.Errorf("verify: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// TestPostgresAway: the write path, controllers and scheduler never wait for Postgres; the models catch up by themselves, and
// are rebuilt by themselves when the database is gone.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Args: []string{"--no-node", "--sim-nodes", "2"}})
	c.Apply(webDeployment)
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")

	// The private server answers on a socket in the data directory; kill it as an out-of-memory killer would.
	killPostgres := func() {
		out, err := exec.Command("pkill", "-9", "-f", "postgres.*"+filepath.Base(c.Dir)).CombinedOutput()
		if err != nil {
			t.Fatalf("killing Postgres: %v\n%s", err, out)
		}
	}
	killPostgres()
	c.Kubectl("scale", "deployment/web", "--replicas=5")
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	c.Kubectl("create", "configmap", "while-away")
	caughtUp := func() error {
		r := c.Shiplog("history", "configmap/while-away")
		if r.Code != 0 || !strings.Contains(r.Stdout, "ConfigMapCreated") {
			return fmt.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		return nil
	}
	harness.Eventually(t, soon, "the models to catch up after Postgres came back", caughtUp)

	if r := c.Shiplog("verify"); r.Code != 0 {
		t.Errorf("verify: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}
