package eventstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"iter"
	"time"
)

// Digest is a link of a log's hash chain, or the SHA-256 of an event's content. The zero Digest stands before the first event.
type Digest [sha256.Size]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText writes the digest in hexadecimal.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText reads what MarshalText wrote.
func (d *Digest) UnmarshalText(text []byte) error {
	if n, err := hex.Decode(d[:], text); err != nil || n != len(d) || len(text) != hex.EncodedLen(len(d)) {
		return fmt.Errorf("%.80q is no digest: 64 hexadecimal digits are", text)
	}
	return nil
}

// ContentDigest is the digest of what the writer of an event gave: its id, type, content type, metadata and data. An empty content
// type counts as "application/json", which is what the log records for it.
func (p *Proposed) ContentDigest() Digest {
	h := sha256.New()
	h.Write(p.ID[:])
	contentType := p.ContentType
	if contentType == "" {
		contentType = "application/json"
	}
	hashField(h, p.Type)
	hashField(h, contentType)
	hashField(h, p.Metadata)
	hashField(h, p.Data)
	return Digest(h.Sum(nil))
}

// hashField hashes a field with its length ahead of it, so that no two lists of fields hash the same bytes.
func hashField[T string | []byte](h hash.Hash, field T) {
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(len(field)))
	h.Write(size[:])
	switch field := any(field).(type) {
	case string:
		_, _ = io.WriteString(h, field) // a hash never fails
	case []byte:
		h.Write(field)
	}
}

// Entry is what stands at a position of a log: an event, or what the scavenger left of one.
type Entry struct {
	// Recorded is the event. Of a scavenged one only Stream, Revision, Position and Created are left, and of a stream's metadata its content:
	// it proves that the stream's retention allowed to scavenge what was scavenged.
	Recorded
	Scavenged bool
	Content   Digest // of the event's content; it outlives the content
	Digest    Digest // of the entry and everything ahead of it: Link of the digest of the entry ahead and this entry
}

// Link is the digest of an entry that follows one with the given digest. It covers the entry's place (stream, revision, position),
// its date in ticks of 100 ns, and its content.
func Link(previous Digest, e *Entry) Digest {
	const ticksPerSecond = uint64(time.Second / (100 * time.Nanosecond))
	ticks := uint64(e.Created.Unix())*ticksPerSecond + uint64(e.Created.Nanosecond())/100
	var room [256]byte // enough for nearly every stream's name, and never on the heap
	buf := append(room[:0], previous[:]...)
	buf = append(buf, e.Content[:]...)
	for _, n := range [...]uint64{uint64(e.Position), e.Revision, ticks, uint64(len(e.Stream))} {
		buf = binary.BigEndian.AppendUint64(buf, n)
	}
	return sha256.Sum256(append(buf, e.Stream...))
}

// Chained is implemented by logs that keep a hash chain over their events.
type Chained interface {
	Log
	// Entries yields what stands at the positions from "from" to "to", both inclusive, in order: events, system events and expired
	// ones that are still on disk among them, and what the scavenger left of others. A "to" beyond the head reads up to the head as it
	// is when the read begins. It does not check the chain.
	Entries(ctx context.Context, from, to Position) iter.Seq2[Entry, error]
	// DigestAt returns the digest of the last entry at or before a position; the zero Digest when there is none.
	DigestAt(ctx context.Context, position Position) (Digest, error)
	// Import appends entries as they stand in another log, with their positions, revisions and dates, all or none, durably. Each must
	// come after the log's head and continue its stream. The digest of each is checked when it is set (it must be the Link from this
	// log's chain) and made when it is zero. Metadata and tombstones among them take effect as they did in the other log.
	Import(ctx context.Context, entries ...Entry) error
}
