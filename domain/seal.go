package domain

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// Errors of sealed payloads, tested with errors.Is.
var (
	// ErrErased says that the key of a sealed payload is gone: it was superseded or deleted, or its key store is not at hand.
	ErrErased = errors.New("the payload is erased: its key has been destroyed")
	// ErrBadSeal says that a sealed payload does not fit its key or its object: it was damaged, or moved from another object.
	ErrBadSeal = errors.New("the sealed payload is not what was sealed")
	// ErrBadKey says that a key or a nonce has the wrong length.
	ErrBadKey = errors.New("not a key for sealing")
)

// Sizes of what sealing takes, in bytes.
const (
	DataKeySize = 32 // AES-256
	NonceSize   = 12
)

// sealedMember holds, in the canonical JSON of the log, the read models and the snapshots, what was taken out of an object. It sorts
// before every member that Kubernetes' objects have, so that the first bytes of a document tell whether it is sealed.
const sealedMember = "$sealed"

const sealedPrefix = `{"` + sealedMember + `":`

// sealVersion names the form of the envelope, in the envelope and in what it is bound to.
const sealVersion = "1"

// DataKey seals one payload. ID names the key for ever and is never given twice; it has no characters that JSON escapes.
type DataKey struct {
	ID  string
	Key []byte // DataKeySize bytes
}

// Keys give the data keys of sealed payloads to readers. A fold never asks for one.
type Keys interface {
	// DataKey returns a key by its id, or false when it has been destroyed or was never here.
	DataKey(id string) ([]byte, bool)
}

// Envelope is a sealed payload as it stands in a document.
type Envelope struct {
	KeyID string
	raw   []byte
}

// IsSealed tells whether a document holds a sealed payload. It looks at the first bytes only.
func IsSealed(document []byte) bool {
	return len(document) > len(sealedPrefix) && string(document[:len(sealedPrefix)]) == sealedPrefix
}

// EnvelopeOf returns the envelope of a document, or false when it has none. It shares the document's memory.
func EnvelopeOf(document []byte) (Envelope, bool) {
	if !IsSealed(document) {
		return Envelope{}, false
	}
	s := scanObject(document)
	_, raw, ok := s.next()
	if !ok {
		return Envelope{}, false
	}
	return Envelope{KeyID: textOf(lookup(raw, "key")), raw: raw}, true
}

// Seal returns a document with its payload, as Split took it out, as ciphertext. Key and nonce must not
// have sealed anything else together; in a log, where a key is destroyed with its payload, a key seals one payload. The payload is bound to the object's name and uid and to the key's id, so that it opens nowhere else; how long it is can be seen
// from outside in steps only (see padded).
func Seal(rest, payload []byte, ref Ref, key DataKey, nonce []byte) ([]byte, error) {
	if len(nonce) != NonceSize {
		return nil, fmt.Errorf("sealing %s: %w: a nonce of %d bytes", ref, ErrBadKey, len(nonce))
	}
	aead, err := aeadOf(key.Key)
	if err != nil {
		return nil, fmt.Errorf("sealing %s: %w", ref, err)
	}
	box := aead.Seal(nil, nonce, padded(payload), bindingOf(ref, key.ID))
	raw := fmt.Appendf(nil, `{"box":"%s","key":"%s","nonce":"%s","v":%s}`,
		base64.StdEncoding.EncodeToString(box), key.ID, base64.StdEncoding.EncodeToString(nonce), sealVersion)
	return WithEnvelope(rest, Envelope{KeyID: key.ID, raw: raw})
}

// WithEnvelope returns a document with a payload that has been sealed before: that of an object whose payload has not changed.
func WithEnvelope(rest []byte, e Envelope) ([]byte, error) {
	if len(rest) < 2 || rest[0] != '{' {
		return nil, fmt.Errorf("sealing: %w: %s is no object", ErrBadJSON, sortOf(rest))
	}
	s := scanObject(rest)
	if first, _, ok := s.next(); ok && string(first) <= sealedMember {
		return nil, fmt.Errorf("sealing: %w: an object with a member %.20q cannot be sealed", ErrBadJSON, first)
	}
	out := make([]byte, 0, len(sealedPrefix)+len(e.raw)+1+len(rest))
	out = append(append(out, sealedPrefix...), e.raw...)
	if len(rest) > 2 {
		out = append(out, ',')
	}
	return append(out, rest[1:]...), nil
}

// Open returns a document with its payload in its place; one that holds none is returned as it is. Errors are ErrErased and
// ErrBadSeal.
func Open(document []byte, ref Ref, keys Keys) ([]byte, error) {
	if !IsSealed(document) {
		return document, nil
	}
	e, ok := EnvelopeOf(document)
	if !ok {
		return nil, fmt.Errorf("%w: the document is cut off", ErrBadSeal)
	}
	payload, err := e.open(ref, keys)
	if err != nil {
		return nil, err
	}
	return merge(withoutEnvelope(document, e), payload), nil
}

func (e Envelope) open(ref Ref, keys Keys) ([]byte, error) {
	if keys == nil {
		return nil, ErrErased
	}
	key, ok := keys.DataKey(e.KeyID)
	if !ok {
		return nil, ErrErased
	}
	if v := lookup(e.raw, "v"); string(v) != sealVersion {
		return nil, fmt.Errorf("%w: it has version %.20q, this build reads version %s", ErrBadSeal, v, sealVersion)
	}
	aead, err := aeadOf(key)
	if err != nil {
		return nil, err
	}
	box, err := base64.StdEncoding.DecodeString(textOf(lookup(e.raw, "box")))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSeal, err)
	}
	nonce, err := base64.StdEncoding.DecodeString(textOf(lookup(e.raw, "nonce")))
	if err != nil || len(nonce) != NonceSize {
		return nil, fmt.Errorf("%w: its nonce is damaged", ErrBadSeal)
	}
	payload, err := aead.Open(box[:0], nonce, box, bindingOf(ref, e.KeyID))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSeal, err)
	}
	payload = bytes.TrimRight(payload, " ")
	if end := skip(payload, 0); end != len(payload) || len(payload) == 0 || payload[0] != '{' {
		return nil, fmt.Errorf("%w: it holds no object", ErrBadSeal)
	}
	return payload, nil
}

// withoutEnvelope is a document without its first member.
func withoutEnvelope(document []byte, e Envelope) []byte {
	rest := document[len(sealedPrefix)+len(e.raw):]
	rest = bytes.TrimPrefix(rest, []byte(","))
	return append([]byte{'{'}, rest...)
}

func aeadOf(key []byte) (cipher.AEAD, error) {
	if len(key) != DataKeySize {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrBadKey, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	return aead, nil
}

// bindingOf is what a payload is bound to. No part can hold a zero byte but by a hostile name, and that shifts nothing: each part
// is preceded by its length.
func bindingOf(ref Ref, keyID string) []byte {
	out := []byte("shiplog sealed " + sealVersion)
	for _, part := range []string{ref.Group, ref.Resource, ref.Namespace, ref.Name, string(ref.UID), keyID} {
		out = fmt.Appendf(out, "\x00%d:%s", len(part), part)
	}
	return out
}

// minSealed is the least length that can be seen of a payload, in bytes: nobody can tell a password of 8 from one of 80.
const minSealed = 256

// padded fills a payload up with spaces, so that its ciphertext tells its length in steps only: from minSealed on, eight steps
// each time it doubles (an eighth of waste at most).
func padded(payload []byte) []byte {
	n := max(len(payload), minSealed)
	step := 1 << max(bits.Len(uint(n-1))-4, 5)
	n = (n + step - 1) / step * step
	out := append(make([]byte, 0, n), payload...)
	return append(out, bytes.Repeat([]byte{' '}, n-len(payload))...)
}

// Split takes the sealed fields of a kind out of an object's canonical JSON: what is left, and the payload, nil when the object
// has none of the fields. The marker of an erased payload is dropped: it is for readers. A kind without sealed fields gives the document.
func (k *Kind) Split(document []byte) (rest, payload []byte) {
	rest = document
	if len(k.Sealed) == 0 {
		return rest, nil
	}
	rest, _ = cut(rest, erasedPath())
	for _, p := range k.Sealed {
		var value []byte
		if rest, value = cut(rest, p.keys()); value != nil {
			payload = merge(payload, nest(p.keys(), value))
		}
	}
	return rest, payload
}

// MemberPath is the path of a member of a member and so on.
func MemberPath(members ...string) Path {
	p := make(Path, len(members))
	for i, m := range members {
		p[i] = pathStep{kind: '.', key: m}
	}
	return p
}

// Members are the steps of a path of members.
func (p Path) Members() []string {
	out := make([]string, len(p))
	for i := range p {
		out[i] = p[i].key
	}
	return out
}

// keys are the steps of a path of members, as canonical JSON writes them.
func (p Path) keys() []string {
	out := make([]string, len(p))
	for i := range p {
		out[i] = canonicalKey(p[i].key)
	}
	return out
}

// nest is the document that has nothing but one value at a path.
func nest(path []string, value []byte) []byte {
	for _, key := range slices.Backward(path) {
		inner := value
		value = append([]byte(`{"`), key...)
		value = append(append(append(value, '"', ':'), inner...), '}')
	}
	return value
}

// cut returns a document without the value at a path, and the value; the document itself and nil when there is none. An object that
// has nothing else than what is cut out goes with it.
func cut(document []byte, path []string) (rest, value []byte) {
	out := append(make([]byte, 0, len(document)), '{')
	s := scanObject(document)
	for {
		k, v, ok := s.next()
		if !ok {
			break
		}
		if value == nil && string(k) == path[0] {
			if len(path) == 1 {
				value = v
				continue
			}
			inner, found := cut(v, path[1:])
			if value = found; found != nil {
				if v = inner; string(v) == "{}" {
					continue
				}
			}
		}
		out = appendMember(out, k, v)
	}
	if s.bad || value == nil {
		return document, nil
	}
	return append(out, '}'), value
}

func appendMember(out, key, value []byte) []byte {
	if len(out) > 1 {
		out = append(out, ',')
	}
	out = append(append(append(out, '"'), key...), '"', ':')
	return append(out, value...)
}

// merge returns a document with the members of another: those of objects that both have are merged, others are taken from b.
func merge(a, b []byte) []byte {
	if len(a) == 0 || a[0] != '{' || len(b) == 0 || b[0] != '{' {
		return b
	}
	out := append(make([]byte, 0, len(a)+len(b)), '{')
	left, right := scanObject(a), scanObject(b)
	lk, lv, lok := left.next()
	rk, rv, rok := right.next()
	for lok || rok {
		order := -1
		if !lok {
			order = 1
		} else if rok {
			order = bytes.Compare(lk, rk)
		}
		switch {
		case order < 0:
			out = appendMember(out, lk, lv)
			lk, lv, lok = left.next()
		case order > 0:
			out = appendMember(out, rk, rv)
			rk, rv, rok = right.next()
		default:
			out = appendMember(out, lk, merge(lv, rv))
			lk, lv, lok = left.next()
			rk, rv, rok = right.next()
		}
	}
	return append(out, '}')
}
