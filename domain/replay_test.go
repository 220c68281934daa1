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
				var known Known
				for i, e := range events {
					data, metadata, err := MarshalEvent(e)
					if err != nil {
						t.Fatal(err)
					}
					record := Record{Type: e.Type, Data: data, Metadata: metadata, Position: e.Position, Revision: e.Revision}
					brief, ok := record.Brief()
					if !ok {
						t.Fatalf("event %d has to be read whole", i)
					}
					want := Event{Type: e.Type, Ref: e.Ref, Op: e.Op, Change: e.Change, Position: e.Position, Revision: e.Revision, Version: e.Version}
					if !reflect.DeepEqual(brief, want) {
						t.Fatalf("event %d:\n got %+v\nwant %+v", i, brief, want)
					}
					if s, err = s.Apply(e); err != nil {
						t.Fatal(err)
					}
					stepped, err := r.Step(record, &known)
					if err != nil {
						t.Fatal(err)
					}
					if expected := e.Op == Changed && e.Ref == known.Ref && len(e.Change) > 0; stepped != expected {
						t.Fatalf("event %d, after one of %v: stepped over: %v", i, known.Ref, stepped)
					}
					if !stepped {
						if err := r.Apply(brief); err != nil {
							t.Fatal(err)
						}
						known = Known{Ref: e.Ref}
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

func TestBriefLeavesWhatIsSpecial(t *testing.T) {
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
		if e, ok := r.Brief(); ok {
			t.Errorf("%s: read as %+v", name, e)
		}
	}
}

// TestStepReadsWhatFollowsTheChange: what a record says behind the change is nothing to a fold, as long as it is JSON.
func TestStepReadsWhatFollowsTheChange(t *testing.T) {
	base := Event{Type: "PodBound", Ref: Ref{Resource: "pods", Name: "a"}, Op: Created, Change: []byte(`{"a":1}`)}
	change := Event{Type: "PodBound", Ref: base.Ref, Op: Changed, Change: []byte(`{"=a":2}`), Revision: 1, Position: 1}
	data, metadata, err := MarshalEvent(change)
	if err != nil {
		t.Fatal(err)
	}
	for tail, good := range map[string]bool{
		`}`: true, `,"evidence":{"a":[1,"}"]}}`: true, `,"a":1,"b":"c"}`: true,
		``: false, `}}`: false, `,`: false, `,}`: false, `,"a"}`: false, `,"a":}`: false, `,"a":1`: false, `,"a":1}x`: false, `]`: false, `} `: false,
	} {
		for _, whole := range []bool{false, true} {
			var r Replay
			if err := r.Apply(base); err != nil {
				t.Fatal(err)
			}
			record := Record{Type: change.Type, Data: append(data[:len(data)-1:len(data)-1], tail...), Metadata: metadata, Position: 1, Revision: 1}
			ok, err := true, error(nil)
			if !whole {
				ok, err = r.Step(record, &Known{Ref: base.Ref})
			} else if e, briefly := record.Brief(); briefly { // which must be of the same opinion
				err = r.Apply(e)
			} else {
				err = ErrBadJSON
			}
			if !ok || (err == nil) != good {
				t.Errorf("%q, read whole %v: got %v, %v", tail, whole, ok, err)
			}
			if got := string(r.State().JSON); good && got != `{"a":2}` {
				t.Errorf("%q, read whole %v: got %s", tail, whole, got)
			}
		}
	}
}
