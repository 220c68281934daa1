package domain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// olderShape is an upcaster from a schema version that never was, in which testdata/upcast/v1.jsonl is written: data named its object in
// one text and did not say what it did to it, and a change was the whole object.
func olderShape(r Record) (Record, error) {
	var old struct {
		Object string          `json:"object"` // <resource>[.<group>]/[<namespace>/]<name>
		UID    string          `json:"uid"`
		Before json.RawMessage `json:"before"`
		After  json.RawMessage `json:"after"`
	}
	if err := json.Unmarshal(r.Data, &old); err != nil {
		return r, fmt.Errorf("%w: %w", ErrBadEvent, err)
	}
	parts := strings.Split(old.Object, "/")
	resource, group, _ := strings.Cut(parts[0], ".")
	ref := map[string]string{"group": group, "resource": resource, "name": parts[len(parts)-1], "uid": old.UID}
	if len(parts) == 3 {
		ref["namespace"] = parts[1]
	}
	data := map[string]any{"ref": ref}
	switch {
	case old.Before == nil && old.After == nil:
	case old.Before == nil:
		data["op"], data["change"] = Created, old.After
	case old.After == nil:
		data["op"] = Deleted
	default:
		before, err := Canonical(old.Before)
		if err != nil {
			return r, err
		}
		after, err := Canonical(old.After)
		if err != nil {
			return r, err
		}
		change, err := Diff(before, after)
		if err != nil {
			return r, err
		}
		data["op"], data["change"] = Changed, json.RawMessage(change)
	}
	var err error
	if r.Data, err = json.Marshal(data); err != nil {
		return r, err
	}
	if r.Data, err = Canonical(r.Data); err != nil { // the delta's numbers stay as they are written
		return r, err
	}
	if r.Type == "PodAssigned" { // a word of old
		r.Type = "PodBound"
	}
	r.Metadata = bytes.Replace(r.Metadata, []byte(`"version":1`), []byte(`"version":2`), 1)
	return r, nil
}

// TestAnOlderSchemaIsRead: a log in an older shape is read through an upcaster and folds, to the byte, to what it should; records of the
// current shape among it are read as they are.
func TestAnOlderSchemaIsRead(t *testing.T) {
	corpus, err := os.ReadFile(filepath.Join("testdata", "upcast", "v1.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var s State
	var types []string
	for _, line := range strings.Split(strings.TrimSpace(string(corpus)), "\n") {
		var g recorded
		if err := json.Unmarshal([]byte(line), &g); err != nil {
			t.Fatal(err)
		}
		given := Record{Type: g.Type, ID: g.ID, Data: g.Data, Metadata: g.Metadata, Position: g.Position, Revision: g.Revision, Created: g.Created}
		data := bytes.Clone(g.Data)
		r, err := upcast(given, []Upcaster{olderShape}, 2)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(g.Data, data) {
			t.Fatal("an upcaster changed what it was given")
		}
		e, err := r.event()
		if err != nil {
			t.Fatal(err)
		}
		if s, err = s.Apply(e); err != nil {
			t.Fatal(err)
		}
		types = append(types, e.Type)
		folded := s.JSON
		if !s.Exists {
			folded = nil
		}
		if string(folded) != string(g.Folded) {
			t.Errorf("%s at revision %d leads to\n%s\nwant\n%s", e.Type, e.Revision, folded, g.Folded)
		}
		if e.Actor.User != "alice" || e.Command.Verb == "" {
			t.Errorf("%s: %+v", e.Type, e)
		}
	}
	if got, want := strings.Join(types, " "), "PodCreated PodBound PodLabelsChanged RequestRefused PodDeleted"; got != want {
		t.Errorf("read %s, want %s", got, want)
	}
	var newer *UnknownVersionError
	if _, err := upcast(Record{Metadata: []byte(`{"version":3}`)}, []Upcaster{olderShape}, 2); !errors.As(err, &newer) {
		t.Errorf("a newer record among them: %v", err)
	}
}
