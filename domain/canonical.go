package domain

import (
	"bytes"
	"fmt"
	"slices"
)

// maxDepth bounds how deep JSON may nest, as encoding/json does: hostile input must not exhaust the stack.
const maxDepth = 10000

// canonicalizer rewrites one JSON document in a single pass: members are written as they come and put in order when their
// object ends.
type canonicalizer struct {
	in    []byte
	pos   int
	depth int

	out     []byte
	members []member // of the objects that are open, those of the innermost last
	scratch []byte
	kind    *Kind // when set, the document is an object of this kind
}

// member is where a member of an object stands in the output: its key's text without quotes, and all of it.
type member struct {
	start, keyEnd, end int // out[start] is the opening quote, out[keyEnd] the closing one
}

func (c *canonicalizer) fail(what string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrBadJSON, what, c.pos)
}

// document rewrites all of the input.
func (c *canonicalizer) document() error {
	c.space()
	if err := c.value(); err != nil {
		return err
	}
	c.space()
	if c.pos != len(c.in) {
		return c.fail("something after the value")
	}
	return nil
}

func (c *canonicalizer) space() {
	for c.pos < len(c.in) {
		switch c.in[c.pos] {
		case ' ', '\t', '\n', '\r':
			c.pos++
		default:
			return
		}
	}
}

func (c *canonicalizer) value() error {
	if c.pos >= len(c.in) {
		return c.fail("unexpected end")
	}
	switch b := c.in[c.pos]; {
	case b == '{':
		return c.object()
	case b == '[':
		return c.list()
	case b == '"':
		return c.str()
	case b == '-' || b >= '0' && b <= '9':
		return c.number()
	case b == 't':
		return c.literal("true")
	case b == 'f':
		return c.literal("false")
	case b == 'n':
		return c.literal("null")
	default:
		return c.fail("unexpected character")
	}
}

func (c *canonicalizer) literal(word string) error {
	if !bytes.HasPrefix(c.in[c.pos:], []byte(word)) {
		return c.fail("unexpected character")
	}
	c.pos += len(word)
	c.out = append(c.out, word...)
	return nil
}

func (c *canonicalizer) object() error {
	if c.depth++; c.depth > maxDepth {
		return c.fail("nested too deep")
	}
	inMetadata := c.kind != nil && c.depth == 2 && bytes.HasSuffix(c.out, []byte(`"metadata":`))
	c.pos++
	c.out = append(c.out, '{')
	body, first := len(c.out), len(c.members)
	if c.kind != nil && c.depth == 1 {
		c.typeMeta()
	}
	for n := 0; ; n++ {
		c.space()
		switch {
		case c.pos >= len(c.in):
			return c.fail("unexpected end")
		case c.in[c.pos] == '}' && n == 0:
			c.pos++
			c.closeObject(body, first)
			return nil
		case c.in[c.pos] != '"':
			return c.fail("a key expected")
		}
		if err := c.member(first, inMetadata); err != nil {
			return err
		}
		c.space()
		if c.pos >= len(c.in) {
			return c.fail("unexpected end")
		}
		switch c.in[c.pos] {
		case ',':
			c.pos++
		case '}':
			c.pos++
			c.closeObject(body, first)
			return nil
		default:
			return c.fail("a comma or a brace expected")
		}
	}
}

// member rewrites one member, and takes it back when the kind's form does not have it.
func (c *canonicalizer) member(first int, inMetadata bool) error {
	before := len(c.out)
	if len(c.members) > first {
		c.out = append(c.out, ',')
	}
	m := member{start: len(c.out)}
	if err := c.str(); err != nil {
		return err
	}
	m.keyEnd = len(c.out) - 1
	key := c.out[m.start+1 : m.keyEnd]
	drop := inMetadata && string(key) == "resourceVersion" ||
		c.kind != nil && c.depth == 1 && (string(key) == "apiVersion" || string(key) == "kind")
	c.space()
	if c.pos >= len(c.in) || c.in[c.pos] != ':' {
		return c.fail("a colon expected")
	}
	c.pos++
	c.out = append(c.out, ':')
	c.space()
	if err := c.value(); err != nil {
		return err
	}
	if drop {
		c.out = c.out[:before]
		return nil
	}
	m.end = len(c.out)
	c.members = append(c.members, m)
	return nil
}

// typeMeta writes the members that say what the object is.
func (c *canonicalizer) typeMeta() {
	put := func(key string, value ...string) {
		if key == "kind" {
			c.out = append(c.out, ',')
		}
		m := member{start: len(c.out)}
		c.out = append(append(append(c.out, '"'), key...), '"')
		m.keyEnd = len(c.out) - 1
		c.out = append(c.out, ':', '"')
		for _, v := range value {
			c.out = append(c.out, v...)
		}
		c.out = append(c.out, '"')
		m.end = len(c.out)
		c.members = append(c.members, m)
	}
	if c.kind.Group == "" {
		put("apiVersion", c.kind.Version)
	} else {
		put("apiVersion", c.kind.Group, "/", c.kind.Version)
	}
	put("kind", c.kind.Kind)
}

// closeObject puts the members written since body in order and ends the object.
func (c *canonicalizer) closeObject(body, first int) {
	members := c.members[first:]
	key := func(m member) []byte { return c.out[m.start+1 : m.keyEnd] }
	sorted := true
	for i := 1; i < len(members) && sorted; i++ {
		sorted = bytes.Compare(key(members[i-1]), key(members[i])) < 0
	}
	if !sorted {
		slices.SortStableFunc(members, func(a, b member) int { return bytes.Compare(key(a), key(b)) })
		c.scratch = append(c.scratch[:0], c.out[body:]...)
		at := func(pos int) int { return pos - body }
		out := c.out[:body]
		for i, m := range members {
			// The sort is stable and the last of equal keys counts.
			if i+1 < len(members) && bytes.Equal(c.scratch[at(m.start)+1:at(m.keyEnd)], c.scratch[at(members[i+1].start)+1:at(members[i+1].keyEnd)]) {
				continue
			}
			if len(out) > body {
				out = append(out, ',')
			}
			out = append(out, c.scratch[at(m.start):at(m.end)]...)
		}
		c.out = out
	}
	c.members = c.members[:first]
	c.out = append(c.out, '}')
	c.depth--
}

func (c *canonicalizer) list() error {
	if c.depth++; c.depth > maxDepth {
		return c.fail("nested too deep")
	}
	c.pos++
	c.out = append(c.out, '[')
	for n := 0; ; n++ {
		c.space()
		if c.pos < len(c.in) && c.in[c.pos] == ']' && n == 0 {
			break
		}
		if err := c.value(); err != nil {
			return err
		}
		c.space()
		if c.pos >= len(c.in) {
			return c.fail("unexpected end")
		}
		if c.in[c.pos] == ']' {
			break
		}
		if c.in[c.pos] != ',' {
			return c.fail("a comma or a bracket expected")
		}
		c.pos++
		c.out = append(c.out, ',')
	}
	c.pos++
	c.out = append(c.out, ']')
	c.depth--
	return nil
}

// number copies a number as it stands, once it is seen to be one.
func (c *canonicalizer) number() error {
	start := c.pos
	digits := func() bool {
		from := c.pos
		for c.pos < len(c.in) && c.in[c.pos] >= '0' && c.in[c.pos] <= '9' {
			c.pos++
		}
		return c.pos > from
	}
	if c.in[c.pos] == '-' {
		c.pos++
	}
	if c.pos < len(c.in) && c.in[c.pos] == '0' {
		c.pos++
	} else if !digits() {
		return c.fail("a digit expected")
	}
	if c.pos < len(c.in) && c.in[c.pos] == '.' {
		c.pos++
		if !digits() {
			return c.fail("a digit expected")
		}
	}
	if c.pos < len(c.in) && (c.in[c.pos] == 'e' || c.in[c.pos] == 'E') {
		c.pos++
		if c.pos < len(c.in) && (c.in[c.pos] == '+' || c.in[c.pos] == '-') {
			c.pos++
		}
		if !digits() {
			return c.fail("a digit expected")
		}
	}
	c.out = append(c.out, c.in[start:c.pos]...)
	return nil
}
