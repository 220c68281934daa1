package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shiplog/shiplog/test/harness"
)

const kept = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {password: hunter2}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
`

// objects are what users have made, with their resourceVersions.
func objects(c *harness.Cluster) string {
	return c.Kubectl("get", "configmap/settings", "secret/password", "serviceaccount/robot", "-o", "yaml")
}

func shiplog(t *testing.T, c *harness.Cluster, args ...string) string {
	t.Helper()
	r := c.Shiplog(args...)
	if r.Code != 0 {
		t.Fatalf("shiplog %s: exit code %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

func same(t *testing.T, what, want, got string) {
	t.Helper()
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-before +after):\n%s", what, diff)
	}
}

// TestBackupAndRestore loses a cluster with everything that it had on disk, and makes it again of a backup and what came since.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	args := []string{"--no-node", "--sim-nodes", "1"}
	c := harness.Start(t, harness.Options{Args: args})
	store := t.TempDir()
	full, since, passphrase := filepath.Join(store, "full.backup"), filepath.Join(store, "since.backup"), filepath.Join(store, "passphrase")
	if err := os.WriteFile(passphrase, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Apply(kept)
	token := strings.TrimSpace(c.Kubectl("create", "token", "robot"))
	shiplog(t, c, "backup", full, "--keys-passphrase-file", passphrase)
	c.Kubectl("create", "configmap", "later", "--from-literal=a=b")
	c.Kubectl("patch", "configmap", "settings", "-p", `{"data":{"colour":"green"}}`)
	shiplog(t, c, "backup", since, "--since", full, "--keys-passphrase-file", passphrase)
	before, history := objects(c), shiplog(t, c, "history", "configmap/settings", "-o", "json")
	c.Stop()

	stopped := filepath.Join(store, "stopped.backup") // of a cluster that is not running the same can be had
	shiplog(t, c, "backup", stopped)
	for _, file := range []string{full, since, stopped} {
		var inspected struct {
			Trailer struct {
				Entries int `json:"entries"`
			} `json:"trailer"`
			Keys bool `json:"keys"`
		}
		if err := json.Unmarshal([]byte(shiplog(t, c, "backup", "inspect", file, "-o", "json")), &inspected); err != nil || inspected.Trailer.Entries == 0 || inspected.Keys != (file != stopped) {
			t.Errorf("inspecting %s: %+v, %v", file, inspected, err)
		}
	}

	if r := c.Shiplog("restore", full, since, "--data-dir", c.Dir, "--keys-passphrase-file", passphrase); r.Code == 0 || !strings.Contains(r.Stderr, "empty directory") {
		t.Errorf("restoring over a cluster: exit code %d, %s", r.Code, r.Stderr)
	}
	entries, err := os.ReadDir(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries { // its Postgres too
		if err := os.RemoveAll(filepath.Join(c.Dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	shiplog(t, c, "restore", full, since, "--data-dir", c.Dir, "--keys-passphrase-file", passphrase)
	c.Launch()
	same(t, "the objects", before, objects(c))
	same(t, "the history", history, shiplog(t, c, "history", "configmap/settings", "-o", "json"))
	if out := c.Kubectl("get", "configmap", "later", "-o", "jsonpath={.data.a}"); out != "b" {
		t.Errorf("what the incremental backup brought is %q", out)
	}
	if _, err := c.Curl("--insecure", "--header", "Authorization: Bearer "+token, c.URL+"/api"); err != nil {
		t.Errorf("a token of before is not taken: %v", err)
	}
	shiplog(t, c, "verify")
}

// TestMoveToAnEventStoreAndBack takes a cluster's log to a server in another process, and home again.
func TestMoveToAnEventStoreAndBack(t *testing.T) {
	t.Parallel()
	args := []string{"--no-node", "--sim-nodes", "1"}
	home := harness.Start(t, harness.Options{Args: args})
	home.Apply(kept)
	home.Kubectl("patch", "configmap", "settings", "-p", `{"data":{"colour":"green"}}`)
	strip := func(out string) string { // what an event store gives of its own
		var lines []string
		for line := range strings.SplitSeq(out, "\n") {
			if !strings.Contains(line, "resourceVersion:") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "\n")
	}
	before := strip(objects(home))
	home.Stop()

	address := eventStore(t, t.TempDir())
	copyLog := func(from, to string) {
		t.Helper()
		for range 2 { // a second time there is nothing left to do
			shiplog(t, home, "eventstore", "copy", "--from", from, "--to", to)
		}
	}
	copyLog(home.Dir, address)
	away := harness.Start(t, harness.Options{Dir: home.Dir, Args: append(args, "--eventstore", address)})
	same(t, "the objects in the event store", before, strip(objects(away)))
	away.Kubectl("patch", "configmap", "settings", "-p", `{"data":{"colour":"red"}}`)
	if why := shiplog(t, away, "history", "configmap/settings"); strings.Count(why, "ConfigMap") < 3 {
		t.Errorf("the history in the event store:\n%s", why)
	}
	there := objects(away)
	shiplog(t, away, "verify")
	away.Stop()

	if err := os.Rename(filepath.Join(home.Dir, "log"), filepath.Join(t.TempDir(), "log")); err != nil {
		t.Fatal(err)
	}
	copyLog(address, home.Dir)
	if err := os.Remove(filepath.Join(home.Dir, "eventstore")); err != nil { // which says that the log is elsewhere
		t.Fatal(err)
	}
	home.Launch()
	same(t, "the objects back home, with their resourceVersions", there, objects(home))
	shiplog(t, home, "verify")
}

// eventStore serves a log in another process and returns its address.
func eventStore(t *testing.T, dir string) string {
	t.Helper()
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
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if !ok {
		t.Fatalf("the event store said %q", line)
	}
	return "esdb://" + address + "?tls=false"
}
