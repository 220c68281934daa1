package e2e

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/shiplog/shiplog/internal/testimage"
	"github.com/shiplog/shiplog/test/harness"
)

// TestJoinedNode: a node in a process of its own joins by a token, runs pods for a control plane elsewhere, and takes its
// containers over after kill -9.
func TestJoinedNode(t *testing.T) {
	harness.NeedRoot(t)
	c := harness.Start(t, harness.Options{NetNS: true, Args: []string{"--no-node"}})
	r := c.Shiplog("token", "create", "-o", "json")
	var token struct{ Token string }
	if err := json.Unmarshal([]byte(r.Stdout), &token); err != nil || token.Token == "" {
		t.Fatalf("token create: exit code %d, %v\n%s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	node := harness.Start(t, harness.Options{Beside: c, Command: []string{"agent", "--join", c.URL, "--token", token.Token, "--node-name", "second"}})
	c.Kubectl("wait", "node/second", "--for=condition=Ready", "--timeout=60s")

	archive := filepath.Join(t.TempDir(), "busybox.tar")
	if err := testimage.Busybox(context.Background(), busybox, archive); err != nil {
		t.Fatal(err)
	}
	if r := node.Shiplog("image", "load", archive); r.Code != 0 {
		t.Fatalf("image load: %s%s", r.Stdout, r.Stderr)
	}
	c.Apply(pod("far", `
    command: ["/bin/busybox", "sleep", "3600"]`))
	c.Kubectl("wait", "pod/far", "--for=condition=Ready", "--timeout=60s")
	if out := c.Kubectl("exec", "far", "--", "/bin/busybox", "hostname"); out != "far\n" {
		t.Errorf("exec hostname: %q", out)
	}
	identity := func() string {
		return c.Kubectl("get", "pod", "far", "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")
	}
	before := identity()
	node.Kill()
	node.Launch()
	if out := c.Kubectl("exec", "far", "--", "/bin/busybox", "echo", "alive"); out != "alive\n" {
		t.Errorf("exec after the node came back: %q", out)
	}
	if after := identity(); after != before {
		t.Errorf("before kill -9 the container was %s, after it %s", before, after)
	}
	if r := node.Shiplog("agent", "--join", c.URL, "--token", "aaaaaa.bbbbbbbbbbbbbbbb", "--data-dir", t.TempDir()); r.Code == 0 {
		t.Error("a node joined with a token that is none")
	}
	c.Kubectl("delete", "pod", "far", "--grace-period=1", "--timeout=60s")
}
