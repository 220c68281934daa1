package e2e

import (
	"testing"

	"github.com/shiplog/shiplog/test/harness"
)

// TestThousandPods: a Deployment of 1,000 replicas becomes available on 100 simulated nodes, spread evenly.
func TestThousandPods(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Args: []string{"--no-node", "--sim-nodes", "100"}})
	c.Apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: fleet}
spec:
  replicas: 1000
  selector: {matchLabels: {app: fleet}}
  template:
    metadata: {labels: {app: fleet}}
    spec: {containers: [{name: c, image: example.invalid/c:1, resources: {requests: {cpu: 10m, memory: 10Mi}}}]}
`)
	c.Kubectl("rollout", "status", "deployment/fleet", "--timeout=180s")
	var pods struct {
		Items []struct {
			Spec struct{ NodeName string }
		}
	}
	c.Get(&pods, "pods", "-l", "app=fleet")
	perNode := map[string]int{}
	for _, p := range pods.Items {
		perNode[p.Spec.NodeName]++
	}
	if len(pods.Items) != 1000 || len(perNode) != 100 {
		t.Fatalf("%d pods on %d nodes", len(pods.Items), len(perNode))
	}
	for node, n := range perNode {
		if n < 8 || n > 12 {
			t.Errorf("%s has %d pods; spread evenly it would have 10", node, n)
		}
	}
	if r := c.Shiplog("verify"); r.Code != 0 {
		t.Errorf("verify: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}
