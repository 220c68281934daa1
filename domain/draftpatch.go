package domain

import (
	"fmt"
	"slices"
	"strconv"
)

// Patch applies what Diff returned, as the function Patch does and with its errors. After an error the draft is of no use. It
// shares no memory with the delta.
func (d *Draft) Patch(delta []byte) error {
	if len(delta) == 0 {
		return nil
	}
	end, err := d.patch(delta)
	if err == nil && end != len(delta) {
		err = fmt.Errorf("applying a delta: %w: something follows it", ErrBadDelta)
	}
	return err
}

// patchAhead is Patch for a delta that is the value of an object's member, with what follows it up to the end of that object.
func (d *Draft) patchAhead(delta []byte) error {
	end, err := d.patch(delta)
	if err != nil || end == len(delta)-1 && delta[end] == '}' {
		return err
	}
	rest := objectScan{b: delta, i: end, bad: end == len(delta) || delta[end] != ','}
	for ok := true; ok; _, _, ok = rest.next() {
	}
	if rest.bad || rest.i != len(delta)-1 {
		return fmt.Errorf("%w: an object expected", ErrBadJSON)
	}
	return nil
}

// patch applies a delta and returns where it ends.
func (d *Draft) patch(delta []byte) (end int, err error) {
	p := draftPatch{draft: d, delta: delta}
	if err := p.edit(&d.root); err != nil {
		return 0, fmt.Errorf("applying a delta: %w", err)
	}
	if d.root.state == copied {
		d.root.state = written // JSON gives it away
	}
	return p.i, nil
}

// draftPatch goes over a delta once and makes its changes where it meets them.
type draftPatch struct {
	draft *Draft
	delta []byte
	i     int // of the delta, what comes next
}

// next is the byte that comes next, 0 at the end.
func (p *draftPatch) next() byte {
	if p.i < len(p.delta) {
		return p.delta[p.i]
	}
	return 0
}

// skip goes past a byte, if it comes next.
func (p *draftPatch) skip(b byte) bool {
	if p.next() != b {
		return false
	}
	p.i++
	return true
}

// value reads a value whole; nil when there is none.
func (p *draftPatch) value() []byte {
	end := skip(p.delta, p.i)
	if end < 0 {
		return nil
	}
	v := p.delta[p.i:end]
	p.i = end
	return v
}

// key reads a member's name and goes on to its value: a sign, 0 when the name is empty, and the key.
func (p *draftPatch) key() (sign byte, key []byte, ok bool) {
	if p.next() != '"' {
		return 0, nil, false
	}
	end := skipString(p.delta, p.i)
	if end < 0 || end >= len(p.delta) || p.delta[end] != ':' {
		return 0, nil, false
	}
	key = p.delta[p.i+1 : end-1]
	p.i = end + 1
	if len(key) == 0 {
		return 0, key, true
	}
	return key[0], key[1:], true
}

// damaged is the error of a delta that says something else than expected, in the value that begins at an index.
func (p *draftPatch) damaged(expected string, begin int) error {
	return fmt.Errorf("%w: %s expected, got %s", ErrBadDelta, expected, sortOf(p.delta[min(begin, len(p.delta)):]))
}

// edit makes the change of a value, whatever it is: see Diff.
func (p *draftPatch) edit(n *node) error {
	begin := p.i
	damaged := func() error { return p.damaged("members with a sign", begin) }
	if !p.skip('{') {
		return damaged()
	}
	sign, _, ok := p.key()
	switch {
	case !ok:
		return damaged()
	case sign == 0:
		v := p.value()
		if v == nil || !p.skip('}') {
			return damaged()
		}
		n.set(v)
		return nil
	case n.first() == 0:
		return fmt.Errorf("%w: there is nothing to apply it to", ErrWrongBase)
	}
	var err error
	switch first := n.first(); {
	case first == '{':
		p.i = begin
		return p.object(n)
	case first == '[' && sign == '@':
		err = p.list(n)
	case first == '"' && sign == '^':
		err = p.text(n)
	default:
		return fmt.Errorf("%w: %s does not fit %s", ErrWrongBase, sortOf(p.delta[begin:]), n.sort())
	}
	if err == nil && !p.skip('}') {
		return damaged()
	}
	return err
}

// object makes the changes of an object's members. Diff writes them in the order of their keys.
func (p *draftPatch) object(n *node) error {
	begin := p.i
	damaged := func() error { return p.damaged("members with a sign", begin) }
	if err := n.openObject(); err != nil {
		return err
	}
	if !p.skip('{') {
		return damaged()
	}
	for m, first := 0, true; ; first = false {
		sign, key, ok := p.key()
		if !ok || sign == 0 {
			return damaged()
		}
		there := first && n.beginsWith(key)
		if there {
			m = int(n.begin)
		} else {
			m, there = n.find(key, m)
		}
		if first {
			n.begin = int32(m)
		}
		switch {
		case !there && sign != '=':
			return fmt.Errorf("%w: there is no member %q", ErrWrongBase, key)
		case sign == '=' || sign == '-':
			v := p.value()
			switch {
			case v == nil:
				return damaged()
			case sign == '-':
				n.parts = slices.Delete(n.parts, m, m+1) // the next member moves to m
			case !there:
				n.parts = slices.Insert(n.parts, m, part{key: internKey(key)})
				fallthrough
			default:
				n.parts[m].set(v)
				m++
			}
		default:
			if err := p.member(&n.parts[m].node, sign); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			m++
		}
		if p.skip('}') {
			return nil
		}
		if !p.skip(',') {
			return damaged()
		}
	}
}

// beginsWith says whether the last delta of an open object began with the member of a key.
func (n *node) beginsWith(key []byte) bool {
	return int(n.begin) < len(n.parts) && *n.parts[n.begin].key == string(key)
}

// find returns the index of the member with a key, or that where it would have to be. It looks from an index on and, should the key
// belong before that, from the beginning.
func (n *node) find(key []byte, from int) (m int, there bool) {
	if from > 0 && string(key) < *n.parts[from-1].key {
		from = 0
	}
	for m = from; m < len(n.parts); m++ {
		switch known := *n.parts[m].key; {
		case known == string(key):
			return m, true
		case known > string(key):
			return m, false
		}
	}
	return m, false
}

// member makes the change inside a member's value.
func (p *draftPatch) member(n *node, sign byte) error {
	switch sign {
	case '~':
		if n.first() != '{' {
			return fmt.Errorf("%w: an object expected, there is %s", ErrWrongBase, n.sort())
		}
		return p.object(n)
	case '@':
		return p.list(n)
	case '^':
		return p.text(n)
	}
	return fmt.Errorf("%w: unknown sign %q", ErrBadDelta, sign)
}

// list takes the steps of a list's delta; see Diff. As long as none drops elements or puts some in, all stay where they are. From
// then on what the list will have is collected.
func (p *draftPatch) list(n *node) error {
	begin := p.i
	if err := n.openList(); err != nil {
		return err
	}
	if !p.skip('[') {
		return p.damaged("steps", begin)
	}
	elems := n.parts
	e := 0     // of the elements, what comes next
	stay := -1 // how many stay where they are; -1: all, so far
	d := p.draft
	from := len(d.parts) // what is collected; edit may collect on top of that
	collect := func() {
		if stay < 0 {
			stay = e
		}
	}
	defer func() {
		clear(d.parts[from:]) // so that they do not keep alive what is forgotten
		d.parts = d.parts[:from]
	}()
	for first := true; !p.skip(']'); first = false {
		if !first && !p.skip(',') {
			return p.damaged("steps", begin)
		}
		step := p.i
		switch p.next() {
		case '[':
			collect()
			if !p.values() {
				return p.damaged("values", step)
			}
		case '{':
			if e == len(elems) {
				return fmt.Errorf("%w: the list is too short", ErrWrongBase)
			}
			if err := p.edit(&elems[e].node); err != nil {
				return err
			}
			if e++; stay >= 0 {
				d.parts = append(d.parts, elems[e-1])
			}
		default:
			count, err := strconv.Atoi(string(p.value()))
			switch {
			case err != nil || count == 0:
				return p.damaged("a step", step)
			case max(count, -count) > len(elems)-e:
				return fmt.Errorf("%w: the list is too short", ErrWrongBase)
			case count < 0:
				collect()
				e -= count
			default:
				if stay >= 0 {
					d.parts = append(d.parts, elems[e:e+count]...)
				}
				e += count
			}
		}
	}
	if stay >= 0 {
		d.parts = append(d.parts, elems[e:]...)
		n.parts = append(elems[:stay], d.parts[from:]...)
		if len(n.parts) < len(elems) {
			clear(elems[len(n.parts):])
		}
	}
	return nil
}

// values collects the values of a list.
func (p *draftPatch) values() bool {
	p.skip('[')
	for first := true; !p.skip(']'); first = false {
		if !first && !p.skip(',') {
			return false
		}
		v := p.value()
		if v == nil {
			return false
		}
		var n part
		n.set(v)
		p.draft.parts = append(p.draft.parts, n)
	}
	return true
}

// text makes the change inside a text.
func (p *draftPatch) text(n *node) error {
	if n.isOpen() {
		return fmt.Errorf("%w: a text expected, there is %s", ErrWrongBase, n.sort())
	}
	prefix, suffix, middle, err := splice(n.raw, p.value())
	if err != nil {
		return err
	}
	out := make([]byte, 0, len(prefix)+len(middle)+len(suffix)+2)
	out = append(out, '"')
	out = append(append(append(out, prefix...), middle...), suffix...)
	*n = node{raw: append(out, '"'), state: copied}
	return nil
}
