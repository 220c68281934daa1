package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/internal/testimage"
	"github.com/shiplog/shiplog/test/harness"
)

const busybox = "shiplog.local/busybox:1.0"

// images builds the images that the node tests run, once for all of them.
func images(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	root := harness.Root(t)
	ctx := context.Background()
	box := filepath.Join(dir, "busybox.tar")
	if err := testimage.Busybox(ctx, busybox, box); err != nil {
		t.Fatal(err)
	}
	archives := []string{box}
	for _, name := range []string{"store", "web"} {
		out := filepath.Join(dir, name+".tar")
		if err := testimage.FromGo(ctx, filepath.Join(root, "examples", name), "shiplog.local/"+name+":1.0", out); err != nil {
			t.Fatal(err)
		}
		archives = append(archives, out)
	}
	return archives
}

// TestNode runs the whole of one real node: containers, network, services, DNS, probes, logs, exec, volumes, and the restarts
// of what runs it. It has a network namespace of its own as its machine.
func TestNode(t *testing.T) {
	harness.NeedRoot(t)
	c := harness.Start(t, harness.Options{NetNS: true})
	for _, archive := range images(t) {
		if r := c.Shiplog("image", "load", archive); r.Code != 0 {
			t.Fatalf("image load: %s%s", r.Stdout, r.Stderr)
		}
	}

	t.Run("the two-tier application answers", func(t *testing.T) {
		manifests := filepath.Join(harness.Root(t), "examples", "two-tier")
		c.Kubectl("apply", "-f", manifests)
		page := ""
		harness.Eventually(t, soon, "the page through the node port", func() error {
			var err error
			page, err = c.Curl("http://127.0.0.1:30001/")
			return err
		})
		for _, want := range []string{"The store by environment: ok", "The store by DNS: ok"} {
			if !strings.Contains(page, want) {
				t.Errorf("the page does not say %q:\n%s", want, page)
			}
		}
		if _, err := c.Curl("http://" + harness.NodeIP + ":30001/"); err != nil {
			t.Errorf("through the node's address: %v", err)
		}
		ip := c.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}")
		if _, err := c.Curl("http://" + ip + "/"); err != nil {
			t.Errorf("through the cluster address, from the host: %v", err)
		}
	})
	t.Run("logs, exec, attach, port-forward, cp", func(t *testing.T) {
		c.Apply(pod("talker", `
    command: ["/bin/busybox", "sh", "-c", "i=0; while true; do echo line $i; i=$((i+1)); sleep 1; done"]`))
		c.Kubectl("wait", "pod/talker", "--for=condition=Ready", "--timeout=60s")
		harness.Eventually(t, soon, "three lines of log", func() error {
			if out := c.Kubectl("logs", "talker"); !strings.Contains(out, "line 2") {
				return fmt.Errorf("the log is:\n%s", out)
			}
			return nil
		})
		if out := c.Kubectl("logs", "talker", "--tail=1", "--timestamps"); !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\S+ line \d+\n$`).MatchString(out) {
			t.Errorf("one line with its time: %q", out)
		}
		follow := c.Command("kubectl", "logs", "-f", "talker", "--tail=1")
		stdout, err := follow.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := follow.Start(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		read := 0
		for strings.Count(string(buf[:read]), "\n") < 3 {
			n, err := stdout.Read(buf[read:])
			if err != nil {
				t.Fatalf("following the log: %v after %q", err, buf[:read])
			}
			read += n
		}
		_ = follow.Process.Kill()
		_ = follow.Wait()
		if out := c.Kubectl("exec", "talker", "--", "/bin/busybox", "hostname"); strings.TrimSpace(out) != "talker" {
			t.Errorf("exec hostname: %q", out)
		}
		if r := c.TryKubectl("exec", "talker", "--", "/bin/busybox", "sh", "-c", "exit 7"); r.Code != 7 {
			t.Errorf("exec of exit 7 ended with %d: %s", r.Code, r.Stderr)
		}
		if r := c.KubectlStdin("through stdin", "exec", "-i", "talker", "--", "/bin/busybox", "cat"); r.Stdout != "through stdin" {
			t.Errorf("exec -i: %q %s", r.Stdout, r.Stderr)
		}
	})
	t.Run("environment, volumes, service account", func(t *testing.T) {
		c.Kubectl("create", "configmap", "conf", "--from-literal=greeting=hello")
		c.Kubectl("create", "secret", "generic", "sec", "--from-literal=word=hush")
		c.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: vols}
spec:
  restartPolicy: Never
  volumes:
  - {name: conf, configMap: {name: conf}}
  - {name: sec, secret: {secretName: sec, defaultMode: 0400}}
  - {name: tmp, emptyDir: {}}
  - {name: mem, emptyDir: {medium: Memory}}
  containers:
  - name: c
    image: ` + busybox + `
    command: ["/bin/busybox", "sh", "-c"]
    args:
    - |
      set -e
      echo greeting=$(cat /conf/greeting) word=$(cat /sec/word) env=$GREETING/$WORD node=$NODE ip=$IP cpu=$CPU expanded=$(EXPANDED)
      echo x > /tmp1/x; echo y > /mem/y; cat /tmp1/x /mem/y
      mount | grep -c " /mem type tmpfs"
      ls /var/run/secrets/kubernetes.io/serviceaccount
      stat -Lc %a /sec/word
    env:
    - {name: GREETING, valueFrom: {configMapKeyRef: {name: conf, key: greeting}}}
    - {name: WORD, valueFrom: {secretKeyRef: {name: sec, key: word}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
    - {name: EXPANDED, value: "$(GREETING)-$(WORD)"}
    resources: {limits: {cpu: 100m, memory: 32Mi}}
    volumeMounts:
    - {name: conf, mountPath: /conf}
    - {name: sec, mountPath: /sec}
    - {name: tmp, mountPath: /tmp1}
    - {name: mem, mountPath: /mem}
`)
		c.Kubectl("wait", "pod/vols", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
		out := c.Kubectl("logs", "vols")
		for _, want := range []string{"greeting=hello word=hush env=hello/hush", "cpu=100", "expanded=hello-hush", "x\ny\n1\n", "ca.crt\nnamespace\ntoken\n", "400"} {
			if !strings.Contains(out, want) {
				t.Errorf("the pod did not see %q:\n%s", want, out)
			}
		}
	})
	t.Run("a pod reaches the API with its token", func(t *testing.T) {
		c.Kubectl("create", "clusterrolebinding", "view-default", "--clusterrole=view", "--serviceaccount=default:default")
		c.Apply(pod("caller", `
    command: ["/bin/busybox", "sleep", "3600"]`))
		c.Kubectl("wait", "pod/caller", "--for=condition=Ready", "--timeout=60s")
		token := c.Kubectl("exec", "caller", "--", "/bin/busybox", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
		out, err := c.Curl("--insecure", "-H", "Authorization: Bearer "+token, c.URL+"/api/v1/namespaces/default/pods/caller")
		if err != nil || !strings.Contains(out, `"name": "caller"`) {
			t.Errorf("with the pod's token: %v\n%s", err, out)
		}
		// The address that the environment promises leads to the API server, from inside the pod.
		if r := c.TryKubectl("exec", "caller", "--", "/bin/busybox", "sh", "-c", "nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT < /dev/null"); r.Code != 0 {
			t.Errorf("connecting to the API from a pod: %d %s", r.Code, r.Stderr)
		}
	})
	t.Run("cluster DNS", func(t *testing.T) {
		out := c.Kubectl("exec", "caller", "--", "/bin/busybox", "nslookup", "store.default.svc.cluster.local")
		ip := c.Kubectl("get", "service", "store", "-o", "jsonpath={.spec.clusterIP}")
		if !strings.Contains(out, ip) {
			t.Errorf("nslookup does not answer %s:\n%s", ip, out)
		}
		if out := c.Kubectl("exec", "caller", "--", "/bin/busybox", "cat", "/etc/resolv.conf"); !strings.Contains(out, "search default.svc.cluster.local svc.cluster.local cluster.local") {
			t.Errorf("resolv.conf:\n%s", out)
		}
	})
	t.Run("a network policy shuts the store, and its deletion opens it", func(t *testing.T) {
		reach := func() harness.Result {
			return c.TryKubectl("exec", "caller", "--", "/bin/busybox", "sh", "-c", "nc -w 2 store 80 < /dev/null")
		}
		c.Apply("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: shut}\nspec: {podSelector: {matchLabels: {app: store}}, policyTypes: [Ingress]}")
		harness.Eventually(t, soon, "the store to be shut", func() error {
			if r := reach(); r.Code == 0 {
				return fmt.Errorf("it still answers")
			}
			return nil
		})
		c.Kubectl("delete", "networkpolicy", "shut")
		harness.Eventually(t, soon, "the store to be open again", func() error {
			if r := reach(); r.Code != 0 {
				return fmt.Errorf("nc ended with %d: %s", r.Code, r.Stderr)
			}
			return nil
		})
	})
	t.Run("probes: liveness restarts, readiness withholds traffic", func(t *testing.T) {
		c.Apply(pod("moody", `
    command: ["/bin/busybox", "sh", "-c", "touch /tmp/alive; sleep 3600"]
    livenessProbe: {exec: {command: ["/bin/busybox", "test", "-f", "/tmp/alive"]}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 5}
    readinessProbe: {exec: {command: ["/bin/busybox", "test", "-f", "/tmp/ready"]}, periodSeconds: 1, timeoutSeconds: 5}
    volumeMounts: [{name: tmp, mountPath: /tmp}]
  volumes: [{name: tmp, emptyDir: {}}]`))
		c.Kubectl("wait", "pod/moody", "--for=jsonpath={.status.phase}=Running", "--timeout=60s")
		c.Kubectl("label", "pod", "moody", "app=moody")
		c.Kubectl("expose", "pod", "moody", "--port=80")
		harness.Eventually(t, soon, "the unready endpoint", func() error {
			out := c.Kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=moody", "-o", "jsonpath={.items[*].endpoints[*].conditions.ready}")
			if out != "false" {
				return fmt.Errorf("ready: %q", out)
			}
			return nil
		})
		c.Kubectl("exec", "moody", "--", "/bin/busybox", "touch", "/tmp/ready")
		c.Kubectl("wait", "pod/moody", "--for=condition=Ready", "--timeout=60s")
		c.Kubectl("exec", "moody", "--", "/bin/busybox", "rm", "/tmp/alive")
		harness.Eventually(t, soon, "a restart", func() error {
			if out := c.Kubectl("get", "pod", "moody", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"); out == "0" || out == "" {
				return fmt.Errorf("restarts: %q", out)
			}
			return nil
		})
	})
	t.Run("restart policy and back-off", func(t *testing.T) {
		c.Apply(pod("crasher", `
    command: ["/bin/busybox", "sh", "-c", "echo about to fail; exit 3"]`))
		harness.Eventually(t, soon, "CrashLoopBackOff", func() error {
			out := c.Kubectl("get", "pod", "crasher", "-o", "jsonpath={.status.containerStatuses[0].state.waiting.reason}/{.status.containerStatuses[0].lastState.terminated.exitCode}")
			if out != "CrashLoopBackOff/3" {
				return fmt.Errorf("the state is %q", out)
			}
			return nil
		})
		if out := c.Kubectl("logs", "crasher", "--previous"); !strings.Contains(out, "about to fail") {
			t.Errorf("the previous log: %q", out)
		}
		c.Kubectl("delete", "pod", "crasher", "--grace-period=1")
	})
	t.Run("an image that does not exist", func(t *testing.T) {
		c.Kubectl("run", "noimage", "--image=shiplog.local/nothing:1.0", "--image-pull-policy=Never")
		harness.Eventually(t, soon, "ErrImageNeverPull", func() error {
			out := c.Kubectl("get", "pod", "noimage", "-o", "jsonpath={.status.containerStatuses[0].state.waiting.reason}: {.status.containerStatuses[0].state.waiting.message}")
			if !strings.Contains(out, "ErrImageNeverPull") || !strings.Contains(out, "shiplog.local/nothing:1.0") {
				return fmt.Errorf("waiting: %q", out)
			}
			return nil
		})
		c.Kubectl("delete", "pod", "noimage", "--grace-period=0", "--force")
	})
	t.Run("limits stand in cgroups", func(t *testing.T) {
		c.Apply(pod("small", `
    command: ["/bin/busybox", "sh", "-c", "tail /dev/zero"]
    resources: {limits: {memory: 16Mi}}
  restartPolicy: Never`))
		c.Kubectl("wait", "pod/small", "--for=jsonpath={.status.phase}=Failed", "--timeout=60s")
		if out := c.Kubectl("get", "pod", "small", "-o", "jsonpath={.status.containerStatuses[0].state.terminated.reason}"); out != "OOMKilled" {
			t.Errorf("the container that wanted too much memory ended as %q", out)
		}
	})
	t.Run("containers outlive kill -9 of what runs them", func(t *testing.T) {
		identity := func() string {
			return c.Kubectl("get", "pod", "talker", "caller", "-o", "jsonpath={range .items[*]}{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount} {.status.podIP}\n{end}")
		}
		ids := identity()
		c.Kill()
		if _, err := c.Curl("http://127.0.0.1:30001/"); err != nil {
			t.Errorf("the application does not answer while the control plane is away: %v", err)
		}
		c.Launch()
		if now := identity(); now != ids {
			t.Errorf("after kill -9 the containers are\n%s, before they were\n%s", now, ids)
		}
		if _, err := c.Curl("http://127.0.0.1:30001/"); err != nil {
			t.Errorf("the application does not answer after the restart: %v", err)
		}
		if out := c.Kubectl("exec", "caller", "--", "/bin/busybox", "echo", "alive"); out != "alive\n" {
			t.Errorf("exec into a container that was taken over: %q", out)
		}
		c.Kubectl("delete", "pod", "talker", "--grace-period=1", "--timeout=60s")
	})
	t.Run("down leaves nothing behind", func(t *testing.T) {
		var pods corev1.PodList
		c.Get(&pods, "pods", "-A")
		c.Stop()
		if out, err := c.InNetNS(harness.Binary(t), "down", "--data-dir", c.Dir).CombinedOutput(); err != nil {
			t.Fatalf("shiplog down: %v\n%s", err, out)
		}
		if left := leftBehind(t, c.Dir, pods.Items); left != "" {
			t.Errorf("left behind:\n%s", left)
		}
		for _, args := range [][]string{{"iptables-save"}, {"ip", "-o", "link"}} {
			out, err := c.InNetNS(args[0], args[1:]...).CombinedOutput()
			if err != nil {
				t.Fatal(err)
			}
			if regexp.MustCompile(`(?i)shiplog`).Match(out) {
				t.Errorf("%v still shows:\n%s", args, out)
			}
		}
	})
}

func pod(name, rest string) string {
	return `
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: ` + busybox + rest + "\n"
}

// leftBehind lists what a node has left on the machine: processes, mounts, network namespaces, control groups.
func leftBehind(t *testing.T, dir string, pods []corev1.Pod) string {
	t.Helper()
	var b strings.Builder
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(mounts), "\n") {
		if strings.Contains(line, dir) {
			fmt.Fprintln(&b, "mount", line)
		}
	}
	// A zombie is its parent's to bury, which is the machine's init after a kill -9; it has no command line any more.
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range commands {
		if line, err := os.ReadFile(file); err == nil && bytes.Contains(line, []byte(dir)) {
			fmt.Fprintln(&b, "process", file, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	namespaces, err := filepath.Glob("/run/netns/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range namespaces {
		for _, p := range pods {
			if strings.Contains(ns, string(p.UID)) {
				fmt.Fprintln(&b, "network namespace", ns)
			}
		}
	}
	var node struct{ CgroupRoot string }
	settings, err := os.ReadFile(filepath.Join(dir, "node", "node.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(settings, &node); err != nil || node.CgroupRoot == "" {
		t.Fatalf("the node's settings name no control group: %v", err)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
		groups, err := filepath.Glob(pattern + node.CgroupRoot)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range groups {
			fmt.Fprintln(&b, "control group", g)
		}
	}
	return b.String()
}
