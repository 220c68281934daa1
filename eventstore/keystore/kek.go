package keystore

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"

	"github.com/shiplog/shiplog/domain"
)

// The file of the key-encryption key has two lines of fixed length, "<generation> <key> <checksum>" in hexadecimal, so that each is
// overwritten in place. A line of zeros is free. During a rotation both lines hold a key: the greater generation wraps what is new,
// the lesser still unwraps.
const (
	kekSize  = 32
	lineSize = 8 + 1 + 2*kekSize + 1 + 8 + 1
)

// kek is a key-encryption key.
type kek struct {
	id         kekID
	generation uint32
	key        []byte
	aead       cipher.AEAD
	line       int // of the file
}

func newKEK(generation uint32, key []byte, line int) (kek, error) {
	aead, err := aeadOf(key)
	if err != nil {
		return kek{}, fmt.Errorf("the key-encryption key: %w", err)
	}
	k := kek{generation: generation, key: key, aead: aead, line: line}
	digest := sha256.Sum256(append([]byte("shiplog kek id "), key...))
	copy(k.id[:], digest[:])
	return k, nil
}

func (k kek) encode() []byte {
	text := fmt.Appendf(nil, "%08x %x", k.generation, k.key)
	return fmt.Appendf(text, " %08x\n", castagnoli(text))
}

func freeLine() []byte {
	line := bytes.Repeat([]byte{'0'}, lineSize)
	line[8], line[lineSize-10], line[lineSize-1] = ' ', ' ', '\n'
	return line
}

// decodeKEKs returns the keys of the file, the current one first. A line that was cut off by a crash counts as free: nothing has
// been wrapped by it before it was whole.
func decodeKEKs(data []byte) ([]kek, error) {
	var keks []kek
	for i := range 2 {
		if len(data) < (i+1)*lineSize {
			break
		}
		line := data[i*lineSize : (i+1)*lineSize]
		if bytes.Equal(line, freeLine()) {
			continue
		}
		text, check := line[:lineSize-10], line[lineSize-9:lineSize-1]
		generation, err1 := strconv.ParseUint(string(line[:8]), 16, 32)
		key, err2 := hex.DecodeString(string(line[9 : 9+2*kekSize]))
		if err1 != nil || err2 != nil || string(check) != fmt.Sprintf("%08x", castagnoli(text)) {
			continue
		}
		k, err := newKEK(uint32(generation), key, i)
		if err != nil {
			return nil, err
		}
		keks = append(keks, k)
	}
	slices.SortFunc(keks, func(a, b kek) int { return int(b.generation) - int(a.generation) })
	if len(keks) == 0 {
		return nil, fmt.Errorf("%w: the file holds none", ErrNoKEK)
	}
	return keks, nil
}

// openKEKs reads the file, and makes it when it may.
func openKEKs(fsys files, path string, create, readOnly bool) (file, []kek, error) {
	f, err := fsys.open(path, readOnly)
	if errors.Is(err, fs.ErrNotExist) && create {
		return createKEK(fsys, path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: %s is not there; without it the keys cannot be unwrapped: put it back, or name it with --kek-file", ErrNoKEK, path)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("opening the key-encryption key: %w", err)
	}
	data, err := f.readAll()
	if err == nil && create && len(bytes.Trim(data, "\x00")) == 0 { // cut off before it was whole: nothing has been wrapped by it
		if err = f.Close(); err == nil {
			return createKEK(fsys, path)
		}
	}
	var keks []kek
	if err == nil {
		keks, err = decodeKEKs(data)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("reading %s: %w", path, err), f.Close())
	}
	return f, keks, nil
}

func createKEK(fsys files, path string) (file, []kek, error) {
	k, err := randomKEK(1, 0)
	if err != nil {
		return nil, nil, err
	}
	f, err := fsys.create(path)
	if err != nil {
		return nil, nil, fmt.Errorf("making the key-encryption key: %w", err)
	}
	_, err = f.WriteAt(append(k.encode(), freeLine()...), 0)
	if err == nil {
		err = f.sync()
	}
	if err == nil {
		err = fsys.syncDir(path)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("making the key-encryption key: %w", err), f.Close())
	}
	return f, []kek{k}, nil
}

func freshNonce() (nonce [domain.NonceSize]byte, err error) {
	if _, err = rand.Read(nonce[:]); err != nil {
		err = fmt.Errorf("making a nonce: %w", err)
	}
	return nonce, err
}

func randomKEK(generation uint32, line int) (kek, error) {
	key := make([]byte, kekSize)
	if _, err := rand.Read(key); err != nil {
		return kek{}, fmt.Errorf("making a key-encryption key: %w", err)
	}
	return newKEK(generation, key, line)
}
