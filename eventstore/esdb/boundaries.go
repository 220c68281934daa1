package esdb

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/shiplog/shiplog/eventstore"
)

// boundaries remembers where events were seen to stand. EventStoreDB's positions are places in a file, and it takes only
// those at which an event begins; a reader that goes on after an event asks for one more than its position.
type boundaries struct {
	mu   sync.Mutex
	seen *simplelru.LRU[eventstore.Position, struct{}]
}

// rememberedBoundaries is how many positions are remembered.
const rememberedBoundaries = 4096

func newBoundaries() (*boundaries, error) {
	seen, err := simplelru.NewLRU[eventstore.Position, struct{}](rememberedBoundaries, nil)
	return &boundaries{seen: seen}, err
}

func (b *boundaries) add(p eventstore.Position) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen.Add(p, struct{}{})
}

// before returns the position to read from so as to get what stands at p and after it: p, or that of the event that p was
// counted on from, which the reader has to leave out.
func (b *boundaries) before(p eventstore.Position) eventstore.Position {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.seen.Contains(p) && b.seen.Contains(p-1) {
		return p - 1
	}
	return p
}
