package keystore

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/shiplog/shiplog/domain"
)

// The file: a head of headSize bytes, then slots of slotSize. Neither a head nor a slot straddles a sector of 512 bytes, which disks
// write whole or not at all.
//
//	head    magic 16 | version 4 | length of the identity 4 | identity of the log 64 | zeros | crc32c 4
//	slot    used 1 | id of the KEK 8 | id of the key 16 | nonce 12 | wrapped key 48 | zeros | crc32c 4
//
// A free slot is zeros. Numbers are big-endian. A key is wrapped by AES-256-GCM under the KEK, bound to both ids.
const (
	headSize    = 512
	slotSize    = 128
	growBy      = 64 // slots
	maxIdentity = 64
	version     = 1
	wrappedSize = domain.DataKeySize + 16
	keyIDSize   = 16
	kekIDSize   = 8
)

const magic = "shiplog keys\x00\x00\x00\x00"

type (
	keyID [keyIDSize]byte
	kekID [kekIDSize]byte
)

// text is how documents name a key.
func (id keyID) text() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

func parseKeyID(text string) (keyID, bool) {
	var id keyID
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) != keyIDSize {
		return id, false
	}
	copy(id[:], b)
	return id, true
}

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// sum writes the checksum of all but the last four bytes into these.
func sum(b []byte) []byte {
	binary.BigEndian.PutUint32(b[len(b)-4:], castagnoli(b[:len(b)-4]))
	return b
}

func sound(b []byte) bool {
	return binary.BigEndian.Uint32(b[len(b)-4:]) == castagnoli(b[:len(b)-4])
}

func encodeHead(identity string) []byte {
	b := make([]byte, headSize)
	copy(b, magic)
	binary.BigEndian.PutUint32(b[16:], version)
	binary.BigEndian.PutUint32(b[20:], uint32(len(identity)))
	copy(b[24:24+maxIdentity], identity)
	return sum(b)
}

func decodeHead(b []byte) (identity string, err error) {
	if len(b) < headSize || string(b[:16]) != magic {
		return "", fmt.Errorf("%w: it does not begin as one does", ErrCorrupt)
	}
	b = b[:headSize]
	if v := binary.BigEndian.Uint32(b[16:]); v > version {
		return "", fmt.Errorf("%w: format %d, this build knows %d", ErrVersion, v, version)
	}
	n := binary.BigEndian.Uint32(b[20:])
	if !sound(b) || n > maxIdentity {
		return "", fmt.Errorf("%w: the checksum of its head is wrong", ErrCorrupt)
	}
	return string(b[24 : 24+n]), nil
}

// wrapped is a key as it stands in a slot.
type wrapped struct {
	kek   kekID
	id    keyID
	nonce [domain.NonceSize]byte
	box   [wrappedSize]byte
}

func (w wrapped) encode() []byte {
	b := make([]byte, 0, slotSize)
	b = append(b, 1)
	b = append(b, w.kek[:]...)
	b = append(b, w.id[:]...)
	b = append(b, w.nonce[:]...)
	b = append(b, w.box[:]...)
	return sum(b[:slotSize])
}

// decodeSlot reads a slot: used and sound, free, or damaged (neither).
func decodeSlot(b []byte) (w wrapped, used, free bool) {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return w, false, true
	}
	if b[0] != 1 || !sound(b) {
		return w, false, false
	}
	b = b[1:]
	for _, part := range [][]byte{w.kek[:], w.id[:], w.nonce[:], w.box[:]} {
		b = b[copy(part, b):]
	}
	return w, true, false
}

func aeadOf(kek []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (w wrapped) binding() []byte {
	return append(append([]byte("shiplog key "), w.kek[:]...), w.id[:]...)
}

// wrap encloses a key under a KEK. The nonce must be fresh.
func wrap(k kek, id keyID, nonce [domain.NonceSize]byte, key []byte) wrapped {
	w := wrapped{kek: k.id, id: id, nonce: nonce}
	copy(w.box[:], k.aead.Seal(nil, nonce[:], key, w.binding()))
	return w
}

// unwrap returns the key.
func (w wrapped) unwrap(k kek) ([]byte, error) {
	key, err := k.aead.Open(nil, w.nonce[:], w.box[:], w.binding())
	if err != nil {
		return nil, fmt.Errorf("unwrapping key %s: %w", w.id.text(), err)
	}
	return key, nil
}
