package controllers

import (
	"crypto/sha256"
	"encoding/binary"

	"k8s.io/apimachinery/pkg/types"
)

// The suffix of a generated name, as Kubernetes' generator makes them, without vowels and look-alikes.
const (
	suffixAlphabet = "bcdfghjklmnpqrstvwxz2456789"
	suffixLength   = 5
	maxPrefix      = 63 - suffixLength
)

// Names yields names of new objects of an owner, each different: "<prefix>" and five characters derived from the owner's uid,
// the position of its last event, and an ordinal. The same view gives the same names, so that a decision that is carried out
// twice, by two leaders or in a replay, creates nothing twice; and as the owner's position moves on, a name is not used again
// for a replacement. Names that taken knows are left out.
func Names(prefix string, uid types.UID, position uint64, taken func(name string) bool) func() string {
	if len(prefix) > maxPrefix {
		prefix = prefix[:maxPrefix]
	}
	given := map[string]bool{}
	ordinal := uint64(0)
	seed := make([]byte, 16, 16+len(uid))
	seed = append(seed, uid...)
	binary.BigEndian.PutUint64(seed, position)
	return func() string {
		for {
			binary.BigEndian.PutUint64(seed[8:], ordinal)
			ordinal++
			name := prefix + suffix(seed)
			if given[name] || taken(name) {
				continue
			}
			given[name] = true
			return name
		}
	}
}

func suffix(seed []byte) string {
	sum := sha256.Sum256(seed)
	n := binary.BigEndian.Uint64(sum[:])
	var b [suffixLength]byte
	for i := range b {
		b[i] = suffixAlphabet[n%uint64(len(suffixAlphabet))]
		n /= uint64(len(suffixAlphabet))
	}
	return string(b[:])
}
