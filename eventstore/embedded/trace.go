package embedded

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/shiplog/shiplog/eventstore"
)

// A trace is what the scavenger leaves of an event, so that the hash chain still closes over the place where it stood:
//
//	version  1 byte
//	crc32c   4 bytes, over the rest, and the position
//	digest   32 bytes, the event's link of the hash chain
//	content  32 bytes, the digest of its content
//	head     stream id, revision, ticks: varints
//	body     of a stream's metadata: its content, which proves that other events were allowed to be removed; of others nothing
const (
	traceVersion = 1
	traceFixed   = digestEnd + len(eventstore.Digest{})
)

type trace struct {
	head
	digest, content eventstore.Digest
	body            []byte // as in an event's envelope; it points into the value
}

func (t *trace) value(position eventstore.Position) []byte {
	value := make([]byte, 0, traceFixed+3*binary.MaxVarintLen64+len(t.body))
	value = append(value, traceVersion, 0, 0, 0, 0)
	value = append(value, t.digest[:]...)
	value = append(value, t.content[:]...)
	for _, n := range [...]uint64{t.stream, t.revision, t.ticks} {
		value = binary.AppendUvarint(value, n)
	}
	value = append(value, t.body...)
	binary.LittleEndian.PutUint32(value[1:], traceCRC(value, position))
	return value
}

func traceCRC(value []byte, position eventstore.Position) uint32 {
	return crcWith(crc32.Checksum(nil, castagnoli), value[crcEnd:], position)
}

// openTrace takes a trace apart and checks it. Its errors are ErrCorrupt, and name the position.
func openTrace(value []byte, position eventstore.Position) (trace, error) {
	var t trace
	if len(value) > 0 && value[0] > traceVersion {
		return t, fmt.Errorf("%w: what is left of the event at position %d has version %d, this build reads up to %d: use a newer build",
			eventstore.ErrVersion, position, value[0], traceVersion)
	}
	if len(value) < traceFixed {
		return t, corruptEvent(position, errEnvelope)
	}
	if traceCRC(value, position) != binary.LittleEndian.Uint32(value[1:]) {
		return t, corruptEvent(position, errChecksum)
	}
	rest := value[crcEnd:]
	rest = rest[copy(t.digest[:], rest):]
	rest = rest[copy(t.content[:], rest):]
	var ok bool
	if t.body, ok = t.head.read(rest); !ok {
		return t, corruptEvent(position, errEnvelope)
	}
	return t, nil
}

// traceOf is the trace of an event. proof says to keep its content.
func traceOf(e *envelope, proof bool) trace {
	t := trace{head: e.head, digest: e.digest, content: e.content()}
	if proof {
		t.body = e.body
	}
	return t
}
