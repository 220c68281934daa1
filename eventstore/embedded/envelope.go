package embedded

import (
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
//	crc32c   4 bytes, over body, head and the position under which the event is stored
//	head     stream id, revision, ticks: varints, known once the event is committed
//	body     id (16 bytes), type, content type, metadata (each with its length), data (the rest)
//
// The body comes ready-made, with its checksum, from the writer's goroutine; the committer only adds the head.
const (
	envelopeVersion = 1
	crcEnd          = 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const jsonContent = "application/json"

type proposal struct {
	eventstore.Proposed
	body []byte
	crc  uint32 // of body
}

func propose(p eventstore.Proposed) proposal {
	if p.ContentType == "" {
		p.ContentType = jsonContent
	}
	contentType := p.ContentType
	if contentType == jsonContent {
		contentType = "" // the common case costs one byte
	}
	body := make([]byte, 0, len(p.ID)+len(p.Type)+len(contentType)+len(p.Metadata)+len(p.Data)+4*binary.MaxVarintLen32)
	body = append(body, p.ID[:]...)
	for _, field := range []string{p.Type, contentType} {
		body = binary.AppendUvarint(body, uint64(len(field)))
		body = append(body, field...)
	}
	body = binary.AppendUvarint(body, uint64(len(p.Metadata)))
	metadataAt := len(body)
	body = append(body, p.Metadata...)
	dataAt := len(body)
	body = append(body, p.Data...)
	// What readers of the tail get is our copy, never the writer's slices.
	p.Metadata, p.Data = body[metadataAt:dataAt:dataAt], body[dataAt:]
	return proposal{Proposed: p, body: body, crc: crc32.Checksum(body, castagnoli)}
}

type head struct {
	stream, revision, ticks uint64
}

// appendEnvelope appends an event's value to dst.
func appendEnvelope(dst []byte, p *proposal, h head, position eventstore.Position) []byte {
	start := len(dst)
	dst = append(dst, envelopeVersion, 0, 0, 0, 0)
	dst = binary.AppendUvarint(dst, h.stream)
	dst = binary.AppendUvarint(dst, h.revision)
	dst = binary.AppendUvarint(dst, h.ticks)
	crc := crcWith(p.crc, dst[start+crcEnd:], position)
	binary.LittleEndian.PutUint32(dst[start+1:], crc)
	return append(dst, p.body...)
}

func crcWith(body uint32, head []byte, position eventstore.Position) uint32 {
	var at [8]byte
	binary.BigEndian.PutUint64(at[:], uint64(position))
	return crc32.Update(crc32.Update(body, castagnoli, head), castagnoli, at[:])
}

var errEnvelope = errors.New("its envelope does not parse")

// envelope is an event's value taken apart; its slices point into the value.
type envelope struct {
	head
	id                 uuid.UUID
	typ, contentType   []byte
	metadataAt, dataAt int // offsets in the value
}

// openEnvelope takes an event's value apart and checks it. Its errors are ErrCorrupt, or ErrVersion, and name the position.
func openEnvelope(value []byte, position eventstore.Position) (envelope, error) {
	var e envelope
	if len(value) < crcEnd {
		return e, corruptEvent(position, errEnvelope)
	}
	if value[0] != envelopeVersion {
		return e, fmt.Errorf("%w: the event at position %d has envelope version %d, this build reads up to %d: use a newer build",
			eventstore.ErrVersion, position, value[0], envelopeVersion)
	}
	rest := value[crcEnd:]
	for _, n := range []*uint64{&e.stream, &e.revision, &e.ticks} {
		v, size := binary.Uvarint(rest)
		if size <= 0 {
			return e, corruptEvent(position, errEnvelope)
		}
		*n, rest = v, rest[size:]
	}
	headEnd := len(value) - len(rest)
	crc := crcWith(crc32.Checksum(rest, castagnoli), value[crcEnd:headEnd], position)
	if crc != binary.LittleEndian.Uint32(value[1:]) {
		return e, corruptEvent(position, errors.New("its checksum does not match"))
	}
	if len(rest) < len(e.id) {
		return e, corruptEvent(position, errEnvelope)
	}
	rest = rest[copy(e.id[:], rest):]
	var metadata []byte
	for _, field := range []*[]byte{&e.typ, &e.contentType, &metadata} {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size) {
			return e, corruptEvent(position, errEnvelope)
		}
		rest = rest[size:]
		*field, rest = rest[:n], rest[n:]
	}
	e.dataAt = len(value) - len(rest)
	e.metadataAt = e.dataAt - len(metadata)
	return e, nil
}

func corruptEvent(position eventstore.Position, cause error) error {
	return fmt.Errorf("%w: the event at position %d: %w; restore the directory from a backup", eventstore.ErrCorrupt, position, cause)
}
