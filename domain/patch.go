package domain

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
)

// Patch applies what Diff returned. The result is the document that Diff was given, to the byte; it shares no memory with
// before unless the delta is empty.
func Patch(before, delta []byte) ([]byte, error) {
	if len(delta) == 0 {
		return before, nil
	}
	p := patcher{out: make([]byte, 0, len(before)+len(delta))}
	if err := p.edit(before, delta); err != nil {
		return nil, fmt.Errorf("applying a delta: %w", err)
	}
	return p.out, nil
}

// isWhole says whether a delta leads from anything to its document.
func isWhole(delta []byte) bool { return bytes.HasPrefix(delta, []byte(`{"":`)) }

// sortOf says what a value is, and nothing of what it holds, which may be secret and must not get into errors.
func sortOf(value []byte) string {
	if len(value) == 0 {
		return "nothing"
	}
	switch value[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a text"
	}
	return "a number or word"
}

type patcher struct{ out []byte }

// change is one member of an object's delta.
type change struct {
	sign       byte
	key, value []byte
}

// changes reads the members of an object's delta in the order of their keys.
func changes(delta []byte) ([]change, error) {
	var out []change
	s := scanObject(delta)
	for {
		k, v, ok := s.next()
		if !ok {
			break
		}
		c := change{value: v}
		if len(k) > 0 {
			c.sign, c.key = k[0], k[1:]
		}
		out = append(out, c)
	}
	if s.bad || len(out) == 0 {
		return nil, fmt.Errorf("%w: members with a sign expected, got %s", ErrBadDelta, sortOf(delta))
	}
	byKey := func(a, b change) int { return bytes.Compare(a.key, b.key) }
	if !slices.IsSortedFunc(out, byKey) {
		slices.SortFunc(out, byKey)
	}
	return out, nil
}

func (p *patcher) edit(base, delta []byte) error {
	cs, err := changes(delta)
	if err != nil {
		return err
	}
	if cs[0].sign == 0 && len(cs) == 1 {
		p.out = append(p.out, cs[0].value...)
		return nil
	}
	if len(base) == 0 {
		return fmt.Errorf("%w: there is nothing to apply it to", ErrWrongBase)
	}
	switch {
	case base[0] == '{':
		return p.object(base, cs)
	case base[0] == '[' && cs[0].sign == '@' && len(cs) == 1:
		return p.list(base, cs[0].value)
	case base[0] == '"' && cs[0].sign == '^' && len(cs) == 1:
		return p.text(base, cs[0].value)
	}
	return fmt.Errorf("%w: %s does not fit %s", ErrWrongBase, sortOf(delta), sortOf(base))
}

func (p *patcher) object(base []byte, cs []change) error {
	p.out = append(p.out, '{')
	body := len(p.out)
	put := func(key []byte) {
		if len(p.out) > body {
			p.out = append(p.out, ',')
		}
		p.out = append(append(append(p.out, '"'), key...), '"', ':')
	}
	b := scanObject(base)
	key, value, ok := b.next()
	for ok || len(cs) > 0 {
		order := 0
		switch {
		case !ok:
			order = 1
		case len(cs) == 0:
			order = -1
		default:
			order = bytes.Compare(key, cs[0].key)
		}
		if order < 0 { // nothing is said of this member
			put(key)
			p.out = append(p.out, value...)
			key, value, ok = b.next()
			continue
		}
		c := cs[0]
		cs = cs[1:]
		if c.sign != '-' {
			put(c.key)
		}
		if c.sign == '=' {
			p.out = append(p.out, c.value...)
		} else {
			if order > 0 {
				return fmt.Errorf("%w: there is no member %q", ErrWrongBase, c.key)
			}
			if err := p.member(value, c); err != nil {
				return fmt.Errorf("%s: %w", c.key, err)
			}
		}
		if order == 0 {
			key, value, ok = b.next()
		}
	}
	if b.bad {
		return fmt.Errorf("%w: the document is not canonical JSON", ErrBadJSON)
	}
	p.out = append(p.out, '}')
	return nil
}

// member writes the value that a member has after its change.
func (p *patcher) member(base []byte, c change) error {
	switch c.sign {
	case '-':
		return nil
	case '~':
		if base[0] != '{' {
			return fmt.Errorf("%w: an object expected, there is %s", ErrWrongBase, sortOf(base))
		}
		cs, err := changes(c.value)
		if err != nil {
			return err
		}
		return p.object(base, cs)
	case '@':
		return p.list(base, c.value)
	case '^':
		return p.text(base, c.value)
	}
	return fmt.Errorf("%w: unknown sign %q", ErrBadDelta, c.sign)
}

func (p *patcher) list(base, delta []byte) error {
	elems, ok := elements(base)
	if !ok {
		return fmt.Errorf("%w: a list expected, there is %s", ErrWrongBase, sortOf(base))
	}
	steps, ok := elements(delta)
	if !ok {
		return fmt.Errorf("%w: steps expected, got %s", ErrBadDelta, sortOf(delta))
	}
	p.out = append(p.out, '[')
	body := len(p.out)
	put := func(values ...[]byte) {
		for _, v := range values {
			if len(p.out) > body {
				p.out = append(p.out, ',')
			}
			p.out = append(p.out, v...)
		}
	}
	for _, step := range steps {
		switch step[0] {
		case '[':
			values, ok := elements(step)
			if !ok {
				return fmt.Errorf("%w: values expected, got %s", ErrBadDelta, sortOf(step))
			}
			put(values...)
		case '{':
			if len(elems) == 0 {
				return fmt.Errorf("%w: the list is too short", ErrWrongBase)
			}
			put([]byte{})
			if err := p.edit(elems[0], step); err != nil {
				return err
			}
			elems = elems[1:]
		default:
			n, err := strconv.Atoi(string(step))
			if err != nil || n == 0 {
				return fmt.Errorf("%w: a step expected, got %s", ErrBadDelta, sortOf(step))
			}
			if max(n, -n) > len(elems) {
				return fmt.Errorf("%w: the list is too short", ErrWrongBase)
			}
			if n > 0 {
				put(elems[:n]...)
			}
			elems = elems[max(n, -n):]
		}
	}
	put(elems...)
	p.out = append(p.out, ']')
	return nil
}

func (p *patcher) text(base, delta []byte) error {
	prefix, suffix, middle, err := splice(base, delta)
	if err != nil {
		return err
	}
	p.out = append(p.out, '"')
	p.out = append(append(append(p.out, prefix...), middle...), suffix...)
	p.out = append(p.out, '"')
	return nil
}

// splice reads the change of a text: what is kept at its ends and what comes between.
func splice(base, delta []byte) (prefix, suffix, middle []byte, err error) {
	if base[0] != '"' {
		return nil, nil, nil, fmt.Errorf("%w: a text expected, there is %s", ErrWrongBase, sortOf(base))
	}
	parts, ok := elements(delta)
	if !ok || len(parts) != 3 || len(parts[2]) < 2 || parts[2][0] != '"' {
		return nil, nil, nil, fmt.Errorf("%w: two counts and a text expected, got %s", ErrBadDelta, sortOf(delta))
	}
	m, errM := strconv.Atoi(string(parts[0]))
	n, errN := strconv.Atoi(string(parts[1]))
	if errM != nil || errN != nil || m < 0 || n < 0 {
		return nil, nil, nil, fmt.Errorf("%w: two counts expected, got %s", ErrBadDelta, sortOf(delta))
	}
	text := base[1 : len(base)-1]
	if m > len(text) || n > len(text)-m {
		return nil, nil, nil, fmt.Errorf("%w: the text is too short", ErrWrongBase)
	}
	return text[:m], text[len(text)-n:], parts[2][1 : len(parts[2])-1], nil
}
