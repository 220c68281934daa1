package api_test

import (
	"strings"
	"testing"

	"github.com/shiplog/shiplog/api/apitest"
)

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: example.org/web:1, ports: [{containerPort: 8080}]}]}
`

const service = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30001}]}
`

func contains(t *testing.T, what, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s lacks %q:\n%s", what, w, text)
		}
	}
}

func TestKubectl(t *testing.T) {
	c := apitest.Start(t)
	k := func(args ...string) string { t.Helper(); return c.MustKubectl(t, args...) }

	contains(t, "version", k("get", "--raw", "/version"), "v1.37.2+shiplog")
	contains(t, "api-resources", k("api-resources"), "deployments", "replicationcontrollers", "ipaddresses", "leases")
	contains(t, "api-versions", k("api-versions"), "apps/v1", "networking.k8s.io/v1", "autoscaling/v2", "events.k8s.io/v1")
	contains(t, "namespaces", k("get", "ns"), "default", "kube-system", "kube-public", "kube-node-lease", "Active")
	contains(t, "services", k("get", "svc", "-A"), "10.96.0.1", "10.96.0.10", "kube-dns", "53/UDP,53/TCP")
	contains(t, "explain", k("explain", "pods.spec.containers"), "image", "FIELDS")

	contains(t, "apply", c.MustKubectlIn(t, deployment, "apply", "-f", "-"), "deployment.apps/web created")
	contains(t, "apply again", c.MustKubectlIn(t, deployment, "apply", "-f", "-"), "unchanged")
	more := strings.ReplaceAll(deployment, "web:1", "web:2")
	contains(t, "apply a change", c.MustKubectlIn(t, more, "apply", "-f", "-"), "configured")
	contains(t, "diffless dry run", c.MustKubectlIn(t, deployment, "apply", "--dry-run=server", "-f", "-"), "server dry run")
	contains(t, "wide", k("get", "deploy", "web", "-o", "wide"), "example.org/web:2", "app=web")
	contains(t, "server-side apply", c.MustKubectlIn(t, more, "apply", "--server-side", "--force-conflicts", "-f", "-"), "serverside-applied")
	contains(t, "managed fields", k("get", "deploy", "web", "-o", "yaml", "--show-managed-fields"), "operation: Apply", "manager: kubectl")
	contains(t, "scale", k("scale", "deploy/web", "--replicas=5"), "scaled")
	contains(t, "replicas", k("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"), "5")
	contains(t, "label", k("label", "deploy/web", "tier=front"), "labeled")
	contains(t, "selector", k("get", "deploy", "-l", "tier=front", "-o", "name"), "deployment.apps/web")
	if out := k("get", "deploy", "-l", "tier=back", "-o", "name"); out != "" {
		t.Errorf("a selector that selects nothing gave %q", out)
	}
	contains(t, "patch", k("patch", "deploy/web", "--type=json", "-p", `[{"op":"replace","path":"/spec/replicas","value":1}]`), "patched")
	contains(t, "set image", k("set", "image", "deploy/web", "c=example.org/web:3"), "image updated")
	contains(t, "describe", k("describe", "deploy", "web"), "example.org/web:3", "1 desired")
	contains(t, "annotate", k("annotate", "deploy/web", "note=x"), "annotated")

	contains(t, "service", c.MustKubectlIn(t, service, "create", "-f", "-"), "created")
	contains(t, "node port", k("get", "svc", "web"), "80:30001/TCP")
	contains(t, "quick objects", k("create", "configmap", "cm", "--from-literal=a=b"), "created")
	contains(t, "secret", k("create", "secret", "generic", "s", "--from-literal=a=b"), "created")
	contains(t, "auth", k("auth", "can-i", "delete", "pods"), "yes")
	contains(t, "delete", k("delete", "deploy/web", "svc/web", "cm/cm"), "deleted")
	contains(t, "get nothing", k("get", "deploy", "--ignore-not-found", "-o", "name"), "")
}

func TestKubectlErrors(t *testing.T) {
	c := apitest.Start(t)
	for _, tt := range []struct {
		name, stdin string
		args        []string
		want        []string
	}{
		{"not found", "", []string{"get", "pod", "nope"}, []string{`pods "nope" not found`}},
		{"unknown kind", "", []string{"get", "sails"}, []string{`doesn't have a resource type "sails"`}},
		{
			"bad manifest", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {}\n",
			[]string{"create", "-f", "-"},
			[]string{"spec.containers", "Required value"},
		},
		{
			"unknown field", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: p}\ndate: {}\n",
			[]string{"create", "-f", "-"},
			[]string{`unknown field "date"`},
		},
		{
			"bad name", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 'A b'}\n",
			[]string{"create", "-f", "-"},
			[]string{"metadata.name", "Invalid value"},
		},
		{
			"no namespace", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: nope}\n",
			[]string{"create", "-f", "-"},
			[]string{`namespaces "nope" not found`},
		},
		{
			"exists", "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n",
			[]string{"create", "-f", "-"},
			[]string{`namespaces "default" already exists`},
		},
		{"protected", "", []string{"delete", "ns", "default"}, []string{"forbidden"}},
		{
			"node port taken", service + "---\n" + strings.ReplaceAll(service, "name: web}", "name: web2}"),
			[]string{"create", "-f", "-"},
			[]string{"provided port is already allocated"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.KubectlIn(t, tt.stdin, tt.args...)
			if err == nil {
				t.Fatal("there was no error")
			}
			contains(t, "the error", err.Error(), tt.want...)
		})
	}
	t.Run("immutable field", func(t *testing.T) {
		c.MustKubectlIn(t, deployment, "create", "-f", "-")
		_, err := c.Kubectl(t, "patch", "deploy/web", "-p", `{"spec":{"selector":{"matchLabels":{"app":"other"}}}}`)
		if err == nil {
			t.Fatal("there was no error")
		}
		contains(t, "the error", err.Error(), "field is immutable")
	})
}
