package domain

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
