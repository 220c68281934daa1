package domain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// anyJSON draws JSON values, often of the shapes that Kubernetes objects have: lists of objects with names, long texts.
func anyJSON() *rapid.Generator[any] {
	scalar := rapid.OneOf(
		rapid.Just(any(nil)),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Map(rapid.SampledFrom([]string{"0", "-0", "1", "1.0", "1e2", "123456789012345678901234567890", "0.1000", "-9007199254740993"}), func(n string) any { return json.Number(n) }),
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Map(rapid.StringOfN(rapid.SampledFrom([]rune("ab\\\"\n\u00e9\u20ac😀\u2028<")), 40, 120, -1), func(s string) any { return s }),
	)
	key := rapid.OneOf(rapid.SampledFrom([]string{"", "a", "b", "name", "type", "-", "=x", "~", "@", "^", "a\"b", "\u20ac"}), rapid.StringN(0, 3, -1))
	var value func(depth int) *rapid.Generator[any]
	value = func(depth int) *rapid.Generator[any] {
		if depth == 0 {
			return scalar
		}
		inner := rapid.Deferred(func() *rapid.Generator[any] { return value(depth - 1) })
		named := rapid.Custom(func(t *rapid.T) any {
			return map[string]any{"name": rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name"), "v": inner.Draw(t, "v")}
		})
		return rapid.OneOf(
			scalar,
			rapid.Map(rapid.MapOfN(key, inner, 0, 5), func(m map[string]any) any { return m }),
			rapid.Map(rapid.SliceOfN(inner, 0, 6), func(l []any) any { return l }),
			rapid.Map(rapid.SliceOfN(named, 0, 6), func(l []any) any { return l }),
		)
	}
	return value(3)
}

// mutate draws a value near another one.
func mutate(t *rapid.T, v any) any {
	if rapid.IntRange(0, 5).Draw(t, "anew") == 0 {
		return anyJSON().Draw(t, "value")
	}
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			out[k] = e
		}
		for k, e := range v {
			switch rapid.IntRange(0, 3).Draw(t, "member") {
			case 0:
				delete(out, k)
			case 1:
				out[k] = mutate(t, e)
			}
		}
		if rapid.Bool().Draw(t, "add") {
			out[rapid.String().Draw(t, "key")] = anyJSON().Draw(t, "value")
		}
		return out
	case []any:
		out := []any{}
		for _, e := range v {
			switch rapid.IntRange(0, 5).Draw(t, "element") {
			case 0:
			case 1:
				out = append(out, mutate(t, e))
			case 2:
				out = append(out, anyJSON().Draw(t, "value"), e)
			default:
				out = append(out, e)
			}
		}
		return out
	case string:
		r := []rune(v)
		i := rapid.IntRange(0, len(r)).Draw(t, "cut")
		j := rapid.IntRange(i, len(r)).Draw(t, "end")
		return string(r[:i]) + rapid.String().Draw(t, "middle") + string(r[j:])
	}
	return anyJSON().Draw(t, "value")
}

func canonicalOf(t rapid.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Canonical(raw)
	if err != nil {
		t.Fatalf("Canonical(%s): %v", raw, err)
	}
	return c
}

func TestDeltaRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := anyJSON().Draw(t, "before")
		before, after := canonicalOf(t, v), canonicalOf(t, mutate(t, v))
		delta, err := Diff(before, after)
		if err != nil {
			t.Fatalf("Diff(%s, %s): %v", before, after, err)
		}
		if (delta == nil) != bytes.Equal(before, after) {
			t.Fatalf("Diff(%s, %s) = %s", before, after, delta)
		}
		if delta != nil && !json.Valid(delta) {
			t.Fatalf("Diff(%s, %s) = %s, which is no JSON", before, after, delta)
		}
		if len(delta) > len(after)+len(`{"":}`) {
			t.Fatalf("the delta %s is longer than the document %s", delta, after)
		}
		got, err := Patch(before, delta)
		if err != nil || !bytes.Equal(got, after) {
			t.Fatalf("Patch(%s, %s) = %s, %v; want %s", before, delta, got, err, after)
		}
		if c, err := Canonical(got); err != nil || !bytes.Equal(c, got) {
			t.Fatalf("the result is not canonical: %s", got)
		}
		fields, err := DescribeDelta(before, delta)
		if err != nil || (len(fields) == 0) != (delta == nil) {
			t.Fatalf("DescribeDelta(%s, %s) = %v, %v", before, delta, fields, err)
		}
		for _, f := range fields {
			if bytes.Equal(f.Before, f.After) {
				t.Fatalf("DescribeDelta(%s, %s): %s did not change", before, delta, f.Path)
			}
		}
	})
}

func TestDiffIsBrief(t *testing.T) {
	conditions := func(extra string) string {
		return `{"status":{"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","status":"True","type":"A"},{"lastTransitionTime":"2026-01-01T00:00:00Z","status":"False","type":"B"}` + extra + `]}}`
	}
	long := strings.Repeat("line\\n", 1000)
	for _, c := range []struct{ name, before, after, want string }{
		{"a number", `{"spec":{"replicas":1,"x":{}}}`, `{"spec":{"replicas":3,"x":{}}}`, `{"~spec":{"=replicas":3}}`},
		{"a member appears and another goes", `{"a":1,"b":{"c":null,"d":"22222222222222"}}`, `{"a":1,"b":{"d":"22222222222222","e":[]}}`, `{"~b":{"-c":null,"=e":[]}}`},
		{"null and absent are two things", `{"a":null}`, `{}`, `{"":{}}`},
		{"the empty key", `{"":1,"aaaaaaaaaaaaaaaaaaa":2}`, `{"":2,"aaaaaaaaaaaaaaaaaaa":2}`, `{"=":2}`},
		{"a condition is added", conditions(""), conditions(`,{"status":"True","type":"C"}`), `{"~status":{"@conditions":[2,[{"status":"True","type":"C"}]]}}`},
		{"a condition turns", conditions(""), strings.Replace(conditions(""), `"False"`, `"True"`, 1), `{"~status":{"@conditions":[1,{"=status":"True"}]}}`},
		{"the first element goes", `{"l":[{"name":"a"},{"name":"b"},{"name":"c"},{"name":"d"}]}`, `{"l":[{"name":"b"},{"name":"c"},{"name":"d"}]}`, `{"@l":[-1]}`},
		{"one goes, one changes, one comes", `{"l":[{"name":"a","v":1},{"name":"b","v":1},{"name":"c","v":1}]}`, `{"l":[{"name":"b","v":1},{"name":"c","v":2},{"name":"d","v":1}]}`, `{"@l":[-1,1,{"=v":2},[{"name":"d","v":1}]]}`},
		{"elements change places", `{"l":["a1111111","b1111111","c1111111"]}`, `{"l":["c1111111","a1111111","b1111111"]}`, `{"@l":[["c1111111"],2,-1]}`},
		{"inside a long text", `{"a":"` + long + `x` + long + `"}`, `{"a":"` + long + `y` + long + `"}`, `{"^a":[6000,6000,"y"]}`},
		{"escapes are not cut", `"` + strings.Repeat("a", 70) + `\\"`, `"` + strings.Repeat("a", 70) + `\n"`, `{"^":[70,0,"\n"]}`},
		{"another type", `{"a":[1]}`, `{"a":{"b":1}}`, `{"=a":{"b":1}}`},
		{"everything", `1`, `2`, `{"":2}`},
		{"from nothing", ``, `{"a":1}`, `{"":{"a":1}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Diff([]byte(c.before), []byte(c.after))
			if err != nil || string(got) != c.want {
				t.Fatalf("Diff:\n got %s, %v\nwant %s", got, err, c.want)
			}
			back, err := Patch([]byte(c.before), got)
			if err != nil || string(back) != c.after {
				t.Errorf("Patch: %s, %v", back, err)
			}
		})
	}
}

func TestPatchRefuses(t *testing.T) {
	for _, c := range []struct {
		before, delta string
		want          error
	}{
		{`{"a":1}`, `{"-b":null}`, ErrWrongBase},
		{`{"a":1}`, `{"~a":{"=b":1}}`, ErrWrongBase},
		{`{"a":1}`, `{"@a":[-1]}`, ErrWrongBase},
		{`{"a":1}`, `{"^a":[0,0,""]}`, ErrWrongBase},
		{`{"a":[1]}`, `{"@a":[2]}`, ErrWrongBase},
		{`{"a":[]}`, `{"@a":[{"=b":1}]}`, ErrWrongBase},
		{`{"a":"xy"}`, `{"^a":[1,2,""]}`, ErrWrongBase},
		{``, `{"=a":1}`, ErrWrongBase},
		{`[1]`, `{"=a":1}`, ErrWrongBase},
		{`{"a":[1]}`, `{"@a":[0]}`, ErrBadDelta},
		{`{"a":[1]}`, `{"@a":["x"]}`, ErrBadDelta},
		{`{"a":[1]}`, `{"@a":7}`, ErrBadDelta},
		{`{"a":"x"}`, `{"^a":[1,-1,""]}`, ErrBadDelta},
		{`{"a":"x"}`, `{"^a":[1]}`, ErrBadDelta},
		{`{"a":1}`, `{"?a":1}`, ErrBadDelta},
		{`{"a":1}`, `{}`, ErrBadDelta},
		{`{"a":1}`, `{`, ErrBadDelta},
		{`{"a":1}`, `[]`, ErrBadDelta},
		{`{"a":1}`, `7`, ErrBadDelta},
	} {
		if got, err := Patch([]byte(c.before), []byte(c.delta)); !errors.Is(err, c.want) {
			t.Errorf("Patch(%s, %s) = %s, %v; want %v", c.before, c.delta, got, err, c.want)
		}
		if got, err := DescribeDelta([]byte(c.before), []byte(c.delta)); err == nil {
			t.Errorf("DescribeDelta(%s, %s) = %v", c.before, c.delta, got)
		}
	}
}

// TestErrorsKeepSecrets: what a document holds does not get into the text of an error.
func TestErrorsKeepSecrets(t *testing.T) {
	for _, c := range []struct{ before, delta string }{
		{`{"a":"hunter2"}`, `{"~a":{"=b":1}}`},
		{`{"a":"hunter2"}`, `{"@a":["hunter2"]}`},
		{`{"a":["hunter2"]}`, `{"@a":["hunter2"]}`},
		{`{"a":["hunter2"]}`, `{"^a":[0,0,"hunter2"]}`},
		{`["hunter2"]`, `{"=a":"hunter2"}`},
		{`{"a":"x"}`, `{"^a":["hunter2",1,""]}`},
	} {
		_, err := Patch([]byte(c.before), []byte(c.delta))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Patch(%s, %s): %v", c.before, c.delta, err)
		}
	}
}

func FuzzPatch(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"name":"x"}],"b":"text"}`), []byte(`{"@a":[1,{"=name":"y"}],"^b":[1,1,"z"]}`))
	f.Add([]byte(`[`), []byte(`{"@":[1]}`))
	f.Add([]byte(`"`), []byte(`{"^":[0,0,"`))
	f.Fuzz(func(t *testing.T, before, delta []byte) {
		// None of these may panic, whatever it is given.
		_, _ = Patch(before, delta)
		_, _ = DescribeDelta(before, delta)
		_, _ = Describe(before, delta)
		_, _ = UnmarshalEvent("X", "id", before, delta, 1, 0, time.Time{})
		_, _ = State{JSON: before, Exists: true, Seen: true}.Apply(Event{Op: Changed, Revision: 1, Change: delta})
		if p, err := ParsePath(string(delta)); err == nil {
			_ = p.In(before)
		}
		if c, err := Canonical(before); err == nil {
			if again, err := Canonical(c); err != nil || !bytes.Equal(again, c) {
				t.Fatalf("Canonical(%q) = %q, and then %q, %v", before, c, again, err)
			}
		}
	})
}

func TestDescribeDelta(t *testing.T) {
	before := `{"metadata":{"annotations":{"a/b":"1"},"generation":1},"spec":{"containers":[{"image":"a","name":"web"},{"image":"b","name":"side"}],"list":[1,2,3],"old":{"x":1}},"status":{"conditions":[{"status":"False","type":"Ready"},{"status":"True","type":"Other"}],"order":[{"name":"a"},{"name":"b"}]}}`
	after := `{"metadata":{"annotations":{"a/b":"2"},"generation":1},"spec":{"containers":[{"image":"c","name":"web"},{"image":"n","name":"new"}],"list":[1,3,4],"new":{"y":1}},"status":{"conditions":[{"status":"True","type":"Other"},{"reason":"ok","status":"True","type":"Ready"}],"order":[{"name":"b"},{"name":"a"}]}}`
	want := `metadata.annotations["a/b"]: "1" -> "2"
spec.containers[name=web].image: "a" -> "c"
spec.containers[name=side]: {"image":"b","name":"side"} -> 
spec.containers[name=new]:  -> {"image":"n","name":"new"}
spec.list[1]: 2 -> 
spec.list[2]:  -> 4
spec.new:  -> {"y":1}
spec.old: {"x":1} -> 
status.conditions[type=Ready].reason:  -> "ok"
status.conditions[type=Ready].status: "False" -> "True"
status.order: [{"name":"a"},{"name":"b"}] -> [{"name":"b"},{"name":"a"}]
`
	delta, err := Diff([]byte(before), []byte(after))
	if err != nil {
		t.Fatal(err)
	}
	for name, delta := range map[string][]byte{"brief": delta, "whole": Whole([]byte(after))} {
		fields, err := DescribeDelta([]byte(before), delta)
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for _, f := range fields {
			fmt.Fprintf(&got, "%s: %s -> %s\n", f.Path, f.Before, f.After)
		}
		if got.String() != want {
			t.Errorf("%s %s:\n got\n%s\nwant\n%s", name, delta, got.String(), want)
		}
	}
}
