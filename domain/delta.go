package domain

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Errors of deltas, tested with errors.Is.
var (
	// ErrBadDelta says that a delta is damaged.
	ErrBadDelta = errors.New("damaged delta")
	// ErrWrongBase says that a delta was made against something else than it is applied to.
	ErrWrongBase = errors.New("delta made against another state")
)

// Delta is what an event that changes an object of a kind holds: the difference or, for a kind whose older events may be gone,
// the whole object in the form of a delta. It is nil when nothing changed.
func Delta(k *Kind, before, after []byte) ([]byte, error) {
	if k.Retained() && !bytes.Equal(before, after) {
		return Whole(after), nil
	}
	return Diff(before, after)
}

// Whole makes a delta that leads from anything, also from nothing, to a document.
func Whole(after []byte) []byte {
	out := make([]byte, 0, len(after)+len(`{"":}`))
	return append(append(append(out, `{"":`...), after...), '}')
}

// Diff says how one canonical JSON document became another, exactly and briefly; nil when they are equal. The README describes
// the form.
func Diff(before, after []byte) ([]byte, error) {
	if bytes.Equal(before, after) {
		return nil, nil
	}
	if len(after) == 0 {
		return nil, fmt.Errorf("taking a difference: %w: no document after", ErrBadJSON)
	}
	if len(before) == 0 {
		return Whole(after), nil
	}
	d := differ{out: make([]byte, 0, 256)}
	d.edit(before, after)
	if d.bad {
		return nil, fmt.Errorf("taking a difference: %w", ErrBadJSON)
	}
	return d.out, nil
}

type differ struct {
	out []byte
	bad bool
}

// edit writes the change of one value to another as an object: {"":new}, {"@":[steps]} for a list, {"^":[...]} for a text, or
// the members that differ for an object; whichever is shorter.
func (d *differ) edit(before, after []byte) {
	start := len(d.out)
	switch {
	case before[0] == '{' && after[0] == '{':
		d.object(before, after)
	case before[0] == '[' && after[0] == '[':
		d.out = append(d.out, `{"@":`...)
		d.list(before, after)
		d.out = append(d.out, '}')
	case before[0] == '"' && after[0] == '"' && worthSplicing(before, after):
		d.out = append(d.out, `{"^":`...)
		d.text(before, after)
		d.out = append(d.out, '}')
	default:
		d.out = append(append(append(d.out, `{"":`...), after...), '}')
		return
	}
	if len(d.out)-start > len(after)+len(`{"":}`) {
		d.out = append(append(append(d.out[:start], `{"":`...), after...), '}')
	}
}

// object writes the members that differ, each under its key with a sign before it.
func (d *differ) object(before, after []byte) {
	d.out = append(d.out, '{')
	body := len(d.out)
	b, a := scanObject(before), scanObject(after)
	bk, bv, bok := b.next()
	ak, av, aok := a.next()
	for bok || aok {
		order := 0
		switch {
		case !bok:
			order = 1
		case !aok:
			order = -1
		default:
			order = bytes.Compare(bk, ak)
		}
		switch {
		case order < 0:
			d.member(body, '-', bk)
			d.out = append(d.out, "null"...)
			bk, bv, bok = b.next()
		case order > 0:
			d.member(body, '=', ak)
			d.out = append(d.out, av...)
			ak, av, aok = a.next()
		default:
			if !bytes.Equal(bv, av) {
				d.changedMember(body, ak, bv, av)
			}
			bk, bv, bok = b.next()
			ak, av, aok = a.next()
		}
	}
	d.bad = d.bad || b.bad || a.bad
	d.out = append(d.out, '}')
}

func (d *differ) changedMember(body int, key, before, after []byte) {
	start := len(d.out)
	switch {
	case before[0] == '{' && after[0] == '{':
		d.member(body, '~', key)
		d.object(before, after)
	case before[0] == '[' && after[0] == '[':
		d.member(body, '@', key)
		d.list(before, after)
	case before[0] == '"' && after[0] == '"' && worthSplicing(before, after):
		d.member(body, '^', key)
		d.text(before, after)
	default:
		d.member(body, '=', key)
		d.out = append(d.out, after...)
		return
	}
	if len(d.out)-start > len(after)+len(key)+len(`,"=":`) {
		d.out = d.out[:start]
		d.member(body, '=', key)
		d.out = append(d.out, after...)
	}
}

func (d *differ) member(body int, sign byte, key []byte) {
	if len(d.out) > body {
		d.out = append(d.out, ',')
	}
	d.out = append(d.out, '"', sign)
	d.out = append(append(d.out, key...), '"', ':')
}

// minSplice is the length of a text from which on its change is looked for inside it.
const minSplice = 64

func worthSplicing(before, after []byte) bool {
	return len(before) > minSplice && len(after) > minSplice
}

// text writes [prefix,suffix,"middle"]: how many bytes, as written, to keep at both ends, and what comes between.
func (d *differ) text(before, after []byte) {
	b, a := before[1:len(before)-1], after[1:len(after)-1]
	shorter := min(len(b), len(a))
	p := 0
	for p < shorter && b[p] == a[p] {
		p++
	}
	p = boundaryUpTo(a, p)
	p = min(p, boundaryUpTo(b, p))
	s := 0
	for s < shorter-p && b[len(b)-1-s] == a[len(a)-1-s] {
		s++
	}
	for { // both texts must be cut between characters
		next := min(boundaryFromEnd(a, s), boundaryFromEnd(b, s))
		if next == s {
			break
		}
		s = next
	}
	d.out = append(d.out, '[')
	d.out = strconv.AppendInt(d.out, int64(p), 10)
	d.out = append(d.out, ',')
	d.out = strconv.AppendInt(d.out, int64(s), 10)
	d.out = append(d.out, ',', '"')
	d.out = append(append(d.out, a[p:len(a)-s]...), '"', ']')
}

// boundaryUpTo returns the last place not after p between two characters of a text as written, an escape being one.
func boundaryUpTo(text []byte, p int) int {
	at := 0
	for at < p {
		next := at + charLen(text[at:])
		if next > p {
			break
		}
		at = next
	}
	return at
}

// boundaryFromEnd returns the largest count not above s of bytes at the end that begin between two characters.
func boundaryFromEnd(text []byte, s int) int {
	at := 0
	for at < len(text)-s {
		at += charLen(text[at:])
	}
	return len(text) - at
}

func charLen(text []byte) int {
	switch b := text[0]; {
	case b == '\\' && len(text) > 1 && text[1] == 'u':
		return min(6, len(text))
	case b == '\\':
		return min(2, len(text))
	case b < utf8.RuneSelf:
		return 1
	default:
		_, n := utf8.DecodeRune(text)
		return n
	}
}

// list writes the steps that lead from one list to another: n keeps n elements, -n drops n, [values] puts values in, and an
// object edits one element. What remains at the end is kept.
func (d *differ) list(before, after []byte) {
	b, okB := elements(before)
	a, okA := elements(after)
	if !okB || !okA {
		d.bad = true
		return
	}
	p, s := sameEnds(b, a)
	w := stepWriter{d: d}
	d.out = append(d.out, '[')
	w.keep(p)
	for _, x := range align(b[p:len(b)-s], a[p:len(a)-s]) {
		switch {
		case x.after == nil:
			w.drop(1)
		case x.before == nil:
			w.insert(x.after)
		default:
			w.edit(x.before, x.after)
		}
	}
	w.flush(false)
	if w.inserting {
		d.out = append(d.out, ']')
	}
	d.out = append(d.out, ']')
}

// stepWriter writes the steps of a list's delta, neighbouring ones of a sort as one.
type stepWriter struct {
	d         *differ
	any       bool
	kept      int
	dropped   int
	inserting bool
}

func (w *stepWriter) comma() {
	if w.any {
		w.d.out = append(w.d.out, ',')
	}
	w.any = true
}

// flush writes what has been counted; a count of kept elements is written only before another step.
func (w *stepWriter) flush(keptToo bool) {
	if w.inserting && keptToo {
		w.d.out = append(w.d.out, ']')
		w.inserting = false
	}
	if w.kept > 0 && keptToo {
		w.comma()
		w.d.out = strconv.AppendInt(w.d.out, int64(w.kept), 10)
		w.kept = 0
	}
	if w.dropped > 0 {
		w.comma()
		w.d.out = strconv.AppendInt(w.d.out, int64(-w.dropped), 10)
		w.dropped = 0
	}
}

func (w *stepWriter) keep(n int) {
	if n == 0 {
		return
	}
	if w.inserting || w.dropped > 0 {
		w.flush(true)
	}
	w.kept += n
}

func (w *stepWriter) drop(n int) {
	if n == 0 {
		return
	}
	if w.inserting || w.kept > 0 {
		w.flush(true)
	}
	w.dropped += n
}

func (w *stepWriter) insert(value []byte) {
	if w.inserting {
		w.d.out = append(append(w.d.out, ','), value...)
		return
	}
	w.flush(true)
	w.comma()
	w.inserting = true
	w.d.out = append(append(w.d.out, '['), value...)
}

func (w *stepWriter) edit(before, after []byte) {
	if bytes.Equal(before, after) {
		w.keep(1)
		return
	}
	w.flush(true)
	w.comma()
	w.d.edit(before, after)
}
