package domain

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files")

// golden is a record of the log as a line of a file, with what it is read as.
type golden struct {
	Type     string          `json:"type"`
	ID       string          `json:"id"`
	Data     json.RawMessage `json:"data"`
	Metadata json.RawMessage `json:"metadata"`
	Position uint64          `json:"position"`
	Revision uint64          `json:"revision"`
	Created  time.Time       `json:"created"`
	Read     json.RawMessage `json:"read"`
}

// voyage is a pod's life as a log of this build's schema version holds it.
func voyage(t *testing.T) []Event {
	k := kindNamed(t, "pod")
	ref := k.Ref("default", "web-1")
	ref.UID = "0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f"
	states := []string{
		`{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a<b":"é\u2028"},"name":"web-1","namespace":"default","uid":"0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f"},"spec":{"containers":[{"image":"web:1","name":"web"}],"x":[{},[],null,12345678901234567890.10]}}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a<b":"é\u2028"},"name":"web-1","namespace":"default","uid":"0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f"},"spec":{"containers":[{"image":"web:1","name":"web"}],"nodeName":"n1","x":[{},[],null,12345678901234567890.10]}}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a<b":"é\u2028"},"name":"web-1","namespace":"default","uid":"0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f"},"spec":{"containers":[{"image":"web:1","name":"web"}],"nodeName":"n1","x":[{},[],null,12345678901234567890.10]},"status":{"conditions":[{"status":"True","type":"Ready"}],"phase":"Running"}}`,
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	event := func(n int, typ string, op Op, change []byte) Event {
		return Event{
			ID: fmt.Sprintf("00000000-0000-4000-8000-00000000000%d", n), Type: typ, Ref: ref, Op: op, Change: change,
			Correlation: "6a54f7e0-0000-4000-8000-000000000000", Time: at.Add(time.Duration(n) * time.Second), Version: SchemaVersion,
			Position: uint64(100 + n), Revision: uint64(n),
		}
	}
	canonical := func(i int) []byte {
		c, err := Canonical([]byte(states[i]))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	delta := func(i int) []byte {
		d, err := Diff(canonical(i-1), canonical(i))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	created := event(0, "PodCreated", Created, canonical(0))
	created.Actor = Actor{User: "alice \"a\"", UID: "7", Groups: []string{"dev", "system:authenticated"}, UserAgent: "kubectl/v1.37", SourceIP: "127.0.0.1"}
	created.Command = CommandInfo{Verb: "create", RequestID: "r-1"}
	bound := event(1, "PodBound", Changed, delta(1))
	bound.Actor = Actor{User: "system:kube-scheduler"}
	bound.Command = CommandInfo{Verb: "create", Subresource: "binding"}
	bound.Cause = &Cause{ID: created.ID, Position: created.Position}
	bound.Evidence = json.RawMessage(`{"node":"n1","refused":{"n2":"too little memory"}}`)
	started := event(2, "PodStarted", Changed, delta(2))
	started.Actor = Actor{User: "system:node:n1", Groups: []string{"system:nodes"}}
	started.Command = CommandInfo{Verb: "patch", Subresource: "status"}
	refused := event(3, "RequestRefused", "", nil)
	refused.Actor, refused.Command = Actor{User: "mallory"}, CommandInfo{Verb: "delete", DryRun: true}
	deleted := event(4, "PodDeleted", Deleted, nil)
	deleted.Actor, deleted.Command = Actor{User: "system:node:n1"}, CommandInfo{Verb: "delete"}
	impersonated := event(5, "RequestRefused", "", nil)
	impersonated.Actor, impersonated.Command = Actor{User: "mallory", Impersonator: "root"}, CommandInfo{Verb: "update"}
	return []Event{created, bound, started, refused, deleted, impersonated}
}

// TestOldEventsAreRead replays the corpus: what any version has written stays readable and means the same.
func TestOldEventsAreRead(t *testing.T) {
	current := filepath.Join("testdata", "events", fmt.Sprintf("v%d.jsonl", SchemaVersion))
	if *update {
		var lines strings.Builder
		for _, e := range voyage(t) {
			data, metadata, err := MarshalEvent(e)
			if err != nil {
				t.Fatal(err)
			}
			created := e.Time.Add(time.Millisecond)
			read, err := UnmarshalEvent(e.Type, e.ID, data, metadata, e.Position, e.Revision, created)
			if err != nil {
				t.Fatal(err)
			}
			line := encodeLine(t, golden{Type: e.Type, ID: e.ID, Data: data, Metadata: metadata, Position: e.Position, Revision: e.Revision, Created: created, Read: encodeLine(t, read)})
			lines.Write(append(line, '\n'))
		}
		if err := os.WriteFile(current, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for version := 1; version <= SchemaVersion; version++ {
		corpus, err := os.ReadFile(filepath.Join("testdata", "events", fmt.Sprintf("v%d.jsonl", version)))
		if err != nil {
			t.Fatal(err)
		}
		var s State
		for _, line := range strings.Split(strings.TrimSpace(string(corpus)), "\n") {
			var g golden
			if err := json.Unmarshal([]byte(line), &g); err != nil {
				t.Fatal(err)
			}
			e, err := UnmarshalEvent(g.Type, g.ID, g.Data, g.Metadata, g.Position, g.Revision, g.Created)
			if err != nil {
				t.Fatal(err)
			}
			if got := encodeLine(t, e); string(got) != string(g.Read) {
				t.Errorf("version %d: read as\n%s\nwant\n%s", version, got, g.Read)
			}
			if s, err = s.Apply(e); err != nil {
				t.Fatal(err)
			}
		}
		if s.Exists || s.Position != 104 || !strings.Contains(string(s.JSON), "12345678901234567890.10") || !strings.Contains(string(s.JSON), `"phase":"Running"`) {
			t.Errorf("version %d: the pod's last state is %s at %d", version, s.JSON, s.Position)
		}
	}
}

// TestTheWireIsAsRecorded: this build writes what the corpus of its schema version holds, to the byte. A change of the wire
// needs a new SchemaVersion and an upcaster.
func TestTheWireIsAsRecorded(t *testing.T) {
	corpus, err := os.ReadFile(filepath.Join("testdata", "events", fmt.Sprintf("v%d.jsonl", SchemaVersion)))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(corpus)), "\n")
	for i, e := range voyage(t) {
		data, metadata, err := MarshalEvent(e)
		if err != nil {
			t.Fatal(err)
		}
		var g golden
		if err := json.Unmarshal([]byte(lines[i]), &g); err != nil {
			t.Fatal(err)
		}
		if string(data) != string(g.Data) || string(metadata) != string(g.Metadata) {
			t.Errorf("event %d is written as\n%s\n%s\nwant\n%s\n%s", i, data, metadata, g.Data, g.Metadata)
		}
	}
}

func encodeLine(t *testing.T, v any) []byte {
	t.Helper()
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return []byte(strings.TrimSpace(b.String()))
}

func TestUnmarshalEventRefuses(t *testing.T) {
	const ref = `{"ref":{"resource":"pods","name":"a"},"op":"created","change":{}}`
	for name, c := range map[string]struct{ data, metadata string }{
		"no version":         {ref, `{}`},
		"a version of words": {ref, `{"version":"one"}`},
		"no metadata":        {ref, ``},
		"no object":          {`{"op":"created"}`, `{"version":1}`},
		"no JSON":            {`{"ref"`, `{"version":1}`},
		"a list":             {`[]`, `{"version":1}`},
		"a name of numbers":  {`{"ref":{"resource":"pods","name":7}}`, `{"version":1}`},
		"a wrong time":       {ref, `{"version":1,"time":"yesterday"}`},
		"a wrong position":   {ref, `{"version":1,"causePosition":-1}`},
		"groups of no list":  {ref, `{"version":1,"actor":{"groups":"all"}}`},
	} {
		if e, err := UnmarshalEvent("X", "id", []byte(c.data), []byte(c.metadata), 1, 0, time.Time{}); !errors.Is(err, ErrBadEvent) {
			t.Errorf("%s: got %+v, %v", name, e, err)
		}
	}
	var unknown *UnknownVersionError
	if _, err := UnmarshalEvent("X", "id", []byte(ref), []byte(`{"version":99}`), 7, 0, time.Time{}); !errors.As(err, &unknown) || unknown.Version != 99 || unknown.Position != 7 {
		t.Errorf("an unknown version: %v", err)
	}
}

func TestMarshalEventRefuses(t *testing.T) {
	for name, e := range map[string]Event{
		"an unfinished change":    {Change: []byte(`{"a":1`)},
		"a change and more":       {Change: []byte(`{} {}`)},
		"evidence that is not":    {Evidence: []byte(`{`)},
		"another schema version ": {Version: SchemaVersion + 1},
	} {
		if data, _, err := MarshalEvent(e); err == nil {
			t.Errorf("%s: written as %s", name, data)
		}
	}
}

func TestUpcastersRunInOrder(t *testing.T) {
	add := func(letter string) Upcaster {
		return func(r Record) (Record, error) {
			r.Type += letter
			return r, nil
		}
	}
	steps := []Upcaster{add("b"), add("c"), add("d")}
	for version, want := range map[int]string{1: "abcd", 2: "acd", 3: "ad", 4: "a"} {
		r, err := upcast(Record{Type: "a", Metadata: []byte(fmt.Sprintf(`{"version":%d}`, version))}, steps, 4)
		if err != nil || r.Type != want {
			t.Errorf("from version %d: %q, %v; want %q", version, r.Type, err, want)
		}
	}
	broken := errors.New("broken")
	if _, err := upcast(Record{Metadata: []byte(`{"version":1}`)}, []Upcaster{func(Record) (Record, error) { return Record{}, broken }}, 2); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if got := len(upcasters()); got != SchemaVersion-1 {
		t.Errorf("%d upcasters for schema version %d", got, SchemaVersion)
	}
}

func TestTimeOfAnEventWithoutOne(t *testing.T) {
	created := time.Date(2026, 5, 6, 7, 8, 9, 0, time.FixedZone("", 3600))
	e, err := UnmarshalEvent("X", "id", []byte(`{"ref":{"resource":"pods","name":"a"}}`), []byte(`{"version":1}`), 1, 0, created)
	if err != nil || !e.Time.Equal(created) || e.Time.Location() != time.UTC {
		t.Errorf("got %v, %v", e.Time, err)
	}
	if want := (Event{ID: "id", Type: "X", Ref: Ref{Resource: "pods", Name: "a"}, Time: created.UTC(), Version: 1, Position: 1}); !reflect.DeepEqual(e, want) {
		t.Errorf("got %+v", e)
	}
}
