package domain

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/meta"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
	"sigs.k8s.io/randfill"
)

// rawJSON fills what holds JSON of any form.
func rawJSON(serializer.CodecFactory) []any {
	return []any{func(r *runtime.RawExtension, c randfill.Continue) {
		r.Object = nil
		r.Raw = []byte(fmt.Sprintf(`{"z": %d, "a": [ "%x", null ]}`, c.Int63(), c.Uint64()))
	}}
}

func fillerFor(seed int64) *randfill.Filler {
	codecs := serializer.NewCodecFactory(runtime.NewScheme())
	f := fuzzer.FuzzerFor(fuzzer.MergeFuzzerFuncs(metafuzzer.Funcs, rawJSON), rand.NewSource(seed), codecs)
	return f.NumElements(0, 2).NilChance(0.5)
}

// fill makes a random object of a kind.
func fill(k *Kind, f *randfill.Filler, uid types.UID) runtime.Object {
	obj := k.New()
	f.Fill(obj)
	obj.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind())
	m, _ := meta.Accessor(obj)
	m.SetName("n")
	m.SetNamespace("ns")
	m.SetUID(uid)
	return obj
}

// graft replaces some fields of an object, at some depth, by those of another of the same type.
func graft(r *rand.Rand, into, from reflect.Value) {
	switch into.Kind() {
	case reflect.Pointer:
		if into.IsNil() || from.IsNil() {
			into.Set(from)
			return
		}
		graft(r, into.Elem(), from.Elem())
	case reflect.Struct:
		for i := range into.NumField() {
			if field := into.Field(i); field.CanSet() && r.Intn(3) == 0 {
				graft(r, field, from.Field(i))
			}
		}
	case reflect.Slice:
		n := min(into.Len(), from.Len())
		if n == 0 || into.Type().Elem().Kind() == reflect.Uint8 || r.Intn(2) == 0 { // bytes are one value
			into.Set(from)
			return
		}
		i := r.Intn(n)
		graft(r, into.Index(i), from.Index(i))
	default:
		if into.CanSet() {
			into.Set(from)
		}
	}
}

// history draws the life of an object's name: the events, and the object's canonical JSON after each (nil: deleted).
func history(k *Kind, seed int64, steps int) (events []Event, states [][]byte, err error) {
	r, f := rand.New(rand.NewSource(seed)), fillerFor(seed)
	var obj runtime.Object
	var now []byte
	incarnation := 0
	for i := range steps {
		e := Event{
			ID: fmt.Sprint(i), Ref: k.Ref("ns", "n"), Actor: Actor{User: "u", Groups: []string{"g"}}, Command: CommandInfo{Verb: "v"}, Correlation: "c",
			Time: time.Unix(int64(i), 5).UTC(), Position: uint64(10 * (i + 1)), Revision: uint64(i), Version: SchemaVersion,
		}
		before := obj
		switch {
		case obj == nil:
			incarnation++
			obj = fill(k, f, types.UID(fmt.Sprint("uid-", incarnation)))
			e.Op = Created
			now, err = Encode(k, obj)
			e.Change = now
		case r.Intn(5) == 0:
			e.Op = Deleted
			obj, now = nil, nil
		default:
			next := obj.DeepCopyObject()
			graft(r, reflect.ValueOf(next), reflect.ValueOf(fill(k, f, types.UID(fmt.Sprint("uid-", incarnation)))))
			var after []byte
			if after, err = Encode(k, next); err == nil {
				e.Op = Changed
				e.Change, err = Delta(k, now, after)
			}
			obj, now = next, after
			if err == nil && len(e.Change) == 0 { // nothing changed: a fact instead
				e.Op = ""
			}
		}
		if err != nil {
			return nil, nil, err
		}
		e.Ref.UID = types.UID(fmt.Sprint("uid-", incarnation))
		e.Type = EventType(k, before, obj)
		events, states = append(events, e), append(states, now)
	}
	return events, states, nil
}

// TestFoldIsTheObject is the law that the log is the truth: for every kind, over any history, written to the wire and read
// again, the fold of the events is the object, to the byte.
func TestFoldIsTheObject(t *testing.T) {
	for _, k := range Kinds() {
		t.Run(k.Kind, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				events, states, err := history(k, rapid.Int64().Draw(t, "seed"), rapid.IntRange(1, 8).Draw(t, "steps"))
				if err != nil {
					t.Fatal(err)
				}
				var s State
				for i, e := range events {
					data, metadata, err := MarshalEvent(e)
					if err != nil {
						t.Fatal(err)
					}
					read, err := UnmarshalEvent(e.Type, e.ID, data, metadata, e.Position, e.Revision, time.Time{})
					if err != nil {
						t.Fatal(err)
					}
					if !reflect.DeepEqual(read, e) {
						t.Fatalf("the wire changed the event:\n got %+v\nwant %+v", read, e)
					}
					if s, err = s.Apply(read); err != nil {
						t.Fatal(err)
					}
					if s.Exists != (states[i] != nil) || s.Exists && !bytes.Equal(s.JSON, states[i]) {
						t.Fatalf("after event %d:\n the fold is %s\nthe object is %s", i, s.JSON, states[i])
					}
					if !s.Exists {
						continue
					}
					if s.UID != e.Ref.UID || s.Revision != e.Revision || e.Op != "" && s.Position != e.Position {
						t.Fatalf("after event %d: %+v", i, s)
					}
					typed, err := Decode(k, s.JSON, s.Position)
					if err != nil {
						t.Fatal(err)
					}
					again, err := Encode(k, typed)
					if err != nil || !bytes.Equal(again, s.JSON) {
						t.Fatalf("decoded and encoded again:\n got %s, %v\nwant %s", again, err, s.JSON)
					}
				}
			})
		})
	}
}

func TestFoldRefuses(t *testing.T) {
	ref := Ref{Resource: "pods", Namespace: "a", Name: "b", UID: "u"}
	other := ref
	other.UID = "v"
	there := State{JSON: []byte(`{"a":1}`), UID: "u", Revision: 4, Position: 40, Exists: true, Seen: true}
	gone := there
	gone.Exists = false
	for _, c := range []struct {
		name  string
		given State
		event Event
		want  error
	}{
		{"a creation of what is there", there, Event{Ref: ref, Op: Created, Revision: 5, Change: []byte(`{}`)}, ErrExists},
		{"a creation of nothing", gone, Event{Ref: ref, Op: Created, Revision: 5}, ErrBadDelta},
		{"a delta before any creation", State{}, Event{Ref: ref, Op: Changed, Change: []byte(`{"=a":2}`)}, ErrNoBase},
		{"a delta after the deletion", gone, Event{Ref: ref, Op: Changed, Revision: 5, Change: []byte(`{"=a":2}`)}, ErrNoBase},
		{"a whole object after the deletion", gone, Event{Ref: ref, Op: Changed, Revision: 5, Change: []byte(`{"":{}}`)}, ErrNoBase},
		{"a second deletion", gone, Event{Ref: ref, Op: Deleted, Revision: 5}, ErrNoBase},
		{"another incarnation", there, Event{Ref: other, Op: Changed, Revision: 5, Change: []byte(`{"=a":2}`)}, ErrWrongBase},
		{"a gap", there, Event{Ref: ref, Op: Changed, Revision: 6, Change: []byte(`{"=a":2}`)}, ErrWrongBase},
		{"a delta of another state", there, Event{Ref: ref, Op: Changed, Revision: 5, Change: []byte(`{"-b":null}`)}, ErrWrongBase},
		{"a damaged delta", there, Event{Ref: ref, Op: Changed, Revision: 5, Change: []byte(`{"`)}, ErrBadDelta},
		{"the same event again", there, Event{Ref: ref, Op: Changed, Revision: 4, Change: []byte(`{"=a":2}`)}, ErrOutOfOrder},
		{"an unknown operation", there, Event{Ref: ref, Op: "moved", Revision: 5}, ErrUnknownOp},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.given.Apply(c.event)
			if fold := (*FoldError)(nil); !errors.As(err, &fold) || !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if !reflect.DeepEqual(got, c.given) {
				t.Errorf("the state changed: %+v", got)
			}
		})
	}
}

func TestFoldOfABoundedStream(t *testing.T) {
	var s State
	for _, e := range []Event{
		{Op: Changed, Revision: 7, Position: 70, Ref: Ref{Resource: "leases", Name: "l", UID: "u"}, Change: Whole([]byte(`{"a":1}`))},
		{Op: Changed, Revision: 9, Position: 90, Ref: Ref{Resource: "leases", Name: "l", UID: "u"}, Change: Whole([]byte(`{"a":2}`))},
	} {
		var err error
		if s, err = s.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	if !s.Exists || string(s.JSON) != `{"a":2}` || s.UID != "u" || s.Revision != 9 || s.Position != 90 {
		t.Errorf("%+v", s)
	}
	s, err := s.Apply(Event{Op: "", Revision: 10, Position: 100})
	if err != nil || s.Position != 90 || s.Revision != 10 || string(s.JSON) != `{"a":2}` {
		t.Errorf("a fact changed more than the revision: %+v, %v", s, err)
	}
	if s, err = s.Apply(Event{Op: Deleted, Revision: 11, Position: 110}); err != nil || s.Exists || string(s.JSON) != `{"a":2}` {
		t.Errorf("after the deletion: %+v, %v", s, err)
	}
}

func TestEveryWordIsASentence(t *testing.T) {
	seen := map[string]string{}
	for _, k := range Kinds() {
		for _, w := range EventTypes(k) {
			if other, dup := seen[w.Type]; dup {
				t.Errorf("%s and %s both have the word %s", other, k.Kind, w.Type)
			}
			seen[w.Type] = k.Kind
			if w.Match == nil || !strings.HasSuffix(w.Doc, ".") || len(w.Doc) < 10 {
				t.Errorf("%s has no sentence that explains it", w.Type)
			}
		}
	}
}

// TestWordsAreKnown: whatever happens to an object, the catalogue has the word for it.
func TestWordsAreKnown(t *testing.T) {
	for _, k := range Kinds() {
		known := map[string]bool{}
		for _, w := range EventTypes(k) {
			known[w.Type] = true
		}
		for seed := range int64(20) {
			events, _, err := history(k, seed, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if !known[e.Type] {
					t.Errorf("%s: the catalogue does not know %s", k.Kind, e.Type)
				}
			}
		}
	}
}
