package domain

import (
	"bytes"
	"fmt"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
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

// str rewrites a string with the necessary escapes only.
func (c *canonicalizer) str() error {
	c.pos++
	start := c.pos
	for c.pos < len(c.in) { // the common case: nothing to rewrite
		b := c.in[c.pos]
		if b == '"' {
			c.out = append(append(append(c.out, '"'), c.in[start:c.pos]...), '"')
			c.pos++
			return nil
		}
		if b == '\\' || b < ' ' || b >= utf8.RuneSelf {
			break
		}
		c.pos++
	}
	c.out = append(append(c.out, '"'), c.in[start:c.pos]...)
	for c.pos < len(c.in) {
		b := c.in[c.pos]
		switch {
		case b == '"':
			c.out = append(c.out, '"')
			c.pos++
			return nil
		case b < ' ':
			return c.fail("a control character in a string")
		case b == '\\':
			if err := c.escape(); err != nil {
				return err
			}
		case b < utf8.RuneSelf:
			c.out = append(c.out, b)
			c.pos++
		default:
			r, n := utf8.DecodeRune(c.in[c.pos:])
			c.out = utf8.AppendRune(c.out, r) // U+FFFD for what is not UTF-8
			c.pos += n
		}
	}
	return c.fail("unexpected end of a string")
}

// escape rewrites one escape of a string, surrogate pairs as one.
func (c *canonicalizer) escape() error {
	if c.pos+1 >= len(c.in) {
		return c.fail("unexpected end of a string")
	}
	var r rune
	switch b := c.in[c.pos+1]; b {
	case '"', '\\', '/':
		r = rune(b)
	case 'b':
		r = '\b'
	case 'f':
		r = '\f'
	case 'n':
		r = '\n'
	case 'r':
		r = '\r'
	case 't':
		r = '\t'
	case 'u':
		var ok bool
		if r, ok = hex4(c.in[c.pos:]); !ok {
			return c.fail("four hexadecimal digits expected")
		}
		c.pos += 4
		if utf16.IsSurrogate(r) {
			if low, ok := hex4(c.in[c.pos+2:]); ok && utf16.DecodeRune(r, low) != utf8.RuneError {
				r = utf16.DecodeRune(r, low)
				c.pos += 6
			} else {
				r = utf8.RuneError
			}
		}
	default:
		return c.fail("an unknown escape")
	}
	c.pos += 2
	c.out = appendRune(c.out, r)
	return nil
}

// hex4 reads an escape of the form \uXXXX.
func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, d := range b[2:6] {
		switch {
		case d >= '0' && d <= '9':
			d -= '0'
		case d >= 'a' && d <= 'f':
			d -= 'a' - 10
		case d >= 'A' && d <= 'F':
			d -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(d)
	}
	return r, true
}

// appendRune writes one character of a canonical string.
func appendRune(out []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(out, '\\', byte(r))
	case '\b':
		return append(out, '\\', 'b')
	case '\f':
		return append(out, '\\', 'f')
	case '\n':
		return append(out, '\\', 'n')
	case '\r':
		return append(out, '\\', 'r')
	case '\t':
		return append(out, '\\', 't')
	}
	if r < ' ' {
		const hex = "0123456789abcdef"
		return append(out, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
	}
	return utf8.AppendRune(out, r)
}

// appendString writes a Go string as a canonical JSON string.
func appendString(out []byte, s string) []byte {
	out = append(out, '"')
	start := 0
	for i := 0; i < len(s); {
		if b := s[i]; b >= ' ' && b != '"' && b != '\\' && b < utf8.RuneSelf {
			i++
			continue
		}
		out = append(out, s[start:i]...)
		r, n := utf8.DecodeRuneInString(s[i:])
		out = appendRune(out, r)
		i += n
		start = i
	}
	return append(append(out, s[start:]...), '"')
}
