package e2e

import (
	"bufio"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/test/harness"
)

const webDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: example.invalid/web:1.0
        ports: [{containerPort: 8080}]
        resources: {requests: {cpu: 10m, memory: 16Mi}}
`

// wait for kubectl's own conditions: generous, they bound failures only.
const soon = 60 * time.Second

// TestKubectl walks through what people do with kubectl, on simulated nodes.
func TestKubectl(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Args: []string{"--no-node", "--sim-nodes", "3"}})

	t.Run("nodes are ready", func(t *testing.T) {
		out := c.Kubectl("get", "nodes", "-o", "wide")
		if strings.Count(out, " Ready ") != 3 {
			t.Fatalf("want three Ready nodes, got:\n%s", out)
		}
	})
	t.Run("create, apply and get in all forms", func(t *testing.T) {
		c.Kubectl("create", "configmap", "settings", "--from-literal=colour=green")
		c.Apply(webDeployment)
		c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
		if out := c.Kubectl("get", "deployment", "web"); !strings.Contains(out, "3/3") {
			t.Errorf("the columns of a deployment do not say 3/3:\n%s", out)
		}
		if out := c.Kubectl("get", "pods", "-l", "app=web", "-o", "wide"); strings.Count(out, "Running") != 3 || !strings.Contains(out, "NOMINATED NODE") {
			t.Errorf("want three running pods with the wide columns:\n%s", out)
		}
		if out := c.Kubectl("get", "pods", "--field-selector", "status.phase=Pending"); strings.TrimSpace(out) != "" {
			t.Errorf("no pod is pending, but the field selector finds:\n%s", out)
		}
		if out := c.Kubectl("get", "configmap", "settings", "-o", "yaml"); !strings.Contains(out, "colour: green") {
			t.Errorf("-o yaml does not show the data:\n%s", out)
		}
		if out := c.Kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}"); len(strings.Fields(out)) != 3 {
			t.Errorf("want three node names, got %q", out)
		}
	})
	t.Run("describe tells the story", func(t *testing.T) {
		out := c.Kubectl("describe", "deployment", "web")
		for _, want := range []string{"ScalingReplicaSet", "StrategyType:", "NewReplicaSet:"} {
			if !strings.Contains(out, want) {
				t.Errorf("describe does not mention %s:\n%s", want, out)
			}
		}
		pod := strings.Fields(c.Kubectl("get", "pods", "-l", "app=web", "-o", "name"))[0]
		if out := c.Kubectl("describe", pod); !strings.Contains(out, "Successfully assigned") {
			t.Errorf("describe does not show the Scheduled event:\n%s", out)
		}
	})
	t.Run("watch sees changes as they come", func(t *testing.T) {
		cmd := c.Command("kubectl", "get", "configmaps", "-w", "--watch-only", "-o", "name")
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		seen := make(chan string, 64)
		go func() {
			for lines := bufio.NewScanner(stdout); lines.Scan(); {
				seen <- lines.Text()
			}
		}()
		// The watch may open after a first creation, so create until one is seen.
		n := 0
		harness.Eventually(t, soon, "the watch to show a new config map", func() error {
			n++
			c.Kubectl("create", "configmap", fmt.Sprintf("watched-%d", n))
			select {
			case line := <-seen:
				if !strings.HasPrefix(line, "configmap/watched-") {
					return fmt.Errorf("the watch shows %q", line)
				}
				return nil
			default:
				return fmt.Errorf("nothing seen yet")
			}
		})
	})
	t.Run("scale", func(t *testing.T) {
		c.Kubectl("scale", "deployment/web", "--replicas=5")
		c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
		if out := c.Kubectl("get", "pods", "-l", "app=web", "-o", "name"); len(strings.Fields(out)) != 5 {
			t.Errorf("want five pods:\n%s", out)
		}
		c.Kubectl("scale", "deployment/web", "--replicas=2")
		harness.Eventually(t, soon, "two pods to be left", func() error {
			if n := len(strings.Fields(c.Kubectl("get", "pods", "-l", "app=web", "-o", "name"))); n != 2 {
				return fmt.Errorf("there are %d", n)
			}
			return nil
		})
	})
	t.Run("rollout, history, undo, pause", func(t *testing.T) {
		c.Kubectl("set", "image", "deployment/web", "web=example.invalid/web:2.0")
		c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
		if out := c.Kubectl("rollout", "history", "deployment/web"); !strings.Contains(out, "\n1 ") || !strings.Contains(out, "\n2 ") {
			t.Errorf("want revisions 1 and 2:\n%s", out)
		}
		c.Kubectl("rollout", "undo", "deployment/web")
		c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
		if image := c.Kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"); image != "example.invalid/web:1.0" {
			t.Errorf("after undo the image is %s", image)
		}
		c.Kubectl("rollout", "pause", "deployment/web")
		c.Kubectl("set", "image", "deployment/web", "web=example.invalid/web:3.0")
		var d appsv1.Deployment
		harness.Eventually(t, soon, "the paused deployment to be observed", func() error {
			c.Get(&d, "deployment", "web")
			if d.Status.ObservedGeneration != d.Generation {
				return fmt.Errorf("observed generation %d of %d", d.Status.ObservedGeneration, d.Generation)
			}
			return nil
		})
		var pods corev1.PodList
		c.Get(&pods, "pods", "-l", "app=web")
		for _, p := range pods.Items {
			if p.Spec.Containers[0].Image != "example.invalid/web:1.0" {
				t.Errorf("a paused deployment rolled out %s", p.Spec.Containers[0].Image)
			}
		}
		c.Kubectl("rollout", "resume", "deployment/web")
		c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	})
	t.Run("label, annotate, patch", func(t *testing.T) {
		c.Kubectl("label", "configmap", "settings", "tier=front")
		c.Kubectl("annotate", "configmap", "settings", "note=hello")
		c.Kubectl("patch", "configmap", "settings", "--type=merge", "-p", `{"data":{"size":"big"}}`)
		c.Kubectl("patch", "configmap", "settings", "--type=json", "-p", `[{"op":"remove","path":"/data/colour"}]`)
		if out := c.Kubectl("get", "configmap", "-l", "tier=front", "-o", "jsonpath={.items[0].data}"); out != `{"size":"big"}` {
			t.Errorf("the data is %s", out)
		}
		for manager, data := range map[string]string{"one": "a: '1'", "other": "b: '2'"} {
			manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {" + data + "}"
			if r := c.KubectlStdin(manifest, "apply", "--server-side", "--field-manager="+manager, "-f", "-"); r.Code != 0 {
				t.Errorf("server-side apply by %s: %s", manager, r.Stderr)
			}
		}
		if out := c.Kubectl("get", "configmap", "ssa", "-o", "jsonpath={.data}"); out != `{"a":"1","b":"2"}` {
			t.Errorf("two appliers' data is %s", out)
		}
	})
	t.Run("replication controllers: scale, relabel a pod out", func(t *testing.T) {
		c.Apply(`
apiVersion: v1
kind: ReplicationController
metadata: {name: rc}
spec:
  replicas: 2
  selector: {app: rc}
  template:
    metadata: {labels: {app: rc}}
    spec: {containers: [{name: c, image: example.invalid/c:1}]}
`)
		harness.Eventually(t, soon, "two ready replicas", func() error {
			if out := c.Kubectl("get", "rc", "rc", "-o", "jsonpath={.status.readyReplicas}"); out != "2" {
				return fmt.Errorf("ready: %q", out)
			}
			return nil
		})
		pod := strings.Fields(c.Kubectl("get", "pods", "-l", "app=rc", "-o", "name"))[0]
		c.Kubectl("label", "--overwrite", pod, "app=debug")
		harness.Eventually(t, soon, "a replacement for the pod that was relabelled", func() error {
			if n := len(strings.Fields(c.Kubectl("get", "pods", "-l", "app=rc", "-o", "name"))); n != 2 {
				return fmt.Errorf("%d pods match", n)
			}
			if owners := c.Kubectl("get", pod, "-o", "jsonpath={.metadata.ownerReferences}"); owners != "" {
				return fmt.Errorf("the relabelled pod still has the owner %s", owners)
			}
			return nil
		})
	})
	t.Run("delete with orphans, and cascading", func(t *testing.T) {
		c.Kubectl("delete", "rc", "rc", "--cascade=orphan")
		var pods corev1.PodList
		c.Get(&pods, "pods", "-l", "app=rc")
		if len(pods.Items) != 2 {
			t.Errorf("orphaned pods: %d", len(pods.Items))
		}
		c.Kubectl("delete", "deployment", "web", "--cascade=foreground")
		if out := c.Kubectl("get", "pods,rs", "-l", "app=web", "-o", "name"); strings.TrimSpace(out) != "" {
			t.Errorf("a foreground deletion left:\n%s", out)
		}
		c.Kubectl("create", "deployment", "gone", "--image=example.invalid/x", "--replicas=2")
		c.Kubectl("rollout", "status", "deployment/gone", "--timeout=60s")
		c.Kubectl("delete", "deployment", "gone")
		harness.Eventually(t, soon, "the dependents to be collected", func() error {
			if out := c.Kubectl("get", "pods,rs", "-l", "app=gone", "-o", "name"); strings.TrimSpace(out) != "" {
				return fmt.Errorf("still there: %s", out)
			}
			return nil
		})
	})
	t.Run("namespaces go with all they hold", func(t *testing.T) {
		c.Kubectl("create", "namespace", "short-lived")
		c.Kubectl("-n", "short-lived", "create", "deployment", "inner", "--image=example.invalid/x")
		c.Kubectl("-n", "short-lived", "create", "secret", "generic", "s", "--from-literal=a=b")
		harness.Eventually(t, soon, "the namespace's service account and root certificate", func() error {
			if r := c.TryKubectl("-n", "short-lived", "get", "serviceaccount/default", "configmap/kube-root-ca.crt"); r.Code != 0 {
				return fmt.Errorf("%s", r.Stderr)
			}
			return nil
		})
		c.Kubectl("delete", "namespace", "short-lived", "--timeout=60s")
		if r := c.TryKubectl("get", "namespace", "short-lived"); !strings.Contains(r.Stderr, "NotFound") {
			t.Errorf("the namespace is still there: %s%s", r.Stdout, r.Stderr)
		}
	})
	t.Run("explain, api-resources, auth can-i, version", func(t *testing.T) {
		if out := c.Kubectl("explain", "deployment.spec.strategy"); !strings.Contains(out, "rollingUpdate") {
			t.Errorf("explain:\n%s", out)
		}
		out := c.Kubectl("api-resources", "-o", "name")
		for _, want := range []string{"pods", "deployments.apps", "networkpolicies.networking.k8s.io", "cronjobs.batch", "horizontalpodautoscalers.autoscaling"} {
			if !strings.Contains("\n"+out, "\n"+want+"\n") {
				t.Errorf("api-resources does not list %s", want)
			}
		}
		if r := c.TryKubectl("auth", "can-i", "delete", "nodes", "--as=system:serviceaccount:default:default"); r.Code == 0 {
			t.Errorf("the default service account may delete nodes: %s", r.Stdout)
		}
		if out := c.Kubectl("version"); !strings.Contains(out, "Server Version: v1.37") {
			t.Errorf("version:\n%s", out)
		}
	})
	t.Run("services select, endpoints follow", func(t *testing.T) {
		c.Kubectl("create", "deployment", "backend", "--image=example.invalid/x", "--replicas=2", "--port=8080")
		c.Kubectl("expose", "deployment", "backend", "--port=80", "--target-port=8080")
		harness.Eventually(t, soon, "two ready endpoints", func() error {
			out := c.Kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=backend", "-o", "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}")
			if len(strings.Fields(out)) != 2 {
				return fmt.Errorf("endpoints: %q", out)
			}
			return nil
		})
		c.Kubectl("delete", "service,deployment", "backend")
	})
	t.Run("dry run changes nothing", func(t *testing.T) {
		c.Kubectl("create", "configmap", "never", "--dry-run=server")
		if r := c.TryKubectl("get", "configmap", "never"); r.Code == 0 {
			t.Error("a dry run left an object behind")
		}
	})
}

// TestBadInput: every mistake gets an error that says what is wrong.
func TestBadInput(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Args: []string{"--no-node"}})
	for name, tc := range map[string]struct {
		manifest string
		args     []string
		want     []string
	}{
		"a field of the wrong type": {
			manifest: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: {b: c}}",
			args:     []string{"apply", "-f", "-"}, want: []string{"ConfigMap.data", "string"},
		},
		"an unknown field": {
			manifest: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatas: {a: b}",
			args:     []string{"apply", "-f", "-"}, want: []string{"datas"},
		},
		"an unknown kind": {
			manifest: "apiVersion: example.invalid/v1\nkind: Ship\nmetadata: {name: x}",
			args:     []string{"apply", "-f", "-"}, want: []string{"Ship", "example.invalid/v1"},
		},
		"a manifest that does not validate": {
			manifest: "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: Bad_Name}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: []}}}",
			args:     []string{"apply", "-f", "-"}, want: []string{"metadata.name", "spec.template.spec.containers", "selector"},
		},
		"an immutable field": {
			args: []string{"patch", "service", "kubernetes", "-p", `{"spec":{"clusterIP":"10.96.0.77"}}`}, want: []string{"clusterIP", "may not change once set"},
		},
		"an object that is not there": {
			args: []string{"get", "pod", "nobody"}, want: []string{`pods "nobody" not found`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := c.KubectlStdin(tc.manifest, tc.args...)
			if r.Code == 0 {
				t.Fatalf("was accepted: %s", r.Stdout)
			}
			for _, want := range tc.want {
				if !strings.Contains(r.Stderr, want) {
					t.Errorf("the error does not mention %q: %s", want, r.Stderr)
				}
			}
		})
	}
}
