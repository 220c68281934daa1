package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/shiplog/shiplog/test/harness"
)

// TestLookingBack walks from a change to who made it, why, and how the cluster was before it.
func TestLookingBack(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Args: []string{"--no-node", "--sim-nodes", "2"}})
	c.Apply(webDeployment)
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	before := time.Now().UTC().Add(time.Millisecond)
	head := c.Head()
	// The next change must not share the instant that is asked for below.
	harness.Eventually(t, soon, "the clock to move on", func() error {
		if time.Now().UTC().Before(before.Add(time.Millisecond)) {
			return errNotYet
		}
		return nil
	})
	c.Kubectl("scale", "deployment/web", "--replicas=1")
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	harness.Eventually(t, soon, "one pod to be left", func() error {
		if len(strings.Fields(c.Kubectl("get", "pods", "-o", "name"))) != 1 {
			return errNotYet
		}
		return nil
	})

	t.Run("at a time, plain kubectl shows the past", func(t *testing.T) {
		for _, at := range []string{before.Format(time.RFC3339Nano), head} {
			r := c.Shiplog("at", at, "kubectl", "get", "pods", "-A", "-o", "wide")
			if r.Code != 0 || strings.Count(r.Stdout, "Running") != 3 {
				t.Errorf("at %s there were three pods, but:\n%s%s", at, r.Stdout, r.Stderr)
			}
		}
		if r := c.Shiplog("at", head, "kubectl", "delete", "deployment", "web"); r.Code == 0 || !strings.Contains(r.Stderr, "past") {
			t.Errorf("deleting in the past: exit code %d, %s", r.Code, r.Stderr)
		}
		for at, want := range map[string]string{
			"2020-01-01T00:00:00Z": "before the log's first event", "4000000000": "in the future: the log stands at", "2999-01-01": "in the future", "yesteryear": "yesteryear",
		} {
			if r := c.Shiplog("at", at, "kubectl", "get", "pods"); r.Code == 0 || !strings.Contains(r.Stderr, want) || strings.Count(r.Stderr, "\n") > 1 {
				t.Errorf("at %s: exit code %d, want one line with %q, got:\n%s", at, r.Code, want, r.Stderr)
			}
		}
	})
	t.Run("history names every change and who made it", func(t *testing.T) {
		r := c.Shiplog("history", "deployment/web")
		if r.Code != 0 {
			t.Fatalf("history: %s", r.Stderr)
		}
		for _, want := range []string{"DeploymentCreated", "DeploymentScaled", "spec.replicas", "3", "1"} {
			if !strings.Contains(r.Stdout, want) {
				t.Errorf("the history does not mention %s:\n%s", want, r.Stdout)
			}
		}
		r = c.Shiplog("history", "deployment/web", "-o", "json")
		var entries []map[string]any
		if err := json.Unmarshal([]byte(r.Stdout), &entries); err != nil || len(entries) < 2 {
			t.Errorf("-o json gave %d entries, %v:\n%s", len(entries), err, r.Stdout)
		}
	})
	t.Run("history of what was deleted", func(t *testing.T) {
		c.Kubectl("create", "configmap", "passing")
		c.Kubectl("delete", "configmap", "passing")
		if r := c.Shiplog("history", "configmap/passing"); !strings.Contains(r.Stdout, "ConfigMapDeleted") {
			t.Errorf("exit code %d:\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
	t.Run("why leads from a pod to the person", func(t *testing.T) {
		pod := strings.TrimSpace(c.Kubectl("get", "pods", "-l", "app=web", "-o", "name"))
		r := c.Shiplog("why", pod)
		if r.Code != 0 {
			t.Fatalf("why: %s", r.Stderr)
		}
		for _, want := range []string{"PodBound", "system:kube-scheduler", "replicaset-controller", "DeploymentCreated", "sim-"} {
			if !strings.Contains(r.Stdout, want) {
				t.Errorf("why does not mention %s:\n%s", want, r.Stdout)
			}
		}
	})
	t.Run("verify agrees", func(t *testing.T) {
		if r := c.Shiplog("verify"); r.Code != 0 {
			t.Errorf("verify: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
	t.Run("rebuild ends with the same models", func(t *testing.T) {
		if r := c.Shiplog("rebuild"); r.Code != 0 {
			t.Errorf("rebuild: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		if r := c.Shiplog("verify"); r.Code != 0 {
			t.Errorf("verify after a rebuild: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
	t.Run("audit tells what people did, and in whose name, and what was refused", func(t *testing.T) {
		c.Kubectl("--as", "ada", "--as-group", "system:masters", "create", "configmap", "hers")
		if r := c.TryKubectl("--as", "eve", "delete", "configmap", "hers"); r.Code == 0 {
			t.Fatal("eve may delete a configmap")
		}
		var lines []auditv1.Event
		harness.Eventually(t, soon, "the refused request to be in the audit", func() error {
			r := c.Shiplog("audit", "configmap/hers", "-o", "audit")
			if r.Code != 0 {
				return fmt.Errorf("audit: %s", r.Stderr)
			}
			lines = nil
			for line := range strings.Lines(r.Stdout) {
				var e auditv1.Event
				if err := json.Unmarshal([]byte(line), &e); err != nil {
					return err
				}
				lines = append(lines, e)
			}
			if len(lines) < 2 {
				return errNotYet
			}
			return nil
		})
		for i, want := range []struct {
			as, verb string
			code     int32
		}{{"ada", "create", 201}, {"eve", "delete", 403}} {
			e := lines[i]
			if e.APIVersion != "audit.k8s.io/v1" || e.User.Username != "kubernetes-admin" || e.ImpersonatedUser == nil || e.ImpersonatedUser.Username != want.as || e.Verb != want.verb ||
				e.ResponseStatus.Code != want.code || !strings.HasSuffix(e.RequestURI, "/configmaps") && !strings.Contains(e.RequestURI, "/configmaps/hers") {
				t.Errorf("line %d: %+v", i, e)
			}
		}
		r := c.Shiplog("audit", "--people", "--refused")
		if r.Code != 0 || !strings.Contains(r.Stdout, "eve (by kubernetes-admin)  delete  configmap/hers") || !strings.Contains(r.Stdout, "403 Forbidden") {
			t.Errorf("audit: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
	t.Run("a stopped cluster can be read", func(t *testing.T) {
		c.Stop()
		if r := c.Shiplog("history", "deployment/web"); r.Code != 0 || !strings.Contains(r.Stdout, "DeploymentScaled") {
			t.Errorf("history of a stopped cluster: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		if r := c.Shiplog("at", head, "kubectl", "get", "pods"); r.Code != 0 || strings.Count(r.Stdout, "Running") != 3 {
			t.Errorf("at %s of a stopped cluster: exit code %d\n%s%s", head, r.Code, r.Stdout, r.Stderr)
		}
		if r := c.Shiplog("verify"); r.Code != 0 {
			t.Errorf("verify of a stopped cluster: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
}
