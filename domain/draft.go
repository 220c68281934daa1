package domain

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
)

// Draft is a canonical JSON document taken apart where deltas have touched it, and only there. A delta applied to it costs what it
// changes, where Patch costs what the document is long: that is what makes folding a long log quick. The zero Draft holds nothing.
type Draft struct {
	root node

	// Memory that is used again. A call's part is what it has pushed; those that it calls push on top of that.
	cs    []change
	nodes []node
}

// node is a value of a draft: either as it was written, or open, as its parts.
type node struct {
	raw  []byte // nil when open
	open *parts
}

// parts are the members of an object, ordered by key, or the elements of a list.
type parts struct {
	isList   bool
	members  []draftMember
	elements []node
}

type draftMember struct {
	key   []byte
	value node
}

// NewDraft makes a draft of a document, whose memory it shares.
func NewDraft(document []byte) *Draft { return &Draft{root: node{raw: document}} }

// Patch applies what Diff returned, as the function Patch does and with its errors. After an error the draft is of no use. It
// shares no memory with the delta.
func (d *Draft) Patch(delta []byte) error {
	if len(delta) == 0 {
		return nil
	}
	if err := d.edit(&d.root, delta); err != nil {
		return fmt.Errorf("applying a delta: %w", err)
	}
	return nil
}

// JSON returns the document. The memory is the caller's unless no delta has been applied.
func (d *Draft) JSON() []byte {
	if d.root.open == nil {
		return d.root.raw
	}
	return d.root.appendTo(make([]byte, 0, d.root.size()))
}

func (n *node) size() int {
	switch {
	case n.open == nil:
		return len(n.raw)
	case n.open.isList:
		size := 2 + max(0, len(n.open.elements)-1)
		for i := range n.open.elements {
			size += n.open.elements[i].size()
		}
		return size
	}
	size := 2 + max(0, len(n.open.members)-1)
	for i := range n.open.members {
		size += len(n.open.members[i].key) + len(`"":`) + n.open.members[i].value.size()
	}
	return size
}

func (n *node) appendTo(out []byte) []byte {
	switch {
	case n.open == nil:
		return append(out, n.raw...)
	case n.open.isList:
		out = append(out, '[')
		for i := range n.open.elements {
			if i > 0 {
				out = append(out, ',')
			}
			out = n.open.elements[i].appendTo(out)
		}
		return append(out, ']')
	}
	out = append(out, '{')
	for i := range n.open.members {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, '"'), n.open.members[i].key...), '"', ':')
		out = n.open.members[i].value.appendTo(out)
	}
	return append(out, '}')
}

// sort says what a value is; see sortOf.
func (n *node) sort() string {
	switch {
	case n.open == nil:
		return sortOf(n.raw)
	case n.open.isList:
		return "a list"
	}
	return "an object"
}

// first is the first byte of a value.
func (n *node) first() byte {
	switch {
	case n.open == nil:
		return n.raw[0]
	case n.open.isList:
		return '['
	}
	return '{'
}

func (d *Draft) edit(n *node, delta []byte) error {
	from := len(d.cs)
	defer func() { d.cs = d.cs[:from] }()
	cs, err := d.changes(delta)
	if err != nil {
		return err
	}
	if cs[0].sign == 0 && len(cs) == 1 {
		*n = node{raw: bytes.Clone(cs[0].value)}
		return nil
	}
	if n.open == nil && len(n.raw) == 0 {
		return fmt.Errorf("%w: there is nothing to apply it to", ErrWrongBase)
	}
	switch first := n.first(); {
	case first == '{':
		return d.object(n, cs)
	case first == '[' && cs[0].sign == '@' && len(cs) == 1:
		return d.list(n, cs[0].value)
	case first == '"' && cs[0].sign == '^' && len(cs) == 1:
		return n.text(cs[0].value)
	}
	return fmt.Errorf("%w: %s does not fit %s", ErrWrongBase, sortOf(delta), n.sort())
}

// changes pushes the members of an object's delta, in the order of their keys, and returns them.
func (d *Draft) changes(delta []byte) ([]change, error) {
	from := len(d.cs)
	var err error
	d.cs, err = appendChanges(d.cs, delta)
	return d.cs[from:], err
}

func (d *Draft) object(n *node, cs []change) error {
	if err := n.openObject(); err != nil {
		return err
	}
	at := 0
	for i := range cs {
		c := &cs[i]
		members := n.open.members
		order := 1 // of the key at "at" to that of the change
		for ; at < len(members); at++ {
			if order = bytes.Compare(members[at].key, c.key); order >= 0 {
				break
			}
		}
		there := at < len(members) && order == 0
		switch {
		case c.sign == '=' && there:
			members[at].value = node{raw: bytes.Clone(c.value)}
		case c.sign == '=':
			n.open.members = slices.Insert(members, at, draftMember{bytes.Clone(c.key), node{raw: bytes.Clone(c.value)}})
		case !there:
			return fmt.Errorf("%w: there is no member %q", ErrWrongBase, c.key)
		case c.sign == '-':
			n.open.members = slices.Delete(members, at, at+1)
			continue // the next member has moved to "at"
		default:
			if err := d.member(&members[at].value, c); err != nil {
				return fmt.Errorf("%s: %w", c.key, err)
			}
		}
		at++
	}
	return nil
}

func (d *Draft) member(n *node, c *change) error {
	switch c.sign {
	case '~':
		if n.first() != '{' {
			return fmt.Errorf("%w: an object expected, there is %s", ErrWrongBase, n.sort())
		}
		from := len(d.cs)
		defer func() { d.cs = d.cs[:from] }()
		cs, err := d.changes(c.value)
		if err != nil {
			return err
		}
		return d.object(n, cs)
	case '@':
		return d.list(n, c.value)
	case '^':
		return n.text(c.value)
	}
	return fmt.Errorf("%w: unknown sign %q", ErrBadDelta, c.sign)
}

func (n *node) openObject() error {
	if n.open != nil {
		return nil
	}
	p := &parts{members: make([]draftMember, 0, 12)}
	s := scanObject(n.raw)
	for {
		key, value, ok := s.next()
		if !ok {
			break
		}
		p.members = append(p.members, draftMember{key, node{raw: value}})
	}
	if s.bad {
		return fmt.Errorf("%w: the document is not canonical JSON", ErrBadJSON)
	}
	*n = node{open: p}
	return nil
}

func (n *node) openList() error {
	if n.open != nil && n.open.isList {
		return nil
	}
	if n.open != nil || len(n.raw) == 0 || n.raw[0] != '[' {
		return fmt.Errorf("%w: a list expected, there is %s", ErrWrongBase, n.sort())
	}
	p := &parts{isList: true, elements: make([]node, 0, 8)}
	s := scanList(n.raw)
	for {
		value, ok := s.next()
		if !ok {
			break
		}
		p.elements = append(p.elements, node{raw: value})
	}
	if s.bad {
		return fmt.Errorf("%w: a list expected, there is %s", ErrWrongBase, n.sort())
	}
	*n = node{open: p}
	return nil
}

// list takes the steps of a list's delta; see Diff.
func (d *Draft) list(n *node, delta []byte) error {
	if err := n.openList(); err != nil {
		return err
	}
	from := len(d.nodes)
	defer func() {
		clear(d.nodes[from:]) // so that they do not keep alive what is forgotten
		d.nodes = d.nodes[:from]
	}()
	elems := n.open.elements
	steps := scanList(delta)
	for {
		step, ok := steps.next()
		if !ok {
			break
		}
		switch step[0] {
		case '[':
			values := scanList(step)
			for v, ok := values.next(); ok; v, ok = values.next() {
				d.nodes = append(d.nodes, node{raw: bytes.Clone(v)})
			}
			if values.bad {
				return fmt.Errorf("%w: values expected, got %s", ErrBadDelta, sortOf(step))
			}
		case '{':
			if len(elems) == 0 {
				return fmt.Errorf("%w: the list is too short", ErrWrongBase)
			}
			if err := d.edit(&elems[0], step); err != nil {
				return err
			}
			d.nodes = append(d.nodes, elems[0])
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
				d.nodes = append(d.nodes, elems[:n]...)
			}
			elems = elems[max(n, -n):]
		}
	}
	if steps.bad {
		return fmt.Errorf("%w: steps expected, got %s", ErrBadDelta, sortOf(delta))
	}
	d.nodes = append(d.nodes, elems...)
	old := n.open.elements
	n.open.elements = append(old[:0], d.nodes[from:]...)
	if len(n.open.elements) < len(old) {
		clear(old[len(n.open.elements):])
	}
	return nil
}

func (n *node) text(delta []byte) error {
	if n.open != nil {
		return fmt.Errorf("%w: a text expected, there is %s", ErrWrongBase, n.sort())
	}
	prefix, suffix, middle, err := splice(n.raw, delta)
	if err != nil {
		return err
	}
	out := make([]byte, 0, len(prefix)+len(middle)+len(suffix)+2)
	out = append(out, '"')
	out = append(append(append(out, prefix...), middle...), suffix...)
	n.raw = append(out, '"')
	return nil
}
