package persistent

import (
	"encoding/json"
	"hash/fnv"
)

// picker decides which consumer gets an event.
type picker interface {
	// pick returns the consumer for a message, nil when that one has no room. full says that none has.
	pick(consumers []*consumer, m *message) (c *consumer, full bool)
}

func newPicker(strategy string) picker {
	switch strategy {
	case DispatchToSingle:
		return &inTurn{stay: true}
	case Pinned:
		return pinned{key: func(m *message) string { return m.event.Stream }}
	case PinnedByCorrelation:
		return pinned{key: correlation}
	default:
		return &inTurn{}
	}
}

// inTurn takes the next consumer that has room, or stays with one as long as it has.
type inTurn struct {
	stay bool
	next int
}

func (t *inTurn) pick(consumers []*consumer, _ *message) (*consumer, bool) {
	for i := range consumers {
		at := (t.next + i) % len(consumers)
		if c := consumers[at]; c.free() > 0 {
			if t.next = at; !t.stay {
				t.next = at + 1
			}
			return c, false
		}
	}
	return nil, true
}

// pinned takes the same consumer for the same key, and moves as few keys as can be when consumers come and go: each key goes to
// the consumer that has the highest hash together with it.
type pinned struct{ key func(*message) string }

func (p pinned) pick(consumers []*consumer, m *message) (*consumer, bool) {
	var best *consumer
	var highest uint64
	key, full := p.key(m), true
	for _, c := range consumers {
		full = full && c.free() <= 0
		if h := hash(key, c.serial); best == nil || h > highest {
			best, highest = c, h
		}
	}
	if full || best.free() <= 0 {
		return nil, full
	}
	return best, false
}

func hash(key string, serial uint64) uint64 {
	h := fnv.New64a()
	h.Write([]byte(key))
	var b [8]byte
	for i := range b {
		b[i] = byte(serial >> (8 * i))
	}
	h.Write(b[:])
	// FNV's last bytes change little of the high bits: mix them.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}

// correlation returns the $correlationId of an event, or its stream if it has none.
func correlation(m *message) string {
	var about struct {
		ID string `json:"$correlationId"`
	}
	if json.Unmarshal(m.event.Metadata, &about) == nil && about.ID != "" {
		return about.ID
	}
	return m.event.Stream
}
