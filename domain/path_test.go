package domain

import (
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestPath(t *testing.T) {
	doc := []byte(`{"metadata":{"labels":{"a/b":"1","q\"":"2"}},"spec":{"containers":[{"image":"x","name":"web"},{"image":"y","name":"side","ports":[{"containerPort":80}]}],"n":3,"t":true,"z":null}}`)
	for path, want := range map[string]string{
		"": string(doc), "spec.n": "3", ".spec.t": "true", "spec.z": "null", `metadata.labels["a/b"]`: `"1"`, `metadata.labels["q""]`: `"2"`,
		"spec.containers[name=side].image": `"y"`, "spec.containers[0].name": `"web"`, "spec.containers[1].ports[containerPort=80].containerPort": "80",
		"spec.containers[2]": "", "spec.containers[name=none]": "", "nothing.at.all": "", "spec.n.x": "", "spec.n[0]": "",
	} {
		p, err := ParsePath(path)
		if err != nil {
			t.Errorf("ParsePath(%q): %v", path, err)
			continue
		}
		if got := string(p.In(doc)); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	for _, path := range []string{"a..b", "a.", "a[", "a[x]", "a[-1]", `a["b`, "a[0]b"} {
		if p, err := ParsePath(path); !errors.Is(err, ErrBadPath) {
			t.Errorf("ParsePath(%q) = %v, %v", path, p, err)
		}
	}
	p, err := ParsePath("spec.containers[name=web].image")
	if err != nil || p.Text(doc) != "x" {
		t.Errorf("as text: %q, %v", p.Text(doc), err)
	}
}

// TestPathsOfChangesAreReadable: what Describe calls a field is what ParsePath finds.
func TestPathsOfChangesAreReadable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SampledFrom([]string{"a", "b", "c/d", "name"})
		doc := func(label string) []byte {
			m := map[string]any{}
			for _, k := range rapid.SliceOf(keys).Draw(t, label) {
				m[k] = map[string]any{"list": []any{map[string]any{"name": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "name"), "v": rapid.IntRange(0, 2).Draw(t, "v")}}}
			}
			return canonicalOf(t, m)
		}
		before, after := doc("before"), doc("after")
		changes, err := Describe(before, after)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			p, err := ParsePath(c.Path)
			if err != nil {
				t.Fatal(err)
			}
			if got := p.In(before); string(got) != string(c.Before) {
				t.Fatalf("%s was %s before, the change says %s", c.Path, got, c.Before)
			}
			if got := p.In(after); string(got) != string(c.After) {
				t.Fatalf("%s is %s after, the change says %s", c.Path, got, c.After)
			}
		}
	})
}
