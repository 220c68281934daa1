package graphql_test

import (
	"bytes"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/domain"
)

// ring is a key store for tests.
type ring map[string][]byte

func (r ring) DataKey(id string) ([]byte, bool) { k, ok := r[id]; return k, ok }

// TestSealedSecrets: what is asked of Secrets that the log holds sealed, while their keys are there and after those that were superseded are destroyed.
func TestSealedSecrets(t *testing.T) {
	w := newWorld(t)
	id := ""
	w.seal = func(k *domain.Kind, ref domain.Ref, document []byte) []byte {
		rest, payload := k.Split(document)
		if payload == nil {
			return document
		}
		w.keys[id] = bytes.Repeat([]byte{id[1]}, domain.DataKeySize)
		out, err := domain.Seal(rest, payload, ref, domain.DataKey{ID: id, Key: w.keys[id]}, make([]byte, domain.NonceSize))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, Data: map[string][]byte{"password": []byte("hunter2")}}
	id = "k1"
	w.put(secret, because{user: "ada"})
	secret.Data["password"] = []byte("correct horse")
	id = "k2"
	w.put(secret, because{user: "ada"})

	ask := func(query string) string {
		t.Helper()
		out := string(w.ask(query, nil))
		for _, hidden := range []string{"hunter2", "aHVudGVyMg", "correct horse", "Y29ycmVjdCBob3JzZQ", "$sealed"} {
			if strings.Contains(out, hidden) {
				t.Errorf("the answer holds %s:\n%s", hidden, out)
			}
		}
		if strings.Contains(out, `"errors"`) {
			t.Errorf("the answer has errors:\n%s", out)
		}
		return out
	}
	const object = `{ object(kind: "Secret", namespace: "default", name: "db") { json events(first: 5, oldestFirst: true) { nodes { type fieldChanges { path before after } } } } }`
	out := ask(object)
	for _, want := range []string{`"password":"(withheld)"`, `"SecretDataChanged"`, `"data.password"`, `(withheld, changed)`} {
		if !strings.Contains(out, want) {
			t.Errorf("with all keys the answer lacks %s:\n%s", want, out)
		}
	}
	delete(w.keys, "k1")
	out = ask(object)
	for _, want := range []string{`"password":"(withheld)"`, `(payload)`, `(erased)`, `(sealed)`} {
		if !strings.Contains(out, want) {
			t.Errorf("with the first key destroyed the answer lacks %s:\n%s", want, out)
		}
	}
	out = ask(`{ object(kind: "Secret", namespace: "default", name: "db") { events(first: 5) { nodes { type objectAfter { json } fieldChanges { path before after } } } } }`)
	for _, want := range []string{domain.ErasedAnnotation, `"SecretDataChanged"`, `{"path":"(payload)","before":null,"after":"(erased)"}`} {
		if !strings.Contains(out, want) {
			t.Errorf("of what was there before the answer lacks %s:\n%s", want, out)
		}
	}
}
