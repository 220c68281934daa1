package backup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// Of an entry stand in a chunk, numbers as varints and texts with their length ahead of them:
//
//	flags (1: scavenged, 2: its content follows), position as the difference to the one ahead, revision, date in ticks of 100 ns
//	since 1970, stream
//	with content: id (16 bytes), type, content type, metadata, data
//	without: the digest of the content (32 bytes)
//
// Scavenged entries with content are such as prove why others were scavenged. A chunk is its entries and, in its last 32 bytes, the
// digest of the last of them; those of the others follow from their contents.
const (
	flagScavenged = 1
	flagContent   = 2
)

const (
	tick           = 100 * time.Nanosecond
	ticksPerSecond = int64(time.Second / tick)
)

func ticksOf(t time.Time) int64 { return t.Unix()*ticksPerSecond + int64(t.Nanosecond())/int64(tick) }

func timeOf(ticks int64) time.Time {
	return time.Unix(ticks/ticksPerSecond, ticks%ticksPerSecond*int64(tick)).UTC()
}

func appendEntry(dst []byte, previous eventstore.Position, e *eventstore.Entry) []byte {
	flags := byte(0)
	if e.Scavenged {
		flags |= flagScavenged
	}
	if hasContent(e) {
		flags |= flagContent
	}
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, uint64(e.Position-previous))
	dst = binary.AppendUvarint(dst, e.Revision)
	dst = binary.AppendVarint(dst, ticksOf(e.Created))
	dst = appendText(dst, e.Stream)
	if !hasContent(e) {
		return append(dst, e.Content[:]...)
	}
	dst = append(dst, e.ID[:]...)
	dst = appendText(dst, e.Type)
	dst = appendText(dst, e.ContentType)
	dst = appendText(dst, e.Metadata)
	return appendText(dst, e.Data)
}

func hasContent(e *eventstore.Entry) bool { return !e.Scavenged || e.Type != "" }

func appendText[T string | []byte](dst []byte, text T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
}

var errEntry = errors.New("an entry does not parse")

// entryReader takes a chunk apart. What it returns points into the chunk.
type entryReader struct {
	rest []byte
	bad  bool
	text map[string]string // so that equal names share their memory
}

func (r *entryReader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.bad = true
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *entryReader) signed() int64 {
	n, size := binary.Varint(r.rest)
	if size <= 0 {
		r.bad = true
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *entryReader) bytes(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	out := r.rest[:n:n]
	r.rest = r.rest[n:]
	return out
}

func (r *entryReader) name() string {
	raw := r.bytes(r.number())
	if s, ok := r.text[string(raw)]; ok {
		return s
	}
	s := string(raw)
	if len(r.text) < 4096 {
		r.text[s] = s
	}
	return s
}

// entry reads the next entry, and links it to the one with the given position and digest.
func (r *entryReader) entry(previous Mark) (e eventstore.Entry, err error) {
	flags := r.bytes(1)
	ahead := r.number()
	e.Revision = r.number()
	e.Created = timeOf(r.signed())
	e.Stream = r.name()
	if r.bad || flags[0] == 0 || flags[0] > flagScavenged|flagContent {
		return e, errEntry
	}
	e.Scavenged = flags[0]&flagScavenged != 0
	content := flags[0]&flagContent != 0
	if !content {
		copy(e.Content[:], r.bytes(uint64(len(e.Content))))
	} else {
		copy(e.ID[:], r.bytes(uint64(len(e.ID))))
		e.Type, e.ContentType = r.name(), r.name()
		e.Metadata = r.bytes(r.number())
		e.Data = r.bytes(r.number())
	}
	e.Position = previous.Position + eventstore.Position(ahead)
	if r.bad {
		return e, errEntry
	}
	if e.Position <= previous.Position {
		return e, fmt.Errorf("position %d follows %d", e.Position, previous.Position)
	}
	if content {
		e.Content = e.ContentDigest()
	}
	e.Digest = eventstore.Link(previous.Digest, &e)
	return e, nil
}
