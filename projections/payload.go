package projections

import (
	"fmt"

	"github.com/shiplog/shiplog/domain"
)

// Payload stands for the path of an object's sealed payload, in what tells of its changes, when not both sides of a change can be read.
const Payload = "(payload)"

// What stands in the place of such a payload.
const (
	payloadErased = `"(erased)"`
	payloadSealed = `"(sealed)"`
)

// Comparison is two states of an object in a form in which they can be compared field by field.
type Comparison struct {
	Before, After []byte // canonical JSON; "{}" for an object that was not there
	// Payload is what happened to the sealed payload when it can only be told as a whole, for one of the two is erased; nil when the
	// documents tell it, or it is the same.
	Payload *domain.FieldChange
}

// Compare prepares two states of an object (nil: it was not there) to be compared: what can be read is opened.
func Compare(before, after *Object) (Comparison, error) {
	b, err := sideOf(before)
	if err != nil {
		return Comparison{}, err
	}
	a, err := sideOf(after)
	if err != nil {
		return Comparison{}, err
	}
	if b.mark == "" && a.mark == "" {
		return Comparison{Before: b.document, After: a.document}, nil
	}
	c := Comparison{Before: b.rest(), After: a.rest()}
	if b.mark != a.mark {
		c.Payload = &domain.FieldChange{Path: Payload, Before: b.payload(), After: a.payload()}
	}
	return c, nil
}

// side is one of two states.
type side struct {
	kind     *domain.Kind
	document []byte // open, or with a marker
	mark     string // why its payload cannot be read; "" when it can
}

func sideOf(o *Object) (side, error) {
	if o == nil {
		return side{document: []byte("{}")}, nil
	}
	s := side{kind: o.Kind}
	var err error
	if s.document, err = o.Document(); err != nil {
		return s, fmt.Errorf("reading %s to compare it: %w", o.Ref, err)
	}
	if len(o.Kind.Sealed) == 0 && !domain.IsSealed(o.JSON) {
		return s, nil
	}
	typed, err := o.Typed()
	if err != nil {
		return s, fmt.Errorf("reading %s to compare it: %w", o.Ref, err)
	}
	s.mark = domain.ErasedMark(typed)
	return s, nil
}

func (s side) rest() []byte {
	if s.kind == nil {
		return s.document
	}
	return domain.WithoutPayload(s.kind, s.document)
}

func (s side) payload() []byte {
	switch {
	case s.mark != "":
		return []byte(payloadErased)
	case s.kind == nil || len(s.document) == len(s.rest()):
		return nil
	}
	return []byte(payloadSealed)
}
