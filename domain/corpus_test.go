package domain

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// recorded is a record of the log as a line of the corpus, with the object that the events up to it have led to. The corpus holds every
// type of event that a schema version has known, as it was written then: testdata/corpus/v<N>/<resource>.<group>.jsonl is the life of
// one object of a kind, facts.jsonl what changes none. Lines are added, never rewritten.
type recorded struct {
	Type     string          `json:"type"`
	ID       string          `json:"id"`
	Data     json.RawMessage `json:"data"`
	Metadata json.RawMessage `json:"metadata"`
	Position uint64          `json:"position"`
	Revision uint64          `json:"revision"`
	Created  time.Time       `json:"created"`
	Folded   json.RawMessage `json:"folded,omitempty"` // empty when the object is not there
}

func (r recorded) read() (Event, error) {
	return UnmarshalEvent(r.Type, r.ID, r.Data, r.Metadata, r.Position, r.Revision, r.Created)
}

func corpusDir(version int) string {
	return filepath.Join("testdata", "corpus", fmt.Sprintf("v%d", version))
}

func corpusFile(k *Kind) string { return k.GroupResource().String() + ".jsonl" }

// readCorpus reads a file of the corpus line by line; one that is not there is empty.
func readCorpus(t *testing.T, path string) []recorded {
	t.Helper()
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var records []recorded
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r recorded
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		records = append(records, r)
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return records
}

const shapeChanged = "The shape of what was written before is never changed: raise SchemaVersion and write an upcaster (see \"To change the shape of an event\" in domain/README.md)."

// TestCorpus replays what every schema version has written: it is read and folds as it did when it was recorded, to the byte.
func TestCorpus(t *testing.T) {
	for version := 1; version <= SchemaVersion; version++ {
		files, err := filepath.Glob(filepath.Join(corpusDir(version), "*.jsonl"))
		if err != nil || len(files) == 0 {
			t.Fatalf("the corpus of schema version %d: %d files, %v", version, len(files), err)
		}
		for _, path := range files {
			var s State
			var replay Replay
			for _, r := range readCorpus(t, path) {
				e, err := r.read()
				if err != nil {
					t.Fatalf("%s: %v\n%s", path, err, shapeChanged)
				}
				if s, err = s.Apply(e); err != nil {
					t.Fatalf("%s: %v\n%s", path, err, shapeChanged)
				}
				if err := replay.Apply(e); err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				folded := s.JSON
				if !s.Exists {
					folded = nil
				}
				if string(folded) != string(r.Folded) {
					t.Errorf("%s: %s at revision %d leads to\n%s\nand led to\n%s\n%s", path, r.Type, r.Revision, folded, r.Folded, shapeChanged)
				}
			}
			if again := replay.State(); string(again.JSON) != string(s.JSON) || again.Position != s.Position {
				t.Errorf("%s: replayed to\n%s\nwant\n%s", path, again.JSON, s.JSON)
			}
		}
	}
}

// TestCorpusIsWhatIsWritten: this build writes the events of the corpus of its schema version as they stand there, to the byte.
func TestCorpusIsWhatIsWritten(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(corpusDir(SchemaVersion), "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		for _, r := range readCorpus(t, path) {
			e, err := r.read()
			if err != nil {
				t.Fatal(err)
			}
			data, metadata, err := MarshalEvent(e)
			if err != nil || string(data) != string(r.Data) || string(metadata) != string(r.Metadata) {
				t.Errorf("%s: %s is written as\n%s\n%s\nand was written as\n%s\n%s (%v)\n%s", path, r.Type, data, metadata, r.Data, r.Metadata, err, shapeChanged)
			}
		}
	}
}

// TestCorpusIsComplete: every type of event that the catalogue knows has a record. With -update those that have none get one.
func TestCorpusIsComplete(t *testing.T) {
	cases := map[string][]wordCase{}
	for _, c := range wordCases() {
		k := kindNamed(t, c.kind)
		cases[k.Kind] = append(cases[k.Kind], c)
	}
	position := uint64(1)
	for n, k := range Kinds() {
		path := filepath.Join(corpusDir(SchemaVersion), corpusFile(k))
		a := author{t: t, kind: k, path: path, position: uint64(n) * 100_000}
		a.goOn(readCorpus(t, path))
		for _, w := range EventTypes(k) {
			if !a.has[w.Type] {
				a.missing(w.Type, a.record(w.Type, cases[k.Kind]))
			}
		}
		position = max(position, a.position)
	}
	path := filepath.Join(corpusDir(SchemaVersion), "facts.jsonl")
	facts := author{t: t, kind: kindNamed(t, "pod"), path: path, position: position}
	facts.goOn(readCorpus(t, path))
	for _, typ := range FactTypes() {
		if !facts.has[typ] {
			facts.missing(typ, facts.fact(typ))
		}
	}
}

// TestCorpusHoldsSealedPayloads: how ciphertext stands in events is part of what is kept. With -update they are recorded once.
func TestCorpusHoldsSealedPayloads(t *testing.T) {
	k := kindNamed(t, "secret")
	path := filepath.Join(corpusDir(SchemaVersion), "sealed.jsonl")
	a := author{t: t, kind: k, path: path, position: 9_000_000}
	a.goOn(readCorpus(t, path))
	key := func(n byte) DataKey {
		return DataKey{ID: fmt.Sprint("key-", n), Key: bytes.Repeat([]byte{n}, DataKeySize)}
	}
	sealedAs := func(n byte, rest, payload string) []byte {
		ref := k.Ref("default", "web-1")
		ref.UID = "0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f"
		doc, err := Seal([]byte(rest), []byte(payload), ref, key(n), bytes.Repeat([]byte{n}, NonceSize))
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	const rest = `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"web-1","namespace":"default","uid":"0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f"}}`
	first, second := sealedAs(1, rest, `{"data":{"a":"b25l"}}`), sealedAs(2, rest, `{"data":{"a":"dHdv"}}`)
	if !a.has["SecretDataChanged"] {
		change, err := Delta(k, first, second)
		if err != nil {
			t.Fatal(err)
		}
		a.missing("sealed SecretDataChanged", []recorded{
			a.append(Event{Type: "SecretCreated", Op: Created, Change: first, Command: CommandInfo{Verb: "create"}}),
			a.append(Event{Type: "SecretDataChanged", Op: Changed, Change: change, Command: CommandInfo{Verb: "update"}}),
		})
	}
	// What was sealed then opens with its key today.
	keys := keyRing{"key-1": key(1).Key, "key-2": key(2).Key}
	for i, want := range []string{"b25l", "dHdv"} {
		records := readCorpus(t, path)
		if len(records) != 2 {
			t.Fatalf("%s holds %d records", path, len(records))
		}
		e, err := records[i].read()
		if err != nil {
			t.Fatal(err)
		}
		if doc, err := Open(records[i].Folded, e.Ref, keys); err != nil || !strings.Contains(string(doc), want) || strings.Contains(string(records[i].Folded), want) {
			t.Errorf("%s opens as %s, %v", records[i].Folded, doc, err)
		}
	}
}

// keyRing holds data keys.
type keyRing map[string][]byte

func (k keyRing) DataKey(id string) ([]byte, bool) {
	key, ok := k[id]
	return key, ok
}

// author adds records to a file.
type author struct {
	t        *testing.T
	kind     *Kind
	path     string
	has      map[string]bool
	state    State
	typed    runtime.Object // of state; nil when the object is not there
	position uint64
}

// goOn goes on after what there is.
func (a *author) goOn(records []recorded) {
	a.t.Helper()
	a.has = map[string]bool{}
	for _, r := range records {
		a.has[r.Type] = true
		e, err := r.read()
		if err != nil {
			a.t.Fatal(err)
		}
		if a.state, err = a.state.Apply(e); err != nil {
			a.t.Fatal(err)
		}
		a.position = r.Position
	}
	if a.state.Exists && !IsSealed(a.state.JSON) {
		typed, err := Decode(a.kind, a.state.JSON, 0)
		if err != nil {
			a.t.Fatal(err)
		}
		a.typed = typed
	}
}

// missing adds records to the file when that was asked for; else it says what to do.
func (a *author) missing(typ string, records []recorded) {
	a.t.Helper()
	if !*update {
		a.t.Errorf("%s holds no %s: run `go test ./domain -run TestCorpusIsComplete -update`, which adds one and changes nothing else", a.path, typ)
		return
	}
	if err := os.MkdirAll(filepath.Dir(a.path), 0o755); err != nil {
		a.t.Fatal(err)
	}
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		a.t.Fatal(err)
	}
	defer f.Close()
	for _, r := range records {
		if _, err := f.Write(append(encodeLine(a.t, r), '\n')); err != nil {
			a.t.Fatal(err)
		}
	}
}

// neverMade are types that the catalogue has, for every kind has them, and that another word always takes the place of. Some build may
// have written them all the same, or will.
func neverMade() []string {
	return []string{"NodeCreated", "NamespaceDeletionRequested", "IngressStatusChanged"}
}

// record makes the object go through a change that has the type, and returns the events.
func (a *author) record(typ string, cases []wordCase) (records []recorded) {
	a.t.Helper()
	before, after, ok := a.change(typ, cases)
	if !ok && slices.Contains(neverMade(), typ) {
		return a.byAnotherName(typ)
	}
	if !ok {
		a.t.Errorf("nothing makes a %s: add a line for it to wordCases", typ)
		return nil
	}
	// To where the change begins, and then the change.
	for _, typed := range []runtime.Object{before, after} {
		if r, changed := a.write(typed); changed {
			records = append(records, r)
		}
	}
	if len(records) == 0 || records[len(records)-1].Type != typ {
		var types []string
		for _, r := range records {
			types = append(types, r.Type)
		}
		a.t.Errorf("%s: the change for %s is recorded as %v: add a line for it to wordCases", a.path, typ, types)
	}
	return records
}

// byAnotherName records some change under a type.
func (a *author) byAnotherName(typ string) (records []recorded) {
	a.t.Helper()
	if a.typed == nil {
		r, _ := a.write(a.named(a.kind.New()))
		records = append(records, r)
	}
	labelled := a.typed.DeepCopyObject()
	m, err := meta.Accessor(labelled)
	if err != nil {
		a.t.Fatal(err)
	}
	m.SetLabels(map[string]string{"seen": typ})
	data, err := Encode(a.kind, labelled)
	if err != nil {
		a.t.Fatal(err)
	}
	change, err := Delta(a.kind, a.state.JSON, data)
	if err != nil {
		a.t.Fatal(err)
	}
	records = append(records, a.append(Event{Type: typ, Op: Changed, Change: change, Command: CommandInfo{Verb: "update"}}))
	a.typed = labelled
	return records
}

// change finds objects before and after that make an event of a type; nil stands for an object that is not there.
func (a *author) change(typ string, cases []wordCase) (before, after runtime.Object, ok bool) {
	a.t.Helper()
	k := a.kind
	if i := slices.IndexFunc(cases, func(c wordCase) bool { return c.want == typ }); i >= 0 {
		before, after = cases[i].change(k)
		return a.named(before), a.named(after), true
	}
	before, after = a.named(k.New()), a.named(k.New())
	if EventType(k, nil, after) == typ {
		return nil, after, true
	}
	if EventType(k, before, nil) == typ {
		return before, nil, true
	}
	m, err := meta.Accessor(after)
	if err != nil {
		a.t.Fatal(err)
	}
	deleted := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	for _, change := range []func(){
		func() { m.SetLabels(map[string]string{"app": "web", "naïve": "<é>"}) },
		func() { m.SetAnnotations(map[string]string{"example.com/note": "line\nline"}) },
		func() { m.SetFinalizers([]string{"example.com/keep"}) },
		func() {
			m.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "o-1"}})
		},
		func() { m.SetDeletionTimestamp(&deleted) },
		func() { m.SetGenerateName("web-") },
		func() { fillField(after, func(field string) bool { return field == "Status" }) },
		func() { fillField(after, func(field string) bool { return field != "Status" }) },
	} {
		after = a.named(k.New())
		if m, err = meta.Accessor(after); err != nil {
			a.t.Fatal(err)
		}
		change()
		if EventType(k, before, after) == typ {
			return before, after, true
		}
	}
	return nil, nil, false
}

// fillField sets something in the first field of an object, besides its metadata, that which allows and that can be set.
func fillField(o runtime.Object, which func(field string) bool) {
	v := reflect.ValueOf(o).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if name != "TypeMeta" && name != "ObjectMeta" && which(name) && setSome(v.Field(i), 0) {
			return
		}
	}
}

// setSome gives a value, or the first part of it that takes one, something else than zero.
func setSome(v reflect.Value, depth int) bool {
	if depth > 8 || !v.CanSet() {
		return false
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return false // raw JSON, perhaps
		}
		one := reflect.New(v.Type().Elem()).Elem()
		setSome(one, depth+1)
		v.Set(reflect.Append(reflect.MakeSlice(v.Type(), 0, 1), one))
	case reflect.Map:
		if v.Type().Key().Kind() != reflect.String {
			return false
		}
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("k").Convert(v.Type().Key()), reflect.New(v.Type().Elem()).Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if setSome(v.Field(i), depth+1) {
				return true
			}
		}
		return false
	default:
		return false
	}
	return true
}

// named gives an object the names that all of the corpus have.
func (a *author) named(o runtime.Object) runtime.Object {
	a.t.Helper()
	o = o.DeepCopyObject()
	m, err := meta.Accessor(o)
	if err != nil {
		a.t.Fatal(err)
	}
	m.SetName("web-1")
	m.SetUID("0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f")
	if a.kind.Namespaced {
		m.SetNamespace("default")
	}
	return o
}

// write records what leads from the object as it is to another, if anything does.
func (a *author) write(typed runtime.Object) (recorded, bool) {
	a.t.Helper()
	e := Event{Type: EventType(a.kind, a.typed, typed), Op: Changed, Command: CommandInfo{Verb: "patch"}}
	switch {
	case typed == nil && a.typed == nil:
		return recorded{}, false
	case typed == nil:
		e.Op, e.Command.Verb = Deleted, "delete"
	default:
		data, err := Encode(a.kind, typed)
		if err != nil {
			a.t.Fatal(err)
		}
		if e.Change = data; a.typed == nil {
			e.Op, e.Command.Verb = Created, "create"
		} else if e.Change, err = Delta(a.kind, a.state.JSON, data); err != nil {
			a.t.Fatal(err)
		}
		if len(e.Change) == 0 {
			return recorded{}, false
		}
	}
	r := a.append(e)
	a.typed = typed
	return r, true
}

// fact records an event that changes nothing.
func (a *author) fact(typ string) []recorded {
	return []recorded{a.append(Event{Type: typ, Command: CommandInfo{Verb: "delete", DryRun: true}, Evidence: json.RawMessage(`{"code":403,"reason":"Forbidden"}`)})}
}

func (a *author) append(e Event) recorded {
	a.t.Helper()
	a.position++
	revision := uint64(0)
	if a.state.Seen {
		revision = a.state.Revision + 1
	}
	namespace := ""
	if a.kind.Namespaced {
		namespace = "default"
	}
	e.Ref = a.kind.Ref(namespace, "web-1")
	e.Ref.UID = types.UID("0f1c6a9e-6a54-4f7e-9d6b-0d6a5e0b4c1f")
	e.ID = fmt.Sprintf("00000000-0000-4000-8000-%012d", a.position)
	e.Correlation = "6a54f7e0-0000-4000-8000-000000000000"
	e.Actor = Actor{User: "system:node:n1", UID: "7", Groups: []string{"system:nodes"}, UserAgent: "kubelet", SourceIP: "192.0.2.7"}
	e.Command.RequestID = fmt.Sprint("r-", a.position)
	if revision > 0 {
		e.Cause = &Cause{ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", a.position-1), Position: a.position - 1}
	}
	e.Position, e.Revision = a.position, revision
	e.Time = time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC).Add(time.Duration(revision) * time.Second)
	data, metadata, err := MarshalEvent(e)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.state, err = a.state.Apply(e); err != nil {
		a.t.Fatal(err)
	}
	r := recorded{Type: e.Type, ID: e.ID, Data: data, Metadata: metadata, Position: e.Position, Revision: e.Revision, Created: e.Time.Add(time.Millisecond)}
	if a.state.Exists {
		r.Folded = a.state.JSON
	}
	return r
}

// A corpus that is replayed by nobody would not notice anything: the test above is held against a record that means something else.
func TestCorpusNotices(t *testing.T) {
	records := readCorpus(t, filepath.Join(corpusDir(1), "pods.jsonl"))
	i := slices.IndexFunc(records, func(r recorded) bool { return r.Type == "PodBound" })
	if i < 0 {
		t.Fatal("the corpus holds no PodBound")
	}
	e, err := records[i].read()
	if err != nil || e.Op != Changed || !strings.Contains(string(e.Change), "nodeName") || !strings.Contains(string(records[i].Folded), `"nodeName":"n1"`) {
		t.Errorf("PodBound is %+v, %v, and led to %s", e, err, records[i].Folded)
	}
}
