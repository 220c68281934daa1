package domain

import "fmt"

// Draft is a canonical JSON document taken apart where deltas have touched it, and only there. A delta applied to it costs what it
// changes, where Patch costs what the document is long: that is what makes folding a long log quick. The zero Draft holds nothing.
//
// Whoever folds a log comes by another object with each event, and finds nothing of it in the processor's caches: a draft is laid out to
// be gone through in few steps from one piece of memory to another.
type Draft struct {
	root node

	parts []part // memory that is used again: see draftPatch.list
}

// node is a value of a draft: either as it was written, or open, as its parts.
type node struct {
	raw   []byte // nil when open
	parts []part // when open: an object's members, ordered by key, or a list's elements
	state nodeState
	begin int32 // of an object, the member with which the last delta began: the next one often begins with it too
}

type nodeState byte

const (
	written    nodeState = iota // somewhere in memory that others may read
	copied                      // in memory of this node alone: another value may be written over it
	openObject                  // as its members
	openList                    // as its elements
)

// part is a member of an object or an element, without a key, of a list. It has the size of a cache line.
type part struct {
	key *string // see internKey
	node
}

func (n *node) isOpen() bool { return n.state >= openObject }

// NewDraft makes a draft of a document, whose memory it shares.
func NewDraft(document []byte) *Draft { return &Draft{root: node{raw: document}} }

// JSON returns the document. The memory is the caller's unless no delta has been applied.
func (d *Draft) JSON() []byte {
	if !d.root.isOpen() {
		return d.root.raw
	}
	return d.root.appendTo(make([]byte, 0, d.root.size()))
}

func (n *node) size() int {
	if !n.isOpen() {
		return len(n.raw)
	}
	size := 2 + max(0, len(n.parts)-1)
	for i := range n.parts {
		if n.state == openObject {
			size += len(*n.parts[i].key) + len(`"":`)
		}
		size += n.parts[i].size()
	}
	return size
}

func (n *node) appendTo(out []byte) []byte {
	if !n.isOpen() {
		return append(out, n.raw...)
	}
	out = append(out, n.first())
	for i := range n.parts {
		if i > 0 {
			out = append(out, ',')
		}
		if n.state == openObject {
			out = append(append(append(out, '"'), *n.parts[i].key...), '"', ':')
		}
		out = n.parts[i].appendTo(out)
	}
	return append(out, n.first()+2) // both closing brackets come two after the opening ones
}

// sort says what a value is; see sortOf.
func (n *node) sort() string {
	switch n.state {
	case openObject:
		return sortOf([]byte{'{'})
	case openList:
		return sortOf([]byte{'['})
	}
	return sortOf(n.raw)
}

// first is the first byte of a value, 0 when there is none.
func (n *node) first() byte {
	switch {
	case n.state == openObject:
		return '{'
	case n.state == openList:
		return '['
	case len(n.raw) == 0:
		return 0
	}
	return n.raw[0]
}

// openObject takes an object apart.
func (n *node) openObject() error {
	if n.state == openObject {
		return nil
	}
	parts := make([]part, 0, 8)
	s := scanObject(n.raw)
	for {
		key, value, ok := s.next()
		if !ok {
			break
		}
		parts = append(parts, part{key: internKey(key), node: node{raw: value}})
	}
	if s.bad {
		return fmt.Errorf("%w: the document is not canonical JSON", ErrBadJSON)
	}
	*n = node{state: openObject, parts: parts}
	return nil
}

// openList takes a list apart.
func (n *node) openList() error {
	if n.state == openList {
		return nil
	}
	if n.first() != '[' {
		return fmt.Errorf("%w: a list expected, there is %s", ErrWrongBase, n.sort())
	}
	parts := make([]part, 0, 4)
	s := scanList(n.raw)
	for {
		value, ok := s.next()
		if !ok {
			break
		}
		parts = append(parts, part{node: node{raw: value}})
	}
	if s.bad {
		return fmt.Errorf("%w: a list expected, there is %s", ErrWrongBase, n.sort())
	}
	*n = node{state: openList, parts: parts}
	return nil
}

// set makes another value of a node, a copy.
func (n *node) set(value []byte) {
	if n.state != copied || cap(n.raw) < len(value) {
		*n = node{state: copied} // append leaves a little room for the next value
	}
	n.raw = append(n.raw[:0], value...)
}
