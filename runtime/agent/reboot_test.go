package agent_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/runtime/internal/runtimetest"
)

// TestRestartOfTheMachine: what is written down is of another boot, so nothing of it runs: every pod gets a new sandbox, and its
// containers run again, counted as restarts; its init containers initialise the new sandbox.
func TestRestartOfTheMachine(t *testing.T) {
	f := newFixture(t)
	f.cp.put("pods", newPod("web", "sleep 1000", func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "busybox", Command: []string{"true"}, ImagePullPolicy: corev1.PullIfNotPresent}}
	}))
	before := f.until("web", "the pod is ready", isReady)
	f.stop()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"sandboxes/*/sandbox.json", "containers/*/status.json"} {
		found, _ := filepath.Glob(filepath.Join(f.dir, pattern))
		if len(found) == 0 {
			t.Fatalf("nothing is written down in %s", pattern)
		}
		for _, file := range found {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			data = bytes.ReplaceAll(data, bytes.TrimSpace(boot), []byte("00000000-0000-0000-0000-000000000000"))
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.open()
	after := f.until("web", "the pod is ready again, in new containers", func(p *corev1.Pod) bool {
		return isReady(p) && state(p, 0).ContainerID != state(before, 0).ContainerID
	})
	cs := state(after, 0)
	if cs.RestartCount != 1 || cs.LastTerminationState.Terminated == nil || after.Status.InitContainerStatuses[0].RestartCount != 1 {
		t.Errorf("after the restart the containers are %+v and %+v", cs, after.Status.InitContainerStatuses[0])
	}
	runtimetest.Eventually(t, "nothing of the former boot runs", func() bool { return f.processes("sleep\x001000") == 1 })
}
