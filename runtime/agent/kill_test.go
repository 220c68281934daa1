package agent_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/runtime/agent"
	"github.com/shiplog/shiplog/runtime/containers"
	"github.com/shiplog/shiplog/runtime/internal/runtimetest"
	"github.com/shiplog/shiplog/runtime/network"
)

// The test's own binary, run with these variables, is an agent in a process of its own, which the test can kill.
const (
	childDir    = "SHIPLOG_TEST_AGENT_DIR"
	childNumber = "SHIPLOG_TEST_AGENT_NUMBER"
)

func childMain(dir string) int {
	var number [2]byte
	if _, err := hex.Decode(number[:], []byte(os.Getenv(childNumber))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cp := newControlPlane()
	cp.position = 1000 // one log, of which each process sees a part
	data, err := os.ReadFile(filepath.Join(dir, "pod.json"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var p corev1.Pod
	if err := json.Unmarshal(data, &p); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cp.put("pods", &p)
	n, err := network.New(networkConfig(dir, number))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	a, err := agent.New(agent.Config{
		NodeName: "n1", DataDir: dir, Upstream: agent.Upstream{Source: cp, Bus: cp}, Kinds: domain.NewSet(domain.Kinds()), Network: n,
		NodeIP: netip.MustParseAddr("127.0.0.1"), Listen: "127.0.0.1:0", NetnsDir: filepath.Join(dir, "netns"), CgroupRoot: "/" + filepath.Base(dir),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err == nil {
		err = a.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// child starts an agent in a process of its own, on the fixture's directory.
func (f *fixture) child(p *corev1.Pod) *exec.Cmd {
	f.t.Helper()
	data, err := json.Marshal(p)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, "pod.json"), data, 0o600); err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+f.dir, childNumber+"="+hex.EncodeToString(f.number[:]))
	cmd.Stderr = f.t.Output()
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func kill9(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// written returns what is written down of the one container in the directory.
func (f *fixture) written() (st containers.Status, ok bool) {
	found, _ := filepath.Glob(filepath.Join(f.dir, "containers", "*", "status.json"))
	if len(found) != 1 {
		return st, false
	}
	data, err := os.ReadFile(found[0])
	return st, err == nil && json.Unmarshal(data, &st) == nil
}

func TestTakeoverAfterKill(t *testing.T) {
	f := newFixture(t)
	f.stop()
	p := newPod("web", "sleep 1000")
	child := f.child(p)
	var before containers.Status
	runtimetest.Eventually(t, "the other process runs the pod", func() bool {
		st, ok := f.written()
		before = st
		return ok && st.State == containers.Running
	})
	kill9(child)
	f.cp.position = 1_000_000
	f.cp.put("pods", p)
	f.open()
	now := f.until("web", "the pod is ready", isReady)
	if cs := state(now, 0); cs.ContainerID != "shiplog://"+before.ID || cs.RestartCount != 0 {
		t.Errorf("after the takeover the container is %+v, want %s", cs, before.ID)
	}
	if st, err := f.agent.Container("default", "web", "", "c", false); err != nil || st.Pid != before.Pid || !st.StartedAt.Equal(before.StartedAt) {
		t.Errorf("after the takeover the process is %d started at %s, %v; want %d at %s", st.Pid, st.StartedAt, err, before.Pid, before.StartedAt)
	}
}

// TestKilledAtAnyMoment kills the agent when it has come to each step of making a pod. Whatever is left is taken over or made
// anew, and in the end one container runs, once.
func TestKilledAtAnyMoment(t *testing.T) {
	for _, step := range []struct{ name, glob, unmade string }{
		{"sandbox written down", "sandboxes/*/sandbox.json", ""},
		{"network namespace made", "netns/*", ""},
		{"pause container made", "oci/*/state.json", ""},
		{"sandbox made, without the files", "pods/*/hostname", "pods/*/etc-hosts"},
		{"bundle made", "containers/*/status.json", ""},
		{"configuration written", "containers/*/config.json", ""},
		{"monitor started", "containers/*/conmon.pid", ""},
		{"container created", "containers/*/pid", ""},
	} {
		t.Run(step.name, func(t *testing.T) {
			f := newFixture(t)
			f.stop()
			p := newPod("web", "sleep 4321")
			child := f.child(p)
			runtimetest.Eventually(t, step.name, func() bool {
				found, _ := filepath.Glob(filepath.Join(f.dir, step.glob))
				return len(found) > 0
			})
			kill9(child)
			if step.unmade != "" { // the moment is too short to be met for certain
				unmade, _ := filepath.Glob(filepath.Join(f.dir, step.unmade))
				for _, file := range unmade {
					if err := os.Remove(file); err != nil {
						t.Fatal(err)
					}
				}
			}
			f.cp.position = 1_000_000
			f.cp.put("pods", p)
			f.open()
			f.until("web", "the pod is ready", isReady)
			runtimetest.Eventually(t, "it runs once", func() bool { return f.processes("sleep\x004321") == 1 })
		})
	}
}

// processes counts those of the fixture's control groups whose command line is this.
func (f *fixture) processes(cmdline string) int {
	n := 0
	found, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range found {
		line, err := os.ReadFile(filepath.Join(p, "cmdline"))
		group, gerr := os.ReadFile(filepath.Join(p, "cgroup"))
		if err == nil && gerr == nil && strings.TrimSuffix(string(line), "\x00") == cmdline && strings.Contains(string(group), filepath.Base(f.dir)) {
			n++
		}
	}
	return n
}
