package view

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// What stands in the place of what is withheld. The second says that the value is another than before, and nothing else about it.
const (
	withheld        = `"(withheld)"`
	withheldChanged = `"(withheld, changed)"`
)

// lastApplied is where kubectl apply keeps a copy of what it was given.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// Withholds says whether parts of the objects of a resource are never given out.
func Withholds(gr domain.Resource) bool { return gr.Group == "" && gr.Resource == "secrets" }

// Document is what may be shown of an object: its canonical JSON, what a secret holds replaced. One that cannot be read so is
// not shown at all.
func Document(o *projections.Object) []byte {
	document, err := o.Document()
	if err != nil {
		return []byte("{}")
	}
	return Shown(o.Ref.GroupResource(), document, nil)
}

// Shown is what may be shown of a document of a resource, as a change from another one when that is given.
func Shown(gr domain.Resource, document, before []byte) []byte {
	if !Withholds(gr) || len(document) == 0 {
		return document
	}
	out, err := redact(document, before)
	if err != nil {
		return []byte("{}")
	}
	return out
}

// redact replaces what a secret holds.
func redact(document, before []byte) ([]byte, error) {
	now, err := members(document)
	if err != nil {
		return nil, err
	}
	then, err := members(before)
	if err != nil {
		return nil, err
	}
	for _, key := range []string{"data", "stringData"} {
		if err := redactMembers(now, then, key, ""); err != nil {
			return nil, err
		}
	}
	if now["metadata"] != nil {
		metadata, err := members(now["metadata"])
		if err != nil {
			return nil, err
		}
		thenMetadata, err := members(then["metadata"])
		if err != nil {
			return nil, err
		}
		if err := redactMembers(metadata, thenMetadata, "annotations", lastApplied); err != nil {
			return nil, err
		}
		if now["metadata"], err = json.Marshal(metadata); err != nil {
			return nil, err
		}
	}
	raw, err := json.Marshal(now)
	if err != nil {
		return nil, err
	}
	return domain.Canonical(raw)
}

// redactMembers replaces the members of object[key], or only one of them.
func redactMembers(object, before map[string]json.RawMessage, key, only string) error {
	if object[key] == nil {
		return nil
	}
	now, err := members(object[key])
	if err != nil {
		return err
	}
	then, err := members(before[key])
	if err != nil {
		return err
	}
	for name, value := range now {
		if only != "" && name != only {
			continue
		}
		now[name] = json.RawMessage(withheld)
		if old, was := then[name]; was && !bytes.Equal(old, value) {
			now[name] = json.RawMessage(withheldChanged)
		}
	}
	object[key], err = json.Marshal(now)
	return err
}

func members(raw []byte) (map[string]json.RawMessage, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("reading a secret: %w", err)
	}
	return m, nil
}

// Changes tells field by field how an object became another (nil: it was not there), without what is withheld, and without
// metadata.managedFields, the bookkeeping of who wrote which field, which kubectl does not show either.
func Changes(before, after *projections.Object) ([]domain.FieldChange, error) {
	c, err := projections.Compare(before, after)
	if err != nil {
		return nil, err
	}
	var gr domain.Resource
	for _, o := range []*projections.Object{before, after} {
		if o != nil {
			gr = o.Ref.GroupResource()
		}
	}
	changes, err := documentChanges(gr, c.Before, c.After)
	if c.Payload != nil {
		changes = append(changes, *c.Payload)
	}
	return changes, err
}

func documentChanges(gr domain.Resource, before, after []byte) ([]domain.FieldChange, error) {
	changes, err := domain.Describe(Shown(gr, before, nil), Shown(gr, after, before))
	return slices.DeleteFunc(changes, func(c domain.FieldChange) bool { return strings.HasPrefix(c.Path, "metadata.managedFields") }), err
}
