package torture

import (
	"math/rand/v2"
	"sync"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// Clients says what concurrent clients of a few streams ask for.
type Clients struct {
	Seed       uint64
	Clients    int
	Operations int // of each client
	Streams    []string
	// Exact leaves out what cannot be repeated exactly once: all writes but appends that expect a revision, or no stream.
	Exact bool
}

// Run has all clients ask at the same time, until they are through or, when it is not nil, stop is closed. do asks one client's
// log; the same client asks one thing after the other.
func (c Clients) Run(r *Recorder, stop <-chan struct{}, do func(client int, op Op) Result) {
	var all sync.WaitGroup
	for client := range c.Clients {
		random := rand.New(rand.NewPCG(c.Seed, uint64(client)))
		all.Go(func() {
			known := make(map[string]int64) // the last revision that this client has heard of
			for _, stream := range c.Streams {
				known[stream] = -1
			}
			var repeat *Op
			for range c.Operations {
				select {
				case <-stop:
					return
				default:
				}
				stream := c.Streams[random.IntN(len(c.Streams))]
				op := c.draw(random, stream, known[stream])
				if repeat != nil && random.IntN(2) == 0 {
					op, repeat = *repeat, nil // an open outcome is settled by the same append with the same ids
				}
				result := r.Record(client, op, func() Result { return do(client, op) })
				switch {
				case result.Outcome == Unknown && op.Kind == Append:
					repeat = &op
				case result.Outcome == Conflict && op.Kind == Append:
					known[op.Stream] = int64(result.Actual)
				case result.Outcome == Done && op.Kind == Append:
					known[op.Stream] = result.Revision
				case result.Outcome == Done && len(result.Events) > 0:
					known[op.Stream] = int64(result.Events[len(result.Events)-1].Revision)
				}
			}
		})
	}
	all.Wait()
}

func (c Clients) draw(random *rand.Rand, stream string, known int64) Op {
	op := Op{Kind: Append, Stream: stream, Expected: eventstore.Any, Bytes: random.IntN(200)}
	switch n := random.IntN(100); {
	case n < 30:
		op.Kind = Read
	case n < 40:
		op.Kind = ReadLast
	case n < 44:
		op.Kind = Metadata
	case c.Exact:
	case n < 48:
		op.Kind, op.Keep = SetMetadata, Retention{MaxCount: random.Uint64N(5)}
	case n < 51:
		op.Kind = Delete
	case n < 52 && random.IntN(8) == 0:
		op.Kind = Tombstone
	}
	if op.Kind != Append {
		return op
	}
	switch random.IntN(4) {
	case 0: // whatever there is
		if c.Exact {
			op.Expected = eventstore.Expected(known)
		}
	case 1:
		op.Expected = eventstore.NoStream
	default:
		op.Expected = eventstore.Expected(max(known, int64(eventstore.NoStream)))
	}
	for range 1 + random.IntN(3) {
		op.IDs = append(op.IDs, uuid.New())
	}
	return op
}
