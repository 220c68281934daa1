package domain

import (
	"bytes"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestReplayIsTheFold: for every kind, over any history, a replay of what the wire holds stands where the fold stands after each
// event, whenever its JSON was asked for before.
func TestReplayIsTheFold(t *testing.T) {
	for _, k := range Kinds() {
		t.Run(k.Kind, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				events, _, err := history(k, rapid.Int64().Draw(t, "seed"), rapid.IntRange(1, 12).Draw(t, "steps"))
				if err != nil {
					t.Fatal(err)
				}
				ask := rapid.SliceOfN(rapid.Bool(), len(events), len(events)).Draw(t, "ask")
				var s State
				var r Replay
				var known Ref
				for i, e := range events {
					data, metadata, err := MarshalEvent(e)
					if err != nil {
						t.Fatal(err)
					}
					step, ok := Record{Type: e.Type, Data: data, Metadata: metadata, Position: e.Position, Revision: e.Revision}.Step(known)
					if !ok {
						t.Fatalf("event %d has to be read whole", i)
					}
					known = step.Ref
					want := Event{Type: e.Type, Ref: e.Ref, Op: e.Op, Change: e.Change, Position: e.Position, Revision: e.Revision, Version: e.Version}
					if !reflect.DeepEqual(step, want) {
						t.Fatalf("event %d:\n got %+v\nwant %+v", i, step, want)
					}
					if s, err = s.Apply(e); err != nil {
						t.Fatal(err)
					}
					if err := r.Apply(step); err != nil {
						t.Fatal(err)
					}
					clear(data) // a replay keeps nothing of a record
					if r.Exists() != s.Exists {
						t.Fatalf("event %d: it exists: %v", i, r.Exists())
					}
					if !ask[i] && i < len(events)-1 {
						continue
					}
					if got := r.State(); !reflect.DeepEqual(got, s) {
						t.Fatalf("after event %d:\n got %s\nwant %s\n got %+v\nwant %+v", i, got.JSON, s.JSON, got, s)
					}
				}
			})
		})
	}
}

// TestDraftRefuses: whatever Patch makes of a delta, a draft makes of it too, refusals included.
func TestDraftRefuses(t *testing.T) {
	documents := []string{
		`{"a":1,"b":{"c":[1,2,3],"d":"text"},"e":[]}`, `[1,{"a":2},"x"]`, `"text"`, `7`, `{}`, `{"b":{"c":{"d":1}}}`, `{"b":[`, ``,
	}
	deltas := []string{
		`{"":null}`, `{"":{"a":1}}`, `{"=a":2}`, `{"=aa":2,"=z":3}`, `{"-a":null}`, `{"-z":null}`, `{"~b":{"=c":1}}`, `{"~b":{"-c":null,"-d":null}}`,
		`{"~b":{"@c":[1,-1,[7,8],1]}}`, `{"~b":{"@c":[4]}}`, `{"~b":{"@c":[0]}}`, `{"~b":{"@c":["x"]}}`, `{"~b":{"@c":[{"":9}]}}`, `{"~b":{"@c":[{"=a":9}]}}`,
		`{"~b":{"^d":[1,1,"EX"]}}`, `{"~b":{"^d":[9,9,""]}}`, `{"~b":{"^d":[1]}}`, `{"~a":{"=b":1}}`, `{"@a":[1]}`, `{"^a":[0,0,""]}`, `{"@e":[[1,[2]]]}`, `{"@e":[1]}`,
		`{"@":[1,{"=a":3},-1]}`, `{"@":[[0]]}`, `{"@":[-3]}`, `{"^":[0,0,"more "]}`, `{"?a":1}`, `{"=a":1,"@":[1]}`, `{}`, `{"`, `[]`, ``, `{"=b":1,"=a":2}`,
		`{"~b":{"~c":{"=d":2}}}`, `{"@":[{"=b":1}]}`, `{"@":[1,{"-a":null,"=c":[]}]}`, `{"~b":{"@c":[3,[4]],"=x":{}}}`,
	}
	for _, document := range documents {
		for _, delta := range deltas {
			want, wantErr := Patch([]byte(document), []byte(delta))
			d := NewDraft([]byte(document))
			err := d.Patch([]byte(delta))
			kinds := []error{ErrBadDelta, ErrWrongBase, ErrBadJSON}
			if document == `{"b":[` { // which of its faults is met first is not promised
				kinds = nil
			}
			for _, kind := range kinds {
				if errors.Is(err, kind) != errors.Is(wantErr, kind) {
					t.Errorf("%s with %s: got error %v, want %v", document, delta, err, wantErr)
				}
			}
			if (err == nil) != (wantErr == nil) {
				t.Errorf("%s with %s: got error %v, want %v", document, delta, err, wantErr)
			}
			if err == nil && !bytes.Equal(d.JSON(), want) {
				t.Errorf("%s with %s: got %s, want %s", document, delta, d.JSON(), want)
			}
		}
	}
}

func TestStepLeavesWhatIsSpecial(t *testing.T) {
	if want := `"version":` + strconv.Itoa(SchemaVersion) + `}`; currentVersion != want {
		t.Fatalf("the metadata of this schema's events ends in %s: change currentVersion", want)
	}
	e := Event{ID: "x", Type: "PodBound", Ref: Ref{Resource: "pods", Name: "a"}, Op: Changed, Change: []byte(`{"=a":1}`), Time: time.Unix(1, 0)}
	data, metadata, err := MarshalEvent(e)
	if err != nil {
		t.Fatal(err)
	}
	e.Mandatory = true
	_, mandatory, err := MarshalEvent(e)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]Record{
		"another version":   {Data: data, Metadata: []byte(strings.Replace(string(metadata), `"version":1`, `"version":7`, 1))},
		"mandatory":         {Data: data, Metadata: mandatory},
		"no metadata":       {Data: data},
		"data that is none": {Data: []byte(`[1]`), Metadata: metadata},
		"no reference":      {Data: []byte(`{"op":"changed"}`), Metadata: metadata},
	} {
		if e, ok := r.Step(Ref{}); ok {
			t.Errorf("%s: read as %+v", name, e)
		}
	}
}
