package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/shiplog/shiplog/test/harness"
)

// TestWithoutPostgres: a Postgres that cannot be initialised does not end the cluster. Everything but the past works, those who ask for
// that are told why not, and it comes without a restart when the cause is gone.
func TestWithoutPostgres(t *testing.T) {
	t.Parallel()
	dir := harness.TempDir(t)
	inTheWay := filepath.Join(dir, "postgres")
	if err := os.WriteFile(inTheWay, []byte("not a directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := harness.Start(t, harness.Options{Args: []string{"--no-node"}, Dir: dir})
	c.Kubectl("create", "configmap", "kept", "--from-literal=n=1")
	page := regexp.MustCompile(`url=(http://\S+)`).FindStringSubmatch(c.Log())
	if page == nil {
		t.Fatalf("the log does not say where GraphQL is served:\n%s", c.Log())
	}
	ask := func() (string, error) {
		return c.Curl("-H", "Content-Type: application/json", page[1]+"graphql", "-d",
			`{"query":"{ events(first: 5, filter: {name: \"kept\"}) { nodes { type } } }"}`)
	}
	const missing = "read models are not available"
	harness.Eventually(t, soon, "GraphQL to say why there is no past", func() error {
		if answer, err := ask(); err != nil || !strings.Contains(answer, missing) || !strings.Contains(answer, "--postgres") {
			return fmt.Errorf("it answered %s (%v)", answer, err)
		}
		return nil
	})
	if r := c.Shiplog("history", "configmap/kept"); r.Code == 0 || !strings.Contains(r.Stderr, missing) {
		t.Errorf("history: exit code %d, %s", r.Code, r.Stderr)
	}
	if r := c.Shiplog("rebuild"); r.Code == 0 || !strings.Contains(r.Stderr, missing) {
		t.Errorf("rebuild: exit code %d, %s", r.Code, r.Stderr)
	}
	if !strings.Contains(c.Log(), "Postgres does not start") {
		t.Errorf("the cluster's log says nothing:\n%s", c.Log())
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, soon, "the past to come", func() error {
		if answer, err := ask(); err != nil || !strings.Contains(answer, "ConfigMapCreated") {
			return fmt.Errorf("it answered %s (%v)", answer, err)
		}
		return nil
	})
	if got := c.Kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.n}"); got != "1" {
		t.Errorf("the ConfigMap holds %q", got)
	}
}

// A machine on which no Postgres is installed runs a cluster too, and who asks for the past is told what to install.
func TestPostgresIsNotInstalled(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	dir := harness.TempDir(t)
	// The same machine without the package: its directory is covered up in a mount namespace of the command's own.
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs none /usr/lib/postgresql && exec "$0" "$@"`,
		harness.Binary(t), "up", "--no-node", "--data-dir", dir, "--listen", "127.0.0.1:0", "--graphql", "127.0.0.1:0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	ready := false
	for lines := bufio.NewScanner(out); !ready && lines.Scan(); {
		ready = strings.HasPrefix(lines.Text(), "ready ")
	}
	if !ready {
		t.Fatal("it ended before it was ready")
	}
	shiplog := func(args ...string) string {
		said, _ := exec.Command(harness.Binary(t), append(args, "--data-dir", dir)...).CombinedOutput()
		return string(said)
	}
	if said := shiplog("kubectl", "create", "configmap", "kept"); !strings.Contains(said, "configmap/kept created") {
		t.Errorf("kubectl: %s", said)
	}
	harness.Eventually(t, soon, "history to say what to install", func() error {
		if said := shiplog("history", "configmap/kept"); !strings.Contains(said, "apt-get install postgresql") {
			return fmt.Errorf("it says %s", said)
		}
		return nil
	})
}
