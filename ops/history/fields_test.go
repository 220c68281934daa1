package history

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestShortFields(t *testing.T) {
	f := func(path, before, after string) Field {
		x := Field{Path: path}
		if before != "" {
			x.Before = json.RawMessage(before)
		}
		if after != "" {
			x.After = json.RawMessage(after)
		}
		return x
	}
	for _, c := range []struct {
		name   string
		fields []Field
		want   string
	}{
		{"nothing", nil, ""},
		{"bookkeeping", []Field{f("metadata.generation", "1", "2"), f("status.observedGeneration", "1", "2")}, "(bookkeeping only)"},
		{"texts without quotes", []Field{f("spec.a", `"x"`, `"y"`)}, "spec.a: x -> y"},
		{"texts that need them", []Field{f("spec.a", `""`, `"a, b"`)}, `spec.a: "" -> "a, b"`},
		{"wishes before reports", []Field{f("status.replicas", "1", "3"), f("metadata.labels.x", "", `"1"`), f("spec.replicas", "1", "3")}, "spec.replicas: 1 -> 3, metadata.labels.x: + 1, status.replicas: 1 -> 3"},
		{"a long value is cut", []Field{f("spec.a", "", `"0123456789012345678901234567890123456789012345678901234567890"`)}, "spec.a: + 01234567890123456789012345678901234567890123456…"},
		{"a list says how long it is", []Field{f("spec.a", "", `[{"name":"0123456789012345678901234567890123456789"},{}]`)}, "spec.a: + [2 elements]"},
		{"so does an object", []Field{f("spec.a", `{"name":"0123456789012345678901234567890123456789"}`, `{}`)}, "spec.a: {1 fields} -> {}"},
		{"too many", []Field{f("spec.a", "", "1"), f("spec.b", "", "1"), f("spec.c", "", "1"), f("spec.d", "1", "")}, "spec.a: + 1, spec.b: + 1, spec.c: + 1, and 1 more"},
		{
			"a pod that starts", []Field{
				f("status.conditions[type=Initialized]", "", `{"type":"Initialized","status":"True","reason":"x"}`),
				f("status.conditions[type=Ready].message", "", `"m"`), f("status.conditions[type=Ready].status", `"False"`, `"True"`),
				f("status.phase", `"Pending"`, `"Running"`), f("status.podIP", "", `"10.0.0.1"`),
			}, "status.phase: Pending -> Running, Ready: False -> True, status.podIP: + 10.0.0.1, and 1 more",
		},
		{"the first conditions", []Field{f("status.conditions", "", `[{"type":"PodScheduled","status":"True","lastProbeTime":null}]`)}, "PodScheduled: + True"},
	} {
		if got := shortFields(c.fields, 3); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestEvidence(t *testing.T) {
	for raw, want := range map[string]string{
		``:             "",
		`{"why":"so"}`: `evidence: {"why":"so"}`,
		`{"scheduler":"s","message":"0/1 nodes are available: 1 Insufficient cpu.","nominated":"n1","victims":["default/a","default/b"]}`: "0/1 nodes are available: 1 Insufficient cpu.\nroom is made on n1: default/a, default/b of lower priority had to go",
	} {
		if got := strings.Join(evidenceLines(json.RawMessage(raw)), "\n"); got != want {
			t.Errorf("%s: %q, want %q", raw, got, want)
		}
	}
}
