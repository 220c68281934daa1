package backup

import (
	"bytes"
	"encoding/binary"
)

// Sections takes a backup apart.
func Sections(data []byte) (out [][]byte) {
	for rest := data[len(magic)+1:]; len(rest) > 0; {
		n := frameBytes + int(binary.BigEndian.Uint32(rest[1:]))
		out, rest = append(out, rest[:n]), rest[n:]
	}
	return out
}

// Joined makes a backup of sections, with a hash over everything that is right.
func Joined(sections ...[]byte) []byte {
	var out bytes.Buffer
	w := newSectionWriter(&out)
	for _, s := range sections {
		w.raw(s)
	}
	_ = w.end() // a buffer takes everything
	return out.Bytes()
}

// WithKeys are options that put keys in, encrypted in a hurry.
func WithKeys(dir string) Options { return Options{KeysOf: dir, Passphrase: "open sesame", work: 4} }
