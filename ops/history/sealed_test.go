package history

import (
	"bytes"
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections/historyhttp"
)

// ring is a key store for tests.
type ring map[string][]byte

func (r ring) DataKey(id string) ([]byte, bool) { k, ok := r[id]; return k, ok }

// seal seals what kinds want sealed, each payload by a key named after its value.
func (r ring) seal(k *domain.Kind, ref domain.Ref, document []byte, id string) []byte {
	rest, payload := k.Split(document)
	if payload == nil {
		return rest
	}
	r[id] = bytes.Repeat([]byte{byte(len(r) + 1)}, domain.DataKeySize)
	out, err := domain.Seal(rest, payload, ref, domain.DataKey{ID: id, Key: r[id]}, make([]byte, domain.NonceSize))
	if err != nil {
		panic(err)
	}
	return out
}

// TestSealedHistory: what can be told of the past of sealed objects, when all keys are there, when superseded ones are destroyed, and when there are
// none; the same from the log and over HTTP. Values are told in no case.
func TestSealedHistory(t *testing.T) {
	kinds, err := domain.SealFields(domain.Kinds(), "configmaps:data")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		lose  []string
		wants map[string][]string
	}{
		{"all keys", nil, map[string][]string{
			"history secret/s --diff full": {"data.k: (hidden) -> (hidden)", "metadata.labels"},
			"history cm/c --diff full":     {"(payload): (hidden) -> (hidden)"},
			"diff 1 5 secret/s --full":     {"data.k: (hidden) -> (hidden)"},
			"diff 1 3 secret/s --full":     {"metadata.labels"},
		}},
		{"superseded keys destroyed", []string{"s1", "c1"}, map[string][]string{
			"history secret/s --diff full": {"(payload): (erased) -> (sealed)", "metadata.labels"},
			"history cm/c --diff full":     {"(payload): (erased) -> (sealed)"},
			"diff 1 5 secret/s --full":     {"(payload): (erased) -> (sealed)"},
			"blame secret/s":               {"(payload): sealed by key s2"},
		}},
		{"all keys destroyed", []string{"s1", "s2", "c1", "c2"}, map[string][]string{
			"history secret/s --diff full": {"(payload): (erased) -> (erased)", "metadata.labels"},
			"history cm/c --diff full":     {"(payload): (erased) -> (erased)"},
			"diff 1 5 secret/s --full":     {"(payload): (erased) -> (erased)"},
			"diff 1 3 secret/s --full":     {"metadata.labels"},
		}},
	} {
		keys := ring{}
		p := newPast()
		p.kinds = domain.NewSet(kinds).WithKeys(keys)
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Data: map[string][]byte{"k": []byte("canary-1")}}
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}, Data: map[string]string{"k": "canary-1"}}
		put := func(obj runtime.Object, id string) {
			p.sealed = func(k *domain.Kind, ref domain.Ref, document []byte) []byte { return keys.seal(k, ref, document, id) }
			p.put(by{user: "ada", verb: "update"}, obj)
		}
		put(s, "s1") // 1
		put(m, "c1") // 2
		s.Labels = map[string]string{"a": "b"}
		p.keep = true
		put(s, "") // 3: the same payload
		p.keep = false
		m.Data["k"] = "canary-2"
		put(m, "c2") // 4
		s.Data["k"] = []byte("canary-2")
		put(s, "s2") // 5
		for _, id := range c.lose {
			delete(keys, id)
		}
		server := httptest.NewServer(historyhttp.NewHandler(p))
		defer server.Close()
		plain := domain.NewSet(domain.Kinds()) // a client does not know what the operator has sealed
		for from, access := range map[string]Access{
			"the log": {History: p, Kinds: p.kinds},
			"HTTP":    {History: historyhttp.NewClient(server.URL, server.Client(), plain), Kinds: plain},
		} {
			for command, wants := range c.wants {
				out := runCommand(t, access, command)
				for _, want := range wants {
					if !strings.Contains(out, want) {
						t.Errorf("%s, from %s: %s does not say %q:\n%s", c.name, from, command, want, out)
					}
				}
				if strings.Contains(out, "canary") || strings.Contains(out, "Y2FuYXJ5") || strings.Contains(out, domain.ErasedAnnotation) || strings.Contains(out, "$sealed") {
					t.Errorf("%s, from %s: %s says too much:\n%s", c.name, from, command, out)
				}
			}
		}
	}
}

func runCommand(t *testing.T, access Access, line string) string {
	t.Helper()
	args := strings.Fields(line)
	for _, cmd := range NewCommands(func(context.Context) (Access, error) { return access, nil }) {
		if strings.Fields(cmd.Use)[0] != args[0] {
			continue
		}
		var out bytes.Buffer
		cmd.SetArgs(args[1:])
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		return out.String()
	}
	t.Fatalf("no command %s", args[0])
	return ""
}
