package domain

import "bytes"

// The functions of this file walk canonical JSON without building anything: equal values have equal bytes, so that most of a
// document is compared and copied without being looked at. What they are given is trusted to be canonical; anything else
// makes them stop, never panic.

// skip returns the index after the value that begins at b[i], or -1 when there is none.
func skip(b []byte, i int) int {
	if i < 0 || i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				if i = skipString(b, i); i < 0 {
					return -1
				}
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return -1
	default:
		start := i
		for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' {
			i++
		}
		if i == start {
			return -1
		}
		return i
	}
}

func skipString(b []byte, i int) int {
	for i++; i < len(b); {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		end := i + n
		slashes := 0
		for j := end - 1; j >= i && b[j] == '\\'; j-- {
			slashes++
		}
		if slashes%2 == 0 {
			return end + 1
		}
		i = end + 1
	}
	return -1
}

// objectScan yields the members of an object in order.
type objectScan struct {
	b   []byte
	i   int
	bad bool
}

func scanObject(b []byte) objectScan {
	s := objectScan{b: b, i: 1}
	if len(b) < 2 || b[0] != '{' || b[len(b)-1] != '}' {
		s.bad = true
	}
	return s
}

// next returns the text of the next key between its quotes, and its value.
func (s *objectScan) next() (key, value []byte, ok bool) {
	if s.bad || s.b[s.i] == '}' {
		return nil, nil, false
	}
	if s.b[s.i] == ',' {
		s.i++
	}
	if s.i >= len(s.b) || s.b[s.i] != '"' {
		s.bad = true
		return nil, nil, false
	}
	keyEnd := skipString(s.b, s.i)
	if keyEnd < 0 || keyEnd >= len(s.b) || s.b[keyEnd] != ':' {
		s.bad = true
		return nil, nil, false
	}
	end := skip(s.b, keyEnd+1)
	if end < 0 || end >= len(s.b) || s.b[end] != ',' && s.b[end] != '}' {
		s.bad = true
		return nil, nil, false
	}
	key, value = s.b[s.i+1:keyEnd-1], s.b[keyEnd+1:end]
	s.i = end
	return key, value, true
}

// listScan yields the elements of a list in order.
type listScan struct {
	b   []byte
	i   int
	bad bool
}

func scanList(b []byte) listScan {
	return listScan{b: b, i: 1, bad: len(b) < 2 || b[0] != '[' || b[len(b)-1] != ']'}
}

func (s *listScan) next() (value []byte, ok bool) {
	if s.bad || s.b[s.i] == ']' {
		return nil, false
	}
	if s.b[s.i] == ',' {
		s.i++
	}
	end := skip(s.b, s.i)
	if end < 0 || end >= len(s.b) || s.b[end] != ',' && s.b[end] != ']' {
		s.bad = true
		return nil, false
	}
	value, s.i = s.b[s.i:end:end], end
	return value, true
}

// elements returns the elements of a list.
func elements(b []byte) ([][]byte, bool) {
	s := scanList(b)
	var out [][]byte
	for v, ok := s.next(); ok; v, ok = s.next() {
		out = append(out, v)
	}
	return out, !s.bad
}

// lookup returns the value of a member, or nil.
func lookup(object []byte, key string) []byte {
	s := scanObject(object)
	for {
		k, v, ok := s.next()
		if !ok {
			return nil
		}
		if string(k) == key {
			return v
		}
	}
}
