package embedded

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// An event's value:
//
//	version  1 byte
//	crc32c   4 bytes, over body, digest and head, and the position under which the event is stored
//	digest   32 bytes, the event's link of the hash chain
//	head     stream id, revision, ticks: varints, known once the event is committed
//	body     what the content digest is over: id (16 bytes), then type, content type, metadata and data, each with its
//	         length in 8 bytes ahead of it
//
// The body comes ready-made, with its checksum and its digest, from the writer's goroutine; the committer adds the rest.
// Version 1, which a log of format 1 holds, has no digest, and its body is made of varints (see openBody1).
const (
	envelopeVersion = 2
	crcEnd          = 5
	digestEnd       = crcEnd + sha256.Size
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const jsonContent = "application/json"

type proposal struct {
	eventstore.Proposed
	body    []byte
	crc     uint32            // of body
	content eventstore.Digest // of body
}

func propose(p eventstore.Proposed) proposal {
	if p.ContentType == "" {
		p.ContentType = jsonContent
	}
	body := make([]byte, 0, len(p.ID)+len(p.Type)+len(p.ContentType)+len(p.Metadata)+len(p.Data)+4*8)
	body = append(body, p.ID[:]...)
	for _, field := range []string{p.Type, p.ContentType} {
		body = binary.BigEndian.AppendUint64(body, uint64(len(field)))
		body = append(body, field...)
	}
	body = binary.BigEndian.AppendUint64(body, uint64(len(p.Metadata)))
	metadataAt := len(body)
	body = append(body, p.Metadata...)
	metadataEnd := len(body)
	body = binary.BigEndian.AppendUint64(body, uint64(len(p.Data)))
	dataAt := len(body)
	body = append(body, p.Data...)
	// What readers of the tail get is our copy, never the writer's slices.
	p.Metadata, p.Data = body[metadataAt:metadataEnd:metadataEnd], body[dataAt:]
	return proposal{Proposed: p, body: body, crc: crc32.Checksum(body, castagnoli), content: sha256.Sum256(body)}
}

type head struct {
	stream, revision, ticks uint64
}

// appendEnvelope appends an event's value to dst.
func appendEnvelope(dst []byte, p *proposal, h head, digest eventstore.Digest, position eventstore.Position) []byte {
	start := len(dst)
	dst = append(dst, envelopeVersion, 0, 0, 0, 0)
	dst = append(dst, digest[:]...)
	dst = binary.AppendUvarint(dst, h.stream)
	dst = binary.AppendUvarint(dst, h.revision)
	dst = binary.AppendUvarint(dst, h.ticks)
	headEnd := len(dst)
	dst = binary.BigEndian.AppendUint64(dst, uint64(position)) // only for the checksum
	binary.LittleEndian.PutUint32(dst[start+1:], crc32.Update(p.crc, castagnoli, dst[start+crcEnd:]))
	return append(dst[:headEnd], p.body...)
}

// crcWith is the checksum of an event whose body has one already.
func crcWith(body uint32, head []byte, position eventstore.Position) uint32 {
	crc := ^crc32.Update(body, castagnoli, head)
	for shift := 56; shift >= 0; shift -= 8 { // the position's bytes, without an array for them on the heap
		crc = castagnoli[byte(crc)^byte(position>>shift)] ^ crc>>8
	}
	return ^crc
}

var (
	errEnvelope = errors.New("its envelope does not parse")
	errChecksum = errors.New("its checksum does not match")
)

// envelope is an event's value taken apart; its slices point into the value.
type envelope struct {
	head
	version           byte
	digest            eventstore.Digest // zero in version 1
	id                uuid.UUID
	typ, contentType  []byte
	metadata, payload []byte
	body              []byte
}

// content is the digest of the event's content.
func (e *envelope) content() eventstore.Digest {
	if e.version == envelopeVersion {
		return sha256.Sum256(e.body)
	}
	p := e.proposed()
	return p.ContentDigest()
}

// proposed is what the event's writer gave. It shares the value's memory.
func (e *envelope) proposed() eventstore.Proposed {
	return eventstore.Proposed{ID: e.id, Type: string(e.typ), ContentType: e.contentTypeString(), Metadata: e.metadata, Data: e.payload}
}

func (e *envelope) contentTypeString() string {
	if len(e.contentType) == 0 || string(e.contentType) == jsonContent {
		return jsonContent // shared by nearly all events
	}
	return string(e.contentType)
}

// openEnvelope takes an event's value apart and checks it. Its errors are ErrCorrupt, or ErrVersion, and name the position.
func openEnvelope(value []byte, position eventstore.Position) (envelope, error) {
	var e envelope
	if len(value) < crcEnd {
		return e, corruptEvent(position, errEnvelope)
	}
	rest := value[crcEnd:]
	switch e.version = value[0]; {
	case e.version > envelopeVersion:
		return e, fmt.Errorf("%w: the event at position %d has envelope version %d, this build reads up to %d: use a newer build",
			eventstore.ErrVersion, position, e.version, envelopeVersion)
	case e.version < envelopeVersion:
	case len(value) < digestEnd:
		return e, corruptEvent(position, errEnvelope)
	default:
		rest = rest[copy(e.digest[:], rest):]
	}
	var ok bool
	if rest, ok = e.head.read(rest); !ok {
		return e, corruptEvent(position, errEnvelope)
	}
	crc := crcWith(crc32.Checksum(rest, castagnoli), value[crcEnd:len(value)-len(rest)], position)
	if crc != binary.LittleEndian.Uint32(value[1:]) {
		return e, corruptEvent(position, errChecksum)
	}
	open := e.openBody
	if e.version < envelopeVersion {
		open = e.openBody1
	}
	if !open(rest) {
		return e, corruptEvent(position, errEnvelope)
	}
	return e, nil
}

// read takes the head off a value, and returns the rest.
func (h *head) read(value []byte) (rest []byte, ok bool) {
	for _, n := range [...]*uint64{&h.stream, &h.revision, &h.ticks} {
		v, size := binary.Uvarint(value)
		if size <= 0 {
			return nil, false
		}
		*n, value = v, value[size:]
	}
	return value, true
}

// openBody takes the body apart.
func (e *envelope) openBody(body []byte) bool {
	if len(body) < len(e.id) {
		return false
	}
	e.body = body
	rest := body[copy(e.id[:], body):]
	for _, field := range [...]*[]byte{&e.typ, &e.contentType, &e.metadata, &e.payload} {
		if len(rest) < 8 {
			return false
		}
		n := binary.BigEndian.Uint64(rest)
		if rest = rest[8:]; n > uint64(len(rest)) {
			return false
		}
		*field, rest = rest[:n:n], rest[n:]
	}
	return len(rest) == 0
}

// openBody1 takes the body of an envelope of version 1 apart: id (16 bytes), type, content type (empty for JSON) and
// metadata, each with its length as a varint, and data.
func (e *envelope) openBody1(body []byte) bool {
	if len(body) < len(e.id) {
		return false
	}
	e.body = body
	rest := body[copy(e.id[:], body):]
	for _, field := range [...]*[]byte{&e.typ, &e.contentType, &e.metadata} {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size) {
			return false
		}
		rest = rest[size:]
		*field, rest = rest[:n:n], rest[n:]
	}
	e.payload = rest
	return true
}

// recorded makes an event that does not depend on the value.
func (e *envelope) recorded(stream, typ string, position eventstore.Position) eventstore.Recorded {
	r, _ := e.appendTo(make([]byte, 0, len(e.metadata)+len(e.payload)), stream, typ, position)
	return r
}

// appendTo makes an event whose metadata and data are appended to memory.
func (e *envelope) appendTo(memory []byte, stream, typ string, position eventstore.Position) (eventstore.Recorded, []byte) {
	start := len(memory)
	memory = append(append(memory, e.metadata...), e.payload...)
	split, end := start+len(e.metadata), len(memory)
	return eventstore.Recorded{
		Proposed: eventstore.Proposed{
			ID: e.id, Type: typ, ContentType: e.contentTypeString(), Metadata: memory[start:split:split], Data: memory[split:end:end],
		},
		Stream: stream, Revision: e.revision, Position: position, Created: timeOf(e.ticks),
	}, memory
}

func corruptEvent(position eventstore.Position, cause error) error {
	return fmt.Errorf("%w: the event at position %d: %w; restore the directory from a backup", eventstore.ErrCorrupt, position, cause)
}
