package api_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/api"
	"github.com/shiplog/shiplog/api/apitest"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/keystore"
	"github.com/shiplog/shiplog/internal/canary"
)

// canaries are the values that a test hides: those of Secrets that are there at the end, those that were superseded or deleted, and those of
// requests that were refused.
type canaries struct{ living, gone, refused []string }

func newCanary() string { return "canary-" + rand.Text() }

func (c *canaries) all() []string {
	return append(append(append([]string(nil), c.living...), c.gone...), c.refused...)
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// hide writes Secrets in every way there is, and has requests refused that hold values.
func hide(t *testing.T, c *apitest.Cluster) *canaries {
	t.Helper()
	cs := &canaries{}
	living := func() string { v := newCanary(); cs.living = append(cs.living, v); return v }
	gone := func() string { v := newCanary(); cs.gone = append(cs.gone, v); return v }
	refused := func() string { v := newCanary(); cs.refused = append(cs.refused, v); return v }
	ctx := timeout(t)
	secrets := c.Client.CoreV1().Secrets("default")
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	apply := func(name, field, value string, args ...string) {
		t.Helper()
		manifest := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\n%s: {k: %s}\n", name, field, value)
		c.MustKubectlIn(t, manifest, append([]string{"apply", "-f", "-"}, args...)...)
	}

	c.MustKubectl(t, "create", "secret", "generic", "created", "--from-literal=k="+living())
	c.MustKubectl(t, "create", "secret", "generic", "deleted", "--from-literal=k="+gone())
	c.MustKubectl(t, "delete", "secret", "deleted")
	apply("applied", "stringData", gone())
	apply("applied", "stringData", gone())
	apply("applied", "data", b64(living()))
	apply("applied-gone", "stringData", gone())
	c.MustKubectl(t, "delete", "secret", "applied-gone")
	apply("server-side", "stringData", gone(), "--server-side")
	apply("server-side", "stringData", living(), "--server-side", "--force-conflicts")
	must(secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "patched"}, Data: map[string][]byte{"k": []byte(gone())}}, metav1.CreateOptions{}))
	must(secrets.Patch(ctx, "patched", types.MergePatchType, fmt.Appendf(nil, `{"data":{"k":%q}}`, b64(gone())), metav1.PatchOptions{}))
	must(secrets.Patch(ctx, "patched", types.JSONPatchType, fmt.Appendf(nil, `[{"op":"replace","path":"/data/k","value":%q}]`, b64(gone())), metav1.PatchOptions{}))
	must(secrets.Patch(ctx, "patched", types.StrategicMergePatchType, fmt.Appendf(nil, `{"stringData":{"k":%q}}`, living()), metav1.PatchOptions{}))
	c.MustKubectl(t, "label", "secret", "patched", "a=b")
	s, err := secrets.Get(ctx, "created", metav1.GetOptions{})
	must(s, err)
	s.Data["large"] = append([]byte(living()), make([]byte, 100_000)...)
	must(secrets.Update(ctx, s, metav1.UpdateOptions{}))
	must(secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "docker"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{"r":{"auth":%q}}}`, b64(living()))},
	}, metav1.CreateOptions{}))
	c.MustKubectlIn(t, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: dry}\nstringData: {k: %s}\n", refused()), "apply", "--dry-run=server", "-f", "-")

	raw := c.Client.CoreV1().RESTClient()
	for what, request := range map[string]struct{ contentType, path, body string }{
		"no base64":        {"application/json", "secrets", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"},"data":{"k":"` + refused() + `"}}`},
		"a text for a map": {"application/json", "secrets", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"},"data":"` + refused() + `"}`},
		"the same in YAML": {"application/yaml", "secrets", "kind: Secret\napiVersion: v1\nmetadata: {name: x}\ndata: " + refused()},
		"no YAML":          {"application/yaml", "secrets", "kind: Secret\n\tdata: [" + refused()},
		"an unknown field": {"application/json", "secrets?fieldValidation=Strict", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"},"` + refused() + `":{}}`},
		"a bad type":       {"application/json", "secrets", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"},"type":"kubernetes.io/tls","data":{"k":"` + b64(refused()) + `"}}`},
		"a bad key":        {"application/json", "secrets", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"},"stringData":{"` + refused() + ` ":"v"}}`},
		"bad docker JSON":  {"application/json", "secrets", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"},"type":"kubernetes.io/dockerconfigjson","stringData":{".dockerconfigjson":"` + refused() + `"}}`},
		"taken":            {"application/json", "secrets", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"created"},"stringData":{"k":"` + refused() + `"}}`},
		"too large":        {"application/json", "secrets", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"},"stringData":{"k":"` + refused() + strings.Repeat("x", 1<<20) + `"}}`},
	} {
		err := raw.Post().AbsPath("/api/v1/namespaces/default/"+strings.Split(request.path, "?")[0]).Param("fieldValidation", "Strict").
			SetHeader("Content-Type", request.contentType).Body([]byte(request.body)).Do(ctx).Error()
		if err == nil {
			t.Errorf("%s: nothing was refused", what)
		}
	}
	if err := raw.Patch(types.ApplyYAMLPatchType).AbsPath("/api/v1/namespaces/default/secrets/x").Param("fieldManager", "m").
		Body([]byte("data: " + refused())).Do(ctx).Error(); err == nil {
		t.Error("an apply without a kind was not refused")
	}
	return cs
}

// keysOf copies the files of a key store and returns every key that they hold.
func keysOf(t *testing.T, dir string) [][]byte {
	t.Helper()
	copied := t.TempDir()
	for _, name := range []string{keystore.StoreName, keystore.KEKName} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(copied, name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	store, err := keystore.Open(copied, keystore.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var keys [][]byte
	for _, id := range store.IDs() {
		key, ok := store.DataKey(id)
		if !ok {
			t.Fatalf("key %s cannot be unwrapped", id)
		}
		keys = append(keys, key)
	}
	return keys
}

// lines is where the server's log goes.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// TestCanaries: of what was in Secrets nothing is to be read in what the control plane leaves behind, and with the key store at hand nothing but what
// is in Secrets now. The same search is shown to find what is there when nothing is sealed, and what can be had when no key is destroyed.
func TestCanaries(t *testing.T) {
	for name, sealing := range map[string]struct{ off, kept bool }{"sealed": {}, "without sealing": {off: true}, "no key destroyed": {kept: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := &lines{}
			c := apitest.Start(t, apitest.WithHistory, func(c *api.Config) {
				c.Logger = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
				if sealing.off {
					c.Keys = nil
				}
			})
			if sealing.kept {
				defer c.Keys.Hold()()
			}
			cs := hide(t, c)
			if !sealing.off && !sealing.kept {
				settled(t, c)
			}
			keys := keysOf(t, filepath.Join(c.Dir, "keys"))
			if sealing.kept { // what a thief would have taken before
				var store bytes.Buffer
				if err := c.Keys.Copy(&store); err != nil {
					t.Fatal(err)
				}
			}
			c.Stop()
			log, err := embedded.Open(filepath.Join(c.Dir, "log"), embedded.Options{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			inFiles, err := canary.InFiles(cs.all(), c.Dir)
			if err != nil {
				t.Fatal(err)
			}
			inLog, err := canary.InLog(t.Context(), cs.all(), log)
			if err != nil {
				t.Fatal(err)
			}
			said := canary.InBytes(cs.all(), "what the server said", out.text.Bytes())
			readable := append(append(inFiles, inLog...), said...)
			lost, payloads, err := canary.Recoverable(t.Context(), append(cs.gone, cs.refused...), log, keys)
			if err != nil {
				t.Fatal(err)
			}
			there, _, err := canary.Recoverable(t.Context(), cs.living, log, keys)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case sealing.off:
				if len(inLog) < len(cs.living)+len(cs.gone) {
					t.Errorf("the search finds too little when nothing is sealed: %v", inLog)
				}
			case sealing.kept:
				if len(readable) > 0 || len(lost) < len(cs.gone) {
					t.Errorf("readable: %v; recoverable with every key that ever was: %v, want all of %v", readable, lost, cs.gone)
				}
			default:
				if len(readable) > 0 {
					t.Errorf("to be read: %v", readable)
				}
				if len(lost) > 0 {
					t.Errorf("recoverable after they were superseded or deleted: %v", lost)
				}
				if payloads < len(cs.living)+len(cs.gone) || len(there) < len(cs.living) {
					t.Errorf("%d payloads and %d living values were seen: the search is not what it should be", payloads, len(there))
				}
			}
		})
	}
}

// settled waits until every key in the store is that of an object.
func settled(t *testing.T, c *apitest.Cluster) {
	t.Helper()
	ctx := timeout(t)
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		sealed := 0
		for o := range c.Live.Snapshot().List(domain.Resource{Resource: "secrets"}, "") {
			if domain.IsSealed(o.JSON) {
				sealed++
			}
		}
		if c.Keys.Len() == sealed {
			tick.Stop()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d keys for %d objects", c.Keys.Len(), sealed)
		}
	}
}

// TestErasedSecretsInThePast: kubectl reads lists of a time whose Secrets are erased.
func TestErasedSecretsInThePast(t *testing.T) {
	c := apitest.Start(t, apitest.WithHistory)
	ctx := timeout(t)
	c.MustKubectl(t, "create", "secret", "generic", "a", "--from-literal=k=old")
	c.MustKubectl(t, "create", "secret", "generic", "b", "--from-literal=k=kept")
	then, err := c.Client.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.MustKubectl(t, "delete", "secret", "a")
	list, err := at(t, c, then.ResourceVersion).CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("listing the past: %v, %v", list, err)
	}
	for _, s := range list.Items {
		mark := s.Annotations[domain.ErasedAnnotation]
		if s.Name == "a" && (mark == "" || s.Data != nil) || s.Name == "b" && (mark != "" || string(s.Data["k"]) != "kept") {
			t.Errorf("%s reads as %v, marked %q", s.Name, s.Data, mark)
		}
	}
}
