package embedded_test

import (
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/contract"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// history is what writers were told and readers saw.
type history struct {
	acknowledged []contract.Acknowledged
	seen         []eventstore.Recorded
}

func (h *history) check(t testing.TB, log *embedded.Log) []eventstore.Recorded {
	t.Helper()
	all := readAll(t, log)
	if err := contract.CheckDurable(all, h.acknowledged, h.seen); err != nil {
		t.Fatal(err)
	}
	return all
}

func readAll(t testing.TB, log eventstore.Log) []eventstore.Recorded {
	t.Helper()
	var all []eventstore.Recorded
	for e, err := range log.ReadAll(t.Context(), eventstore.ReadAll{Filter: eventstore.Filter{System: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func proposals(random *rand.Rand, n int) []eventstore.Proposed {
	out := make([]eventstore.Proposed, n)
	for i := range out {
		out[i] = eventstore.Proposed{ID: uuid.New(), Type: "Changed", Data: make([]byte, random.IntN(3000))}
		for j := range out[i].Data {
			out[i].Data[j] = byte(random.Uint32())
		}
	}
	return out
}
