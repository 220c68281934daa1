package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// A frame holds objects of one resource:
//
//	group, resource, number of indexes and their names
//	objects: flags, namespace, name, uid, position, revision, (why it cannot be read), (values: for each index how many, and they), JSON
//
// Numbers are varints, texts have their length before them.
const (
	flagBroken  = 1 << iota // its events do not fold
	flagIndexed             // it stands in indexes
)

// entry is one object of a frame.
type entry struct {
	object *projections.Object
	values [][]string
	broken bool
}

// batch is a frame, decoded.
type batch struct {
	indexes []string
	entries []entry
}

// frames yields the frames of a state. They are valid until the next is asked for.
func frames(objects *memory.Snapshot, broken func(domain.Ref) bool) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		var frame []byte
		for table := range objects.Tables() {
			head := 0
			for o, values := range table.Items {
				if head == 0 {
					frame = appendHead(frame[:0], o.Ref, table.Indexes)
					head = len(frame)
				}
				frame = appendObject(frame, o, values, broken(o.Ref))
				if len(frame) >= frameBytes {
					if !yield(frame) {
						return
					}
					head = 0
				}
			}
			if head > 0 && !yield(frame) {
				return
			}
		}
	}
}

func appendText[T ~string | ~[]byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

func appendHead(b []byte, ref domain.Ref, indexes []string) []byte {
	b = appendText(appendText(b, ref.Group), ref.Resource)
	b = binary.AppendUvarint(b, uint64(len(indexes)))
	for _, name := range indexes {
		b = appendText(b, name)
	}
	return b
}

func appendObject(b []byte, o *projections.Object, values [][]string, broken bool) []byte {
	var flags byte
	if broken {
		flags |= flagBroken
	}
	if values != nil {
		flags |= flagIndexed
	}
	b = append(b, flags)
	b = appendText(appendText(appendText(b, o.Ref.Namespace), o.Ref.Name), o.Ref.UID)
	b = binary.AppendUvarint(binary.AppendUvarint(b, o.Position), o.Revision)
	if broken {
		why := ""
		if _, err := o.Typed(); err != nil {
			why = err.Error()
		}
		b = appendText(b, why)
	}
	for _, list := range values {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, v := range list {
			b = appendText(b, v)
		}
	}
	return appendText(b, o.JSON)
}

// parseFrame reads what frames made.
func parseFrame(kinds *domain.Set, frame []byte) (batch, error) {
	p := parser{b: frame}
	var ref domain.Ref
	ref.Group, ref.Resource = p.text(), p.text()
	out := batch{indexes: make([]string, p.count())}
	for i := range out.indexes {
		out.indexes[i] = p.text()
	}
	kind, _ := kinds.ByResource(ref.GroupResource())
	for len(p.b) > 0 && !p.bad {
		flags := p.flags()
		o := projections.Object{Kind: kind, Ref: ref}
		o.Ref.Namespace = p.namespace()
		o.Ref.Name = p.text()
		o.Ref.UID = types.UID(p.text())
		o.Position, o.Revision = p.number(), p.number()
		why := ""
		if flags&flagBroken != 0 {
			why = p.text()
		}
		e := entry{broken: flags&flagBroken != 0}
		if flags&flagIndexed != 0 {
			e.values = make([][]string, len(out.indexes))
			for i := range e.values {
				for range p.count() {
					e.values[i] = append(e.values[i], p.text())
				}
			}
		}
		o.JSON = bytes.Clone(p.bytes()) // what stays must not keep the frame
		if e.broken {
			if o.Kind == nil {
				o.Kind = memory.KindOf(kinds, o.Ref, o.JSON)
			}
			e.object = memory.Broken(o, errors.New(why))
		} else {
			e.object = memory.Decoded(kinds, o)
		}
		out.entries = append(out.entries, e)
	}
	if p.bad {
		return batch{}, fmt.Errorf("%w: a frame holds something else than objects", errDamaged)
	}
	return out, nil
}

// parser reads numbers and texts; once something is wrong everything is.
type parser struct {
	b    []byte
	bad  bool
	last string // the last namespace: most objects have that of the one before
}

func (p *parser) number() uint64 {
	n, size := binary.Uvarint(p.b)
	if size <= 0 {
		p.bad, p.b = true, nil
		return 0
	}
	p.b = p.b[size:]
	return n
}

// count is a number of things of at least a byte each.
func (p *parser) count() int {
	n := p.number()
	if n > uint64(len(p.b)) {
		p.bad, p.b = true, nil
		return 0
	}
	return int(n)
}

func (p *parser) flags() byte {
	f := p.b[0]
	p.b = p.b[1:]
	p.bad = p.bad || f&^(flagBroken|flagIndexed) != 0
	return f
}

func (p *parser) bytes() []byte {
	n := p.count()
	out := p.b[:n]
	p.b = p.b[n:]
	return out
}

func (p *parser) text() string { return string(p.bytes()) }

func (p *parser) namespace() string {
	if b := p.bytes(); string(b) != p.last {
		p.last = string(b)
	}
	return p.last
}
