package view

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Selector says which objects of a list are wanted.
type Selector struct {
	labels labels.Selector
	fields []fieldRequirement
}

type fieldRequirement struct {
	path  domain.Path
	equal bool
	value string
}

// labelsOf finds the labels of an object.
var labelsPath = mustPath("metadata.labels")

func mustPath(text string) domain.Path {
	p, err := domain.ParsePath(text)
	if err != nil {
		panic(err)
	}
	return p
}

// NewSelector reads selectors as kubectl takes them. The field selector may name any field by its path.
func NewSelector(labelSelector, fieldSelector string) (Selector, error) {
	var s Selector
	if labelSelector != "" {
		l, err := labels.Parse(labelSelector)
		if err != nil {
			return s, fmt.Errorf("%w: labelSelector: %w", ErrBadRequest, err)
		}
		s.labels = l
	}
	if fieldSelector != "" {
		requirements, err := fieldRequirements(fieldSelector)
		if err != nil {
			return s, fmt.Errorf("%w: fieldSelector: %w", ErrBadRequest, err)
		}
		s.fields = requirements
	}
	return s, nil
}

// fieldRequirements reads "path=value,path!=value" (== is = too). In a path, brackets may hold the signs: containers[name=web];
// in a value a comma or a backslash has a backslash before it, as for kubectl.
func fieldRequirements(text string) ([]fieldRequirement, error) {
	var out []fieldRequirement
	for rest := text; rest != ""; {
		depth, end := 0, 0
		for end < len(rest) && (depth > 0 || rest[end] != '=' && rest[end] != '!') {
			switch rest[end] {
			case '[':
				depth++
			case ']':
				depth--
			}
			end++
		}
		r := fieldRequirement{equal: true}
		name, after := strings.TrimSpace(rest[:end]), rest[end:]
		switch {
		case strings.HasPrefix(after, "!="):
			r.equal, after = false, after[2:]
		case strings.HasPrefix(after, "=="):
			after = after[2:]
		case strings.HasPrefix(after, "="):
			after = after[1:]
		default:
			return nil, fmt.Errorf("%q: a path, = or != and a value are expected", rest)
		}
		path, err := domain.ParsePath(name)
		if err != nil {
			return nil, err
		}
		if name == "" {
			return nil, fmt.Errorf("%q: a path is expected before the sign", rest)
		}
		r.path = path
		r.value, rest = fieldValue(after)
		out = append(out, r)
	}
	return out, nil
}

// fieldValue reads a value up to the comma that ends it.
func fieldValue(text string) (value, rest string) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case text[i] == ',':
			return strings.TrimSpace(b.String()), text[i+1:]
		default:
			b.WriteByte(text[i])
		}
	}
	return strings.TrimSpace(b.String()), ""
}

// Labels makes a selector of labels that are already parsed.
func Labels(l labels.Selector) Selector { return Selector{labels: l} }

// Matches says whether an object is wanted. Fields are compared with what may be shown of the object.
func (s Selector) Matches(o *projections.Object) bool {
	if s.labels != nil && !s.labels.Matches(LabelsOf(o)) {
		return false
	}
	if len(s.fields) == 0 {
		return true
	}
	document := Document(o)
	for _, r := range s.fields {
		if (r.path.Text(document) == r.value) != r.equal {
			return false
		}
	}
	return true
}

// Filter returns the objects that are wanted.
func (s Selector) Filter(list []*projections.Object) []*projections.Object {
	if s.labels == nil && len(s.fields) == 0 {
		return list
	}
	var out []*projections.Object
	for _, o := range list {
		if s.Matches(o) {
			out = append(out, o)
		}
	}
	return out
}

// LabelsOf reads an object's labels.
func LabelsOf(o *projections.Object) labels.Set {
	raw := labelsPath.In(o.JSON)
	if raw == nil {
		return nil
	}
	var set labels.Set
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil
	}
	return set
}

// Page sizes.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// Size checks how many are asked for.
func Size(first *int) (int, error) {
	switch {
	case first == nil:
		return DefaultPage, nil
	case *first < 0 || *first > MaxPage:
		return 0, fmt.Errorf("%w: first is %d, from 0 to %d can be asked for at once", ErrBadRequest, *first, MaxPage)
	}
	return *first, nil
}

// Page is a part of a list.
type Page struct {
	Objects []*projections.Object
	Before  bool // whether there are objects before
	After   bool // whether there are more after
	Total   int
}

// Paginate takes the objects after a cursor. Lists are ordered by kind, namespace and name, so that a cursor stays meaningful when
// its object goes.
func Paginate(list []*projections.Object, first *int, after *string) (Page, error) {
	size, err := Size(first)
	if err != nil {
		return Page{}, err
	}
	start := 0
	if after != nil && *after != "" {
		key, err := readCursor(*after)
		if err != nil {
			return Page{}, err
		}
		for start < len(list) && sortKey(list[start].Ref) <= key {
			start++
		}
	}
	end := min(len(list), start+size)
	return Page{Objects: list[start:end], Before: start > 0, After: end < len(list), Total: len(list)}, nil
}

// sortKey orders like lists are ordered: no name holds a zero byte.
func sortKey(r domain.Ref) string {
	return r.Group + "\x00" + r.Resource + "\x00" + r.Namespace + "\x00" + r.Name
}

// SortKey is what lists of several kinds are ordered by.
func SortKey(o *projections.Object) string { return sortKey(o.Ref) }

// Cursor is the cursor of an object in a list.
func Cursor(o *projections.Object) string {
	return base64.RawURLEncoding.EncodeToString([]byte(sortKey(o.Ref)))
}

func readCursor(cursor string) (string, error) {
	key, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || strings.Count(string(key), "\x00") != 3 {
		return "", fmt.Errorf("%w: after: %q is no cursor of this list", ErrBadRequest, cursor)
	}
	return string(key), nil
}

// EventCursor is the cursor of an event in a list of events.
func EventCursor(e domain.Event) string { return strconv.FormatUint(e.Position, 10) }

// ReadEventCursor is the inverse of EventCursor; 0 when there is none.
func ReadEventCursor(after *string) (uint64, error) {
	if after == nil || *after == "" {
		return 0, nil
	}
	position, err := strconv.ParseUint(*after, 10, 64)
	if err != nil || position == 0 {
		return 0, fmt.Errorf("%w: after: %q is no cursor of a list of events", ErrBadRequest, *after)
	}
	return position, nil
}
