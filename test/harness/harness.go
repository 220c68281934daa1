// Package harness runs the built binary as a user would: it starts clusters in directories and network namespaces of their
// own, talks to them with the embedded kubectl, kills them, and shows their log when a test fails.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shiplog/shiplog/internal/testdisk"
)

// Deadlines of the harness: generous, because they bound failures, not successes.
const (
	readyWithin = 3 * time.Minute
	stopWithin  = time.Minute
	pollEvery   = 50 * time.Millisecond
)

// Root is the top of the source tree.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the working directory")
		}
		dir = parent
	}
}

// Binary is the built binary under test. It is built by `make build`, which `make test` and `make e2e` run first.
func Binary(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(Root(t), "bin", "shiplog")
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("%s is not there: run `make build` first", bin)
	}
	return bin
}

// NeedRoot fails the test with a clear sentence when it cannot make namespaces.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test runs containers and network namespaces: run it as root")
	}
}

// Options of a cluster.
type Options struct {
	Args    []string // of `shiplog up`, beside --data-dir and --listen
	Dir     string   // data directory; a temporary one unless set
	NetNS   bool     // in a network namespace of its own, so that the machine's tables are not touched
	Beside  *Cluster // in the network namespace of another
	Env     []string
	Command []string // instead of `up` with its flags; --data-dir is added
	// EventStore keeps the log. Nil: the directory does, or an event store of the cluster's own, as EventStoreEnv says.
	EventStore *EventStore
	// Embedded keeps the log in the directory in either mode, with the reason: the test is about the embedded log's own files.
	Embedded string
}

// Cluster is one running instance of the binary.
type Cluster struct {
	t    testing.TB
	opts Options
	Dir  string
	URL  string // the API's address, as the ready line gave it
	// EventStore is the process that keeps the log, nil when the cluster does.
	EventStore *EventStore
	netns      string
	*process
}

// Start starts `shiplog up` and waits for its ready line. The cluster is taken down when the test ends.
func Start(t testing.TB, opts Options) *Cluster {
	t.Helper()
	testdisk.Need(t)
	c := &Cluster{t: t, opts: opts, Dir: opts.Dir, EventStore: opts.EventStore, process: newProcess(t, "cluster")}
	if c.Dir == "" {
		c.Dir = TempDir(t)
	}
	if opts.NetNS {
		NeedRoot(t)
		c.netns = newNetNS(t)
	}
	if opts.Beside != nil {
		c.netns = opts.Beside.netns
	}
	if c.EventStore == nil && opts.Command == nil && opts.Embedded == "" && os.Getenv(EventStoreEnv) != "" {
		c.EventStore = startEventStore(t, c.netns)
	}
	t.Cleanup(c.Destroy)
	c.Launch()
	return c
}

// TempDir is like t.TempDir with a short path (unix sockets have a limit) that other users can enter (Postgres is one).
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shiplog-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("deleting the data directory: %v", err)
		}
	})
	return dir
}

func newNetNS(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("sle2e-%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)
	run := func(args ...string) {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("ip", "netns", "add", name)
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", name).CombinedOutput(); err != nil {
			t.Errorf("deleting the network namespace: %v\n%s", err, out)
		}
	})
	run("ip", "-n", name, "link", "set", "lo", "up")
	// An uplink that leads nowhere: the node has an address and a default route, as a machine has.
	run("ip", "-n", name, "link", "add", "uplink0", "type", "veth", "peer", "name", "nowhere0")
	run("ip", "-n", name, "link", "set", "nowhere0", "up")
	run("ip", "-n", name, "addr", "add", "192.0.2.10/24", "dev", "uplink0")
	run("ip", "-n", name, "link", "set", "uplink0", "up")
	run("ip", "-n", name, "route", "add", "default", "via", "192.0.2.1")
	return name
}

// NodeIP is the address of the node in a network namespace of its own.
const NodeIP = "192.0.2.10"

// InNetNS wraps a command so that it runs in the cluster's network namespace. Only the network is entered: `ip netns exec`
// would hide the cgroup mounts.
func (c *Cluster) InNetNS(name string, args ...string) *exec.Cmd {
	return inNetNS(c.netns, name, args...)
}

func inNetNS(netns, name string, args ...string) *exec.Cmd {
	if netns == "" {
		return exec.Command(name, args...)
	}
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + netns, name}, args...)...)
}

// Launch starts the process (again) and waits until it is ready.
func (c *Cluster) Launch() {
	c.t.Helper()
	if err := c.TryLaunch(); err != nil {
		c.t.Fatal(err)
	}
}

// TryLaunch starts the process and waits until it is ready, or returns what it said when it ended.
func (c *Cluster) TryLaunch() error {
	c.t.Helper()
	args := append([]string{"up", "--data-dir", c.Dir, "--listen", "127.0.0.1:0", "--graphql", "127.0.0.1:0"}, c.opts.Args...)
	if c.URL != "" { // a restarted cluster keeps its address, as kubeconfigs that are around expect
		args = append([]string{"up", "--data-dir", c.Dir, "--listen", strings.TrimPrefix(c.URL, "https://"), "--graphql", "127.0.0.1:0"}, c.opts.Args...)
	}
	if c.EventStore != nil {
		args = append(args, "--eventstore", c.EventStore.Address())
	}
	if c.opts.Command != nil {
		args = append(slices.Clone(c.opts.Command), "--data-dir", c.Dir)
	}
	cmd := c.InNetNS(Binary(c.t), args...)
	cmd.Env = append(os.Environ(), c.opts.Env...)
	url, err := c.process.launch(cmd)
	if err == nil {
		c.URL = url
	}
	return err
}

// Destroy stops the process and everything that it runs on the node.
func (c *Cluster) Destroy() {
	c.t.Helper()
	if !c.process.launched() {
		return
	}
	c.Stop()
	if out, err := c.InNetNS(Binary(c.t), "down", "--data-dir", c.Dir).CombinedOutput(); err != nil {
		c.t.Errorf("shiplog down: %v\n%s", err, out)
	}
}

// Result of a command.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Shiplog runs a command of the binary against the cluster.
func (c *Cluster) Shiplog(args ...string) Result { return c.run("", args...) }

// Kubectl runs the embedded kubectl and fails the test unless it succeeds. It returns what was printed to stdout.
func (c *Cluster) Kubectl(args ...string) string {
	c.t.Helper()
	r := c.TryKubectl(args...)
	if r.Code != 0 {
		c.t.Fatalf("kubectl %s: exit code %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// TryKubectl runs the embedded kubectl.
func (c *Cluster) TryKubectl(args ...string) Result {
	return c.run("", append([]string{"kubectl"}, args...)...)
}

// KubectlStdin runs the embedded kubectl with input.
func (c *Cluster) KubectlStdin(stdin string, args ...string) Result {
	return c.run(stdin, append([]string{"kubectl"}, args...)...)
}

// Apply applies a manifest.
func (c *Cluster) Apply(manifest string) {
	c.t.Helper()
	if r := c.KubectlStdin(manifest, "apply", "-f", "-"); r.Code != 0 {
		c.t.Fatalf("kubectl apply: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// Get decodes an object or list that kubectl prints as JSON.
func (c *Cluster) Get(into any, args ...string) {
	c.t.Helper()
	out := c.Kubectl(append(append([]string{"get"}, args...), "-o", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		c.t.Fatalf("reading what kubectl get printed: %v\n%s", err, out)
	}
}

// Head is the log's position that a list reflects now.
func (c *Cluster) Head() string {
	c.t.Helper()
	var list struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	out := c.Kubectl("get", "--raw", "/api/v1/namespaces?limit=1")
	if err := json.Unmarshal([]byte(out), &list); err != nil || list.Metadata.ResourceVersion == "" {
		c.t.Fatalf("reading the resourceVersion of a list: %v\n%s", err, out)
	}
	return list.Metadata.ResourceVersion
}

// Command prepares a command of the binary against the cluster, for those who want to hold it (watch, port-forward).
func (c *Cluster) Command(args ...string) *exec.Cmd {
	cmd := c.InNetNS(Binary(c.t), args...)
	cmd.Env = append(os.Environ(), "SHIPLOG_DATA_DIR="+c.Dir, "HOME="+c.Dir)
	return cmd
}

func (c *Cluster) run(stdin string, args ...string) Result {
	c.t.Helper()
	cmd := c.Command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("shiplog %s: %v", strings.Join(args, " "), err)
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

// Curl fetches a page in the cluster's network and returns its body.
func (c *Cluster) Curl(args ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := c.InNetNS("curl", append([]string{"--silent", "--show-error", "--fail", "--max-time", "10"}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("curl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// Eventually waits until the condition holds and fails the test with its last error when it does not in time.
func Eventually(t testing.TB, within time.Duration, what string, condition func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited %s for %s: %v", within, what, err)
		case <-tick.C:
		}
	}
}
