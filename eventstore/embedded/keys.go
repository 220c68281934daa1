package embedded

import (
	"encoding/binary"
	"time"
)

// The first byte of a key says what stands there. Numbers in keys are big-endian, so that they sort; numbers in values are
// varints. README.md has the whole layout in one table.
const (
	eventKey     = 0x01 // position -> event (see envelope.go)
	indexKey     = 0x02 // stream id, revision -> position
	idKey        = 0x03 // stream name -> stream id
	nameKey      = 0x04 // stream id -> stream name
	timeKey      = 0x05 // ticks, position -> nothing: a sample of when positions were given
	retentionKey = 0x06 // stream id -> what of the stream is kept
	floorKey     = 0x07 // stream id -> last revision and its position, once the scavenger removed the stream's last event
	headKey      = 0x08 // -> position and ticks of the head; only a log of format 1 writes it
	traceKey     = 0x09 // position -> what the scavenger left of an event (see trace.go)
	untracedKey  = 0x0a // -> the position up to which events may be missing without a trace
	scavengedKey = 0x0b // -> the latest moment, in ticks, by which the scavenger has removed something
)

func keyOf(prefix byte, numbers ...uint64) []byte {
	key := make([]byte, 1, 1+8*len(numbers))
	key[0] = prefix
	for _, n := range numbers {
		key = binary.BigEndian.AppendUint64(key, n)
	}
	return key
}

func keyOfName(name string) []byte { return append([]byte{idKey}, name...) }

// numberIn returns the i-th number of a key.
func numberIn(key []byte, i int) uint64 { return binary.BigEndian.Uint64(key[1+8*i:]) }

// varints appends numbers to a value.
func varints(numbers ...uint64) []byte {
	value := make([]byte, 0, 10*len(numbers))
	for _, n := range numbers {
		value = binary.AppendUvarint(value, n)
	}
	return value
}

// readVarints fills numbers from a value and says whether they were all there.
func readVarints(value []byte, numbers ...*uint64) bool {
	for _, n := range numbers {
		v, size := binary.Uvarint(value)
		if size <= 0 {
			return false
		}
		*n, value = v, value[size:]
	}
	return true
}

// Dates are kept in ticks of 100 ns since 1970, as EventStoreDB's protocol has them.
const tick = 100 * time.Nanosecond

func ticksOf(t time.Time) uint64 {
	if t.Before(time.Unix(0, 0)) {
		return 0
	}
	return uint64(t.Unix())*uint64(time.Second/tick) + uint64(t.Nanosecond())/uint64(tick)
}

func timeOf(ticks uint64) time.Time {
	perSecond := uint64(time.Second / tick)
	return time.Unix(int64(ticks/perSecond), int64(ticks%perSecond)*int64(tick)).UTC()
}
