package domain

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func kindNamed(t testing.TB, name string) *Kind {
	t.Helper()
	k, ok := NewSet(Kinds()).Lookup(name)
	if !ok {
		t.Fatalf("no kind is called %q", name)
	}
	return k
}

func TestEncodeAndDecode(t *testing.T) {
	k := kindNamed(t, "configmap")
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "b", ResourceVersion: "17", UID: "u", Labels: map[string]string{"resourceVersion": "kept", "a<b": "\u2028&"}},
		Data:       map[string]string{"metadata": "x", "kind": "k"},
	}
	got, err := Encode(k, cm)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"apiVersion":"v1","data":{"kind":"k","metadata":"x"},"kind":"ConfigMap","metadata":{"labels":{"a<b":"` + "\u2028" + `&","resourceVersion":"kept"},"name":"a","namespace":"b","uid":"u"}}`
	if string(got) != want {
		t.Errorf("Encode:\n got %s\nwant %s", got, want)
	}
	if cm.ResourceVersion != "17" || cm.Kind != "" {
		t.Error("Encode changed the object")
	}
	back, err := Decode(k, got, 99)
	if err != nil {
		t.Fatal(err)
	}
	if m := back.(*corev1.ConfigMap); m.ResourceVersion != "99" || m.APIVersion != "v1" || m.Kind != "ConfigMap" || m.Data["kind"] != "k" {
		t.Errorf("Decode: %#v", m)
	}
	again, err := Encode(k, back)
	if err != nil || string(again) != want {
		t.Errorf("encoded again: %s, %v", again, err)
	}
}

// TestACustomKind: a kind without a Go type is kept like any other.
func TestACustomKind(t *testing.T) {
	k := &Kind{Group: "example.org", Version: "v1", Kind: "Ship", Resource: "ships", Namespaced: true, New: func() runtime.Object { return &unstructured.Unstructured{} }}
	ship := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.org/v1", "kind": "Ship",
		"metadata": map[string]any{"name": "argo", "namespace": "sea", "uid": "u", "resourceVersion": "9"},
		"spec":     map[string]any{"masts": int64(2), "crew": []any{"jason", nil}, "draught": 1.5},
	}}
	first, err := Encode(k, ship)
	want := `{"apiVersion":"example.org/v1","kind":"Ship","metadata":{"name":"argo","namespace":"sea","uid":"u"},"spec":{"crew":["jason",null],"draught":1.5,"masts":2}}`
	if err != nil || string(first) != want {
		t.Fatalf("Encode: %s, %v", first, err)
	}
	back, err := Decode(k, first, 12)
	if err != nil {
		t.Fatal(err)
	}
	if got := back.(*unstructured.Unstructured).GetResourceVersion(); got != "12" {
		t.Errorf("resourceVersion %q", got)
	}
	if again, err := Encode(k, back); err != nil || string(again) != want {
		t.Errorf("encoded again: %s, %v", again, err)
	}
	change := func(path ...string) runtime.Object {
		next := ship.DeepCopy()
		if err := unstructured.SetNestedField(next.Object, "x", path...); err != nil {
			t.Fatal(err)
		}
		return next
	}
	for want, after := range map[string]runtime.Object{
		"ShipCreated": nil, "ShipChanged": change("spec", "flag"), "ShipStatusChanged": change("status", "phase"), "ShipLabelsChanged": change("metadata", "labels", "a"),
	} {
		before := runtime.Object(ship)
		if after == nil {
			before, after = nil, ship
		}
		if got := EventType(k, before, after); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestDecodeRefusesAnotherKind(t *testing.T) {
	if _, err := Decode(kindNamed(t, "pod"), []byte(`{"apiVersion":"v1","kind":"Node"}`), 1); !errors.Is(err, ErrWrongKind) {
		t.Errorf("got %v", err)
	}
	if _, err := Decode(kindNamed(t, "pod"), []byte(`{`), 1); !errors.Is(err, ErrBadJSON) {
		t.Errorf("got %v", err)
	}
}

func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		` { "b" : [ 1 , 2.50 , -0 , 1e+400 ] , "a" : null } `: `{"a":null,"b":[1,2.50,-0,1e+400]}`,
		`{"a":1,"b":2,"a":3}`:                   `{"a":3,"b":2}`,
		`{}`:                                    `{}`,
		`[]`:                                    `[]`,
		`{"z":{},"y":[],"x":{"b":{},"a":[{}]}}`: `{"x":{"a":[{}],"b":{}},"y":[],"z":{}}`,
		`"\u0041\/\u003c\n\u0001\u001F\uD83D\uDE00"`: `"A/<\n\u0001\u001f😀"`,
		`"\ud800x\udc00"`:                `"` + "\ufffdx\ufffd" + `"`,
		"\"a\xffb\"":                     `"` + "a\ufffdb" + `"`,
		"\"\u2028\"":                     "\"\u2028\"",
		`123456789012345678901234567890`: `123456789012345678901234567890`,
		`true`:                           `true`,
	} {
		got, err := Canonical([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("Canonical(%s) = %s, %v; want %s", in, got, err, want)
		}
		again, err := Canonical(got)
		if err != nil || string(again) != string(got) {
			t.Errorf("Canonical(%s) is %s when repeated, %v", in, again, err)
		}
	}
	for _, in := range []string{``, ` `, `{`, `[`, `[1,]`, `{"a"}`, `{"a":1,}`, `{,}`, `{"a":1 "b":2}`, `01`, `-`, `1.`, `1e`, `tru`, `"`, `"\x"`, `"\u12"`, "\"\n\"", `1 2`, `{"a":1}}`} {
		if got, err := Canonical([]byte(in)); !errors.Is(err, ErrBadJSON) {
			t.Errorf("Canonical(%s) = %s, %v; want ErrBadJSON", in, got, err)
		}
	}
}

func TestParseStream(t *testing.T) {
	for _, r := range []Ref{
		{Resource: "pods", Namespace: "default", Name: "web-1"},
		{Resource: "nodes", Name: "n1"},
		{Group: "apps", Resource: "deployments", Namespace: "a-b", Name: "x.y-z"},
		{Group: "rbac.authorization.k8s.io", Resource: "clusterroles", Name: "system:node-proxier"},
		{Group: "example.my-corp", Resource: "big-widgets", Namespace: "my-corp-default", Name: "w"},
	} {
		got, ok := ParseStream(r.Stream())
		if !ok || got != r {
			t.Errorf("ParseStream(%q) = %+v, %v; want %+v", r.Stream(), got, ok, r)
		}
	}
	for _, s := range []string{"", "$all", "$$pods-default/a", "pods", "pods-default", "pods-default/", "-default/a"} {
		if got, ok := ParseStream(s); ok {
			t.Errorf("ParseStream(%q) = %+v, want nothing", s, got)
		}
	}
	if StreamPrefix(schema.GroupResource{Group: "a.b", Resource: "x"}) == StreamPrefix(schema.GroupResource{Group: "a", Resource: "x"}) {
		t.Error("two resources share a prefix")
	}
}
