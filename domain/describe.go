package domain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// FieldChange says what an event did to one field.
type FieldChange struct {
	// Path names the field as people do: "spec.replicas", "status.conditions[type=Ready].status",
	// `metadata.annotations["a/b"]`; "" is the whole document. Elements of lists are named by what identifies them, or else by
	// their place after the change (for what went: before it).
	Path   string          `json:"path"`
	Before json.RawMessage `json:"before,omitempty"` // nil: the field was not there
	After  json.RawMessage `json:"after,omitempty"`  // nil: the field is no longer there
}

// DescribeDelta tells field by field what a delta changes in a document, in the order of the document. A field that appears or
// goes with everything in it is one change.
func DescribeDelta(before, delta []byte) ([]FieldChange, error) {
	if len(delta) == 0 {
		return nil, nil
	}
	after, err := Patch(before, delta)
	if err != nil {
		return nil, fmt.Errorf("describing a delta: %w", err)
	}
	out, err := Describe(before, after)
	if err != nil {
		return nil, fmt.Errorf("describing a delta: %w", err)
	}
	return out, nil
}

// Describe tells field by field how two canonical documents differ, in the order of the document; an empty one is not there.
func Describe(before, after []byte) ([]FieldChange, error) {
	d := describer{}
	d.value("", before, after)
	if d.bad {
		return nil, fmt.Errorf("comparing two documents: %w", ErrBadJSON)
	}
	return d.out, nil
}

type describer struct {
	out []FieldChange
	bad bool
}

func (d *describer) value(path string, before, after []byte) {
	switch {
	case bytes.Equal(before, after):
	case len(before) > 0 && len(after) > 0 && before[0] == '{' && after[0] == '{':
		d.object(path, before, after)
	case len(before) > 0 && len(after) > 0 && before[0] == '[' && after[0] == '[':
		d.list(path, before, after)
	default:
		d.out = append(d.out, FieldChange{Path: path, Before: before, After: after})
	}
}

func (d *describer) object(path string, before, after []byte) {
	b, a := scanObject(before), scanObject(after)
	bk, bv, bok := b.next()
	ak, av, aok := a.next()
	for bok || aok {
		order := bytes.Compare(bk, ak)
		switch {
		case !aok || bok && order < 0:
			d.value(joinKey(path, bk), bv, nil)
			bk, bv, bok = b.next()
		case !bok || order > 0:
			d.value(joinKey(path, ak), nil, av)
			ak, av, aok = a.next()
		default:
			d.value(joinKey(path, ak), bv, av)
			bk, bv, bok = b.next()
			ak, av, aok = a.next()
		}
	}
	d.bad = d.bad || b.bad || a.bad
}

func (d *describer) list(path string, before, after []byte) {
	b, okB := elements(before)
	a, okA := elements(after)
	if !okB || !okA {
		d.bad = true
		return
	}
	said := len(d.out)
	if named, ok := names(path, b); ok && d.byName(path, named, b, a) {
		if len(d.out) == said { // only their order is another
			d.out = append(d.out, FieldChange{Path: path, Before: before, After: after})
		}
		return
	}
	prefix, suffix := sameEnds(b, a)
	atB, atA := prefix, prefix
	for _, x := range align(b[prefix:len(b)-suffix], a[prefix:len(a)-suffix]) {
		switch {
		case x.after == nil:
			d.value(joinElement(path, x.before, atB), x.before, nil)
		case x.before == nil:
			d.value(joinElement(path, x.after, atA), nil, x.after)
		case x.before[0] == '{' && x.after[0] == '{' && joinElement("", x.before, 0) != joinElement("", x.after, 0):
			// Two that only stand in the same place are not one that was renamed.
			d.value(joinElement(path, x.before, atB), x.before, nil)
			d.value(joinElement(path, x.after, atA), nil, x.after)
		default:
			d.value(joinElement(path, x.after, atA), x.before, x.after)
		}
		if x.before != nil {
			atB++
		}
		if x.after != nil {
			atA++
		}
	}
}

// byName compares lists whose elements have names, in whatever order they stand; false when those after have none.
func (d *describer) byName(path string, before map[string][]byte, b, a [][]byte) bool {
	after, ok := names(path, a)
	if !ok {
		return false
	}
	for _, e := range b {
		name := joinElement(path, e, 0)
		d.value(name, e, after[name])
	}
	for _, e := range a {
		if name := joinElement(path, e, 0); before[name] == nil {
			d.value(name, nil, e)
		}
	}
	return true
}

// names returns the elements of a list by their paths, when all are objects with names of their own.
func names(path string, list [][]byte) (map[string][]byte, bool) {
	out := make(map[string][]byte, len(list))
	for i, e := range list {
		name := joinElement(path, e, i)
		if _, taken := out[name]; taken || e[0] != '{' || name == placed(path, i) {
			return nil, false
		}
		out[name] = e
	}
	return out, true
}

func placed(path string, place int) string { return path + "[" + strconv.Itoa(place) + "]" }

// joinKey adds a member to a path; a key that is not a plain word is quoted.
func joinKey(path string, key []byte) string {
	plain := len(key) > 0
	for _, b := range key {
		plain = plain && (b == '_' || b == '-' || b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z')
	}
	switch {
	case !plain:
		return path + `["` + string(key) + `"]`
	case path == "":
		return string(key)
	}
	return path + "." + string(key)
}

// naming are the members by which a path names an element, the best first.
var naming = [...]string{"name", "type", "uid", "manager", "key", "ip", "containerPort", "mountPath"}

func joinElement(path string, element []byte, place int) string {
	if element[0] == '{' {
		for _, key := range naming {
			if v := lookup(element, key); v != nil && v[0] != '{' && v[0] != '[' {
				name := strings.Trim(string(v), `"`)
				if key == "manager" { // one manager may have several entries
					if s := lookup(element, "subresource"); s != nil {
						name += "/" + strings.Trim(string(s), `"`)
					}
				}
				return path + "[" + key + "=" + name + "]"
			}
		}
	}
	return placed(path, place)
}
