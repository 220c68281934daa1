package domain

import (
	"unicode/utf16"
	"unicode/utf8"
)

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
