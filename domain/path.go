package domain

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrBadPath says that a text is not the path of a field.
var ErrBadPath = errors.New("not the path of a field")

// Path is the parsed form of a field's path as Describe writes it.
type Path []pathStep

type pathStep struct {
	key   string // a member
	match string // with key: the element whose member has this text
	place int    // an element
	kind  byte   // '.' member, '=' element by match, '#' element by place
}

// ParsePath reads "spec.replicas", `metadata.labels["a/b"]`, "spec.containers[name=web].image", "spec.ports[0]"; a dot at the
// beginning is allowed. The empty path is the whole document.
func ParsePath(text string) (Path, error) {
	var p Path
	fail := func(what string) (Path, error) { return nil, fmt.Errorf("%w: %q: %s", ErrBadPath, text, what) }
	rest := strings.TrimPrefix(text, ".")
	for first := true; rest != ""; first = false {
		switch {
		case strings.HasPrefix(rest, `["`):
			end := strings.Index(rest, `"]`)
			if end < 2 {
				return fail(`a closing "] is missing`)
			}
			p = append(p, pathStep{kind: '.', key: rest[2:end]})
			rest = rest[end+2:]
		case rest[0] == '[':
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return fail("a closing ] is missing")
			}
			inner := rest[1:end]
			if key, value, ok := strings.Cut(inner, "="); ok && key != "" {
				p = append(p, pathStep{kind: '=', key: key, match: value})
			} else if n, err := strconv.Atoi(inner); err == nil && n >= 0 {
				p = append(p, pathStep{kind: '#', place: n})
			} else {
				return fail("a place or a member=value is expected between brackets")
			}
			rest = rest[end+1:]
		default:
			if !first {
				if rest[0] != '.' {
					return fail("a dot is expected between members")
				}
				rest = rest[1:]
			}
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			if end == 0 {
				return fail("a member has no name")
			}
			p = append(p, pathStep{kind: '.', key: rest[:end]})
			rest = rest[end:]
		}
	}
	return p, nil
}

// In returns the value of the field in a canonical document, or nil when it has none. The value shares the document's memory.
func (p Path) In(document []byte) json.RawMessage {
	value := document
	for _, step := range p {
		if len(value) == 0 {
			return nil
		}
		if step.kind == '.' {
			if value[0] != '{' {
				return nil
			}
			value = lookup(value, canonicalKey(step.key))
			continue
		}
		list, ok := elements(value)
		if !ok {
			return nil
		}
		value = nil
		for i, e := range list {
			if step.kind == '#' && i == step.place || step.kind == '=' && e[0] == '{' && textOf(lookup(e, canonicalKey(step.key))) == step.match {
				value = e
				break
			}
		}
	}
	return value
}

// Text returns the value of the field as selectors compare it: a text without its quotes, "" when there is none.
func (p Path) Text(document []byte) string { return textOf(p.In(document)) }

func textOf(value []byte) string {
	if len(value) < 2 || value[0] != '"' {
		return string(value)
	}
	w := wireReader{}
	return w.text(value)
}

// canonicalKey is a key as it is written between quotes.
func canonicalKey(key string) string {
	quoted := appendString(nil, key)
	return string(quoted[1 : len(quoted)-1])
}
