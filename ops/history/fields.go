package history

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Field says what happened to one field.
type Field struct {
	Path   string          `json:"path"`
	Before json.RawMessage `json:"before,omitempty"` // nil: it was not there
	After  json.RawMessage `json:"after,omitempty"`  // nil: it is no longer there
}

// hidden stands for a value that is not shown.
var hidden = json.RawMessage(`"(hidden)"`)

// fieldsOf takes over what domain found, with the payload of secrets hidden.
func fieldsOf(ref domain.Ref, changes []domain.FieldChange) []Field {
	fields := make([]Field, 0, len(changes))
	for _, c := range changes {
		f := Field{Path: c.Path, Before: c.Before, After: c.After}
		if ref.Group == "" && ref.Resource == "secrets" {
			f = hide(f)
		}
		fields = append(fields, f)
	}
	return fields
}

// compare tells how an object became another, with payloads hidden.
func compare(before, after *projections.Object) ([]Field, error) {
	c, err := projections.Compare(before, after)
	if err != nil {
		return nil, err
	}
	changes, err := domain.Describe(c.Before, c.After)
	if err != nil {
		return nil, err
	}
	fields := fieldsOf(after.Ref, changes)
	if c.Payload != nil {
		fields = append(fields, Field{Path: c.Payload.Path, Before: c.Payload.Before, After: c.Payload.After})
	}
	return fields, nil
}

// lastApplied is the annotation in which kubectl keeps a whole object, payload included.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

func hide(f Field) Field {
	secret := strings.Contains(f.Path, lastApplied)
	for _, p := range []string{"data", "stringData"} {
		secret = secret || f.Path == p || strings.HasPrefix(f.Path, p+".") || strings.HasPrefix(f.Path, p+"[")
	}
	if !secret && f.Path != "" && f.Path != "metadata" && f.Path != "metadata.annotations" {
		return f
	}
	// A whole document, or a part that may hold the annotation, is left out too.
	if f.Before != nil {
		f.Before = hidden
	}
	if f.After != nil {
		f.After = hidden
	}
	return f
}

// noise is what the machinery keeps for itself: it is left out of short descriptions.
func noise(path string) bool {
	return strings.HasPrefix(path, "metadata.managedFields") || path == "metadata.generation" || path == "status.observedGeneration" ||
		strings.HasSuffix(path, ".lastTransitionTime") || strings.HasSuffix(path, ".lastProbeTime") || strings.HasSuffix(path, ".lastHeartbeatTime") ||
		strings.HasSuffix(path, ".lastUpdateTime") || strings.HasSuffix(path, ".observedGeneration") || strings.Contains(path, lastApplied)
}

// weight puts what people change before what the machinery reports, and the outcome before its details.
func weight(path string) int {
	switch {
	case strings.HasPrefix(path, "spec"), strings.HasPrefix(path, "data"), path == projections.Payload:
		return 0
	case strings.HasPrefix(path, "metadata.labels"), strings.HasPrefix(path, "metadata.annotations"):
		return 1
	case path == "status.phase", path == "status.reason", path == "status.message":
		return 2
	case strings.HasPrefix(path, "status.containerStatuses["):
		return 3
	case !strings.HasPrefix(path, "status"):
		return 4
	case !strings.Contains(path, "["):
		return 5
	default:
		return 6
	}
}

// condition is a change of a condition's status: what else a condition says goes without saying in a short description.
type condition struct {
	Type   string          `json:"type"`
	Status json.RawMessage `json:"status"`
}

// brief makes a field's change fit for one line: the fields to tell of instead, none to leave it out.
func brief(f Field) []Field {
	const conditions = "status.conditions"
	rest, ok := strings.CutPrefix(f.Path, conditions)
	if !ok {
		return []Field{f}
	}
	if typ, leaf, ok := strings.Cut(strings.TrimPrefix(rest, "[type="), "]"); ok && strings.HasPrefix(rest, "[type=") {
		switch leaf {
		case ".status":
			return []Field{{Path: typ, Before: f.Before, After: f.After}}
		case "":
			var before, after condition
			if f.Before != nil && json.Unmarshal(f.Before, &before) != nil || f.After != nil && json.Unmarshal(f.After, &after) != nil {
				return []Field{f}
			}
			return []Field{{Path: typ, Before: before.Status, After: after.Status}}
		}
		return nil
	}
	var list []condition
	if f.Before == nil && json.Unmarshal(f.After, &list) == nil {
		var fields []Field
		for _, c := range list {
			fields = append(fields, Field{Path: c.Type, After: c.Status})
		}
		return fields
	}
	return []Field{f}
}

// shortFields describes the most telling fields in one line.
func shortFields(fields []Field, most int) string {
	type told struct {
		weight int
		text   string
	}
	var list []told
	for _, f := range fields {
		if noise(f.Path) {
			continue
		}
		for _, p := range brief(f) {
			w := weight(f.Path)
			if p.Path == "Ready" {
				w = 3
			}
			list = append(list, told{w, describe(p, 48)})
		}
	}
	if len(list) == 0 && len(fields) > 0 {
		return "(bookkeeping only)"
	}
	slices.SortStableFunc(list, func(a, b told) int { return a.weight - b.weight })
	var parts []string
	for i, t := range list {
		if i == most {
			parts = append(parts, fmt.Sprintf("and %d more", len(list)-most))
			break
		}
		parts = append(parts, t.text)
	}
	return strings.Join(parts, ", ")
}

// describe is "spec.replicas: 3 -> 5"; values longer than a bound (0: none) are cut.
func describe(f Field, bound int) string {
	path := f.Path
	if path == "" {
		path = "(everything)"
	}
	switch {
	case f.Before == nil:
		return fmt.Sprintf("%s: + %s", path, value(f.After, bound))
	case f.After == nil:
		return fmt.Sprintf("%s: - %s", path, value(f.Before, bound))
	}
	return fmt.Sprintf("%s: %s -> %s", path, value(f.Before, bound), value(f.After, bound))
}

// value writes JSON as people do: plain texts without quotes.
func value(raw json.RawMessage, bound int) string {
	s := string(bytes.TrimSpace(raw))
	var text string
	if json.Unmarshal(raw, &text) == nil && text != "" && !strings.ContainsAny(text, "\n\r\t,") && strings.TrimSpace(text) == text {
		s = text
	}
	if r := []rune(s); bound > 0 && len(r) > bound {
		var list []json.RawMessage
		var members map[string]json.RawMessage
		switch {
		case json.Unmarshal(raw, &list) == nil:
			return fmt.Sprintf("[%d elements]", len(list))
		case json.Unmarshal(raw, &members) == nil:
			return fmt.Sprintf("{%d fields}", len(members))
		}
		s = string(r[:bound-1]) + "…"
	}
	return s
}
