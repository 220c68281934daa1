package history

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Blame is one line of an object, with the event that made it what it is.
type Blame struct {
	Depth int     `json:"depth"`
	Line  string  `json:"line"` // as YAML writes it, without indentation
	Path  string  `json:"path"`
	By    *Setter `json:"by,omitempty"` // nil for a line that only holds others together
}

// Setter is the event that gave a field its value.
type Setter struct {
	Position uint64       `json:"position"`
	Time     time.Time    `json:"time"`
	Type     string       `json:"type"`
	Actor    domain.Actor `json:"actor"`
}

// BlameObject returns an object as of a position (0: now, or as it was last), line by line, with the event that set each value.
func BlameObject(ctx context.Context, h projections.History, ref domain.Ref, position uint64) ([]Blame, error) {
	events, err := eventsOf(ctx, h, ref, position)
	if err != nil {
		return nil, err
	}
	var doc document
	var root *set
	for i := range events {
		e := &events[i]
		if e.Op == "" || e.Op == domain.Deleted {
			continue
		}
		doc.apply(ctx, h, e)
		if !doc.state.Exists {
			continue
		}
		v, err := decode(shownOf(doc.state.JSON))
		if err != nil {
			return nil, fmt.Errorf("reading %s at position %d: %w", ref, e.Position, err)
		}
		if e.Op == domain.Created {
			root = nil
		}
		root = root.to(v, &Setter{e.Position, e.Time, e.Type, e.Actor})
	}
	if root == nil {
		return nil, fmt.Errorf("nothing is known of %s: %w", ref, projections.ErrNotFound)
	}
	hidden := ref.Group == "" && ref.Resource == "secrets"
	return root.lines(nil, "", "", 0, hidden), nil
}

// shownOf is a document with a line in the place of a sealed payload: another one for another payload, so that it can be told who set it.
func shownOf(document []byte) []byte {
	e, ok := domain.EnvelopeOf(document)
	if !ok {
		return document
	}
	rest := domain.WithoutPayload(nil, document)
	return append(fmt.Appendf(nil, `{%q:%q,`, projections.Payload, "sealed by key "+e.KeyID), rest[1:]...)
}

func decode(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

// set is a value with the event that set it, down to the leaves.
type set struct {
	value   any
	by      *Setter
	members map[string]*set // of an object
	list    []*set
}

// to returns the value after an event: what is the same keeps the event that set it.
func (s *set) to(v any, by *Setter) *set {
	if s != nil && reflect.DeepEqual(s.value, v) {
		return s
	}
	next := &set{value: v, by: by}
	switch v := v.(type) {
	case map[string]any:
		next.members = make(map[string]*set, len(v))
		for k, m := range v {
			var old *set
			if s != nil {
				old = s.members[k]
			}
			next.members[k] = old.to(m, by)
		}
	case []any:
		for i, m := range v {
			next.list = append(next.list, s.element(m, i).to(m, by))
		}
	}
	return next
}

// element finds what an element of a list was before: by what names it or, for one without a name, by its place.
func (s *set) element(v any, place int) *set {
	if s == nil {
		return nil
	}
	if name := nameOf(v); name != "" {
		for _, old := range s.list {
			if nameOf(old.value) == name {
				return old
			}
		}
		return nil
	}
	if place < len(s.list) && nameOf(s.list[place].value) == "" {
		return s.list[place]
	}
	return nil
}

// nameOf is what tells an element of a list from the others, "" when nothing does.
func nameOf(v any) string {
	m, ok := v.(map[string]any)
	if !ok {
		return ""
	}
	for _, key := range []string{"name", "type", "uid", "manager", "key", "ip", "containerPort", "mountPath"} {
		if n, ok := m[key]; ok {
			return fmt.Sprintf("%s=%v", key, n)
		}
	}
	return ""
}

// lines writes the value as YAML would, without managedFields, which are nobody's doing.
func (s *set) lines(out []Blame, key, path string, depth int, hidden bool) []Blame {
	label := key
	if label != "" {
		label += ":"
	}
	switch {
	case len(s.members) > 0:
		if label != "" {
			out = append(out, Blame{Depth: depth, Line: label, Path: path})
			depth++
		}
		for _, k := range slices.Sorted(maps.Keys(s.members)) {
			p := strings.TrimPrefix(path+"."+k, ".")
			if p == "metadata.managedFields" {
				continue
			}
			secret := hidden && (p == "data" || p == "stringData" || strings.HasPrefix(p, "data.") || strings.HasPrefix(p, "stringData.") || strings.HasSuffix(p, lastApplied))
			if secret && len(s.members[k].members) == 0 {
				out = append(out, Blame{Depth: depth, Line: plain(k) + ": (hidden)", Path: p, By: s.members[k].by})
				continue
			}
			out = s.members[k].lines(out, plain(k), p, depth, hidden)
		}
	case len(s.list) > 0:
		out = append(out, Blame{Depth: depth, Line: label, Path: path})
		for i, m := range s.list {
			p := path + "[" + strconv.Itoa(i) + "]"
			if n := nameOf(m.value); n != "" {
				p = path + "[" + n + "]"
			}
			from := len(out)
			out = m.lines(out, "", p, depth+1, hidden)
			for j := from; j < len(out); j++ {
				if j == from {
					out[j].Line = "- " + out[j].Line
				} else {
					out[j].Line = "  " + out[j].Line
				}
			}
		}
	default:
		out = append(out, Blame{Depth: depth, Line: strings.TrimSpace(label + " " + leaf(s.value)), Path: path, By: s.by})
	}
	return out
}

func leaf(v any) string {
	switch v := v.(type) {
	case string:
		return plain(v)
	case map[string]any:
		return "{}"
	case []any:
		return "[]"
	case nil:
		return "null"
	default:
		return fmt.Sprint(v)
	}
}

// plain quotes a text that YAML would read as something else.
func plain(s string) string {
	_, err := strconv.ParseFloat(s, 64)
	special := s == "" || err == nil || s == "true" || s == "false" || s == "null" || s == "yes" || s == "no" ||
		strings.ContainsAny(s, "\n\t\"'") || strings.ContainsAny(s[:1], "-?:,[]{}#&*!|>%@` ") || strings.Contains(s, ": ") ||
		strings.Contains(s, " #") || strings.HasSuffix(s, ":") || strings.HasSuffix(s, " ")
	if special {
		return strconv.Quote(s)
	}
	return s
}
