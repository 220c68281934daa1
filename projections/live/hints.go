package live

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
)

// The bounds of what is remembered of events that are about to be appended: between a decision and its event there is one
// append, so that even these are generous.
const (
	maxHints = 4096
	hintLife = time.Minute
)

// hints are the typed objects lent by Expect. An event that never comes leaves its hint behind: the oldest go when there are too
// many, or when they are too old.
type hints struct {
	mu    sync.Mutex
	byID  map[string]hint
	order []lent // oldest first; may name hints that were taken
}

type hint struct {
	typed runtime.Object
	turn  uint64 // tells the hints of one event apart, when it is expected again
}

type lent struct {
	id   string
	turn uint64
	at   time.Time
}

func (h *hints) put(id string, typed runtime.Object, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byID == nil {
		h.byID = map[string]hint{}
	}
	turn := h.byID[id].turn + 1
	h.byID[id] = hint{typed, turn}
	h.order = append(h.order, lent{id, turn, now})
	drop := 0
	for drop < len(h.order) && (len(h.order)-drop > maxHints || now.Sub(h.order[drop].at) > hintLife) {
		if l := h.order[drop]; h.byID[l.id].turn == l.turn {
			delete(h.byID, l.id)
		}
		drop++
	}
	if drop > 0 {
		h.order = append(h.order[:0], h.order[drop:]...)
	}
}

func (h *hints) take(id string) runtime.Object {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.byID[id]
	if !ok {
		return nil
	}
	delete(h.byID, id)
	if len(h.byID) == 0 {
		h.order = h.order[:0]
	}
	return t.typed
}
