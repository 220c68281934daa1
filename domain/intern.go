package domain

import (
	"hash/maphash"
	"sync/atomic"
)

// What objects call their members is the same words again and again. They are kept once for all drafts: that saves memory and, more
// than that, the words of an object that has not been looked at for long are at hand all the same.
const (
	keptKeys  = 4096 // more words than the built-in kinds have; of those that meet in one place the first stays
	keyLength = 64   // longer ones are not kept
)

var (
	keySeed = maphash.MakeSeed()
	keys    [keptKeys]atomic.Pointer[string]
)

// internKey returns a key as a string, for equal keys mostly the same one.
func internKey(key []byte) *string {
	if len(key) > keyLength {
		s := string(key)
		return &s
	}
	place := &keys[maphash.Bytes(keySeed, key)%keptKeys]
	kept := place.Load()
	if kept != nil && *kept == string(key) {
		return kept
	}
	s := string(key)
	if kept == nil {
		place.CompareAndSwap(nil, &s)
	}
	return &s
}
