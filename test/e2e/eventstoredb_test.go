package e2e

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/shiplog/shiplog/test/harness"
)

// TestEventStoreDB runs the control plane on a log in another process, through the official EventStoreDB client.
func TestEventStoreDB(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := exec.Command(harness.Binary(t), "eventstore", "serve", "--dir", dir, "--listen", "127.0.0.1:0", "--insecure")
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	server.Stderr = os.Stderr
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Signal(syscall.SIGTERM); _ = server.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the event store ended before it was ready: %v", err)
	}
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if !ok {
		t.Fatalf("the event store said %q", line)
	}

	c := harness.Start(t, harness.Options{Args: []string{"--no-node", "--sim-nodes", "2", "--eventstore", "esdb://" + addr + "?tls=false"}})
	c.Apply(webDeployment)
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=120s")
	c.Kubectl("scale", "deployment/web", "--replicas=1")
	if r := c.Shiplog("history", "deployment/web"); r.Code != 0 || !strings.Contains(r.Stdout, "DeploymentScaled") {
		t.Errorf("history: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	c.Kill()
	c.Launch()
	if out := c.Kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"); out != "1" {
		t.Errorf("after kill -9 the deployment wants %s replicas", out)
	}
	if r := c.Shiplog("verify"); r.Code != 0 {
		t.Errorf("verify: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}
