package due_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/internal/due"
)

type thing struct {
	due.Place
	name int
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

// A heap does what a map that is searched does.
func TestAHeapKeepsTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h due.Heap[*thing]
		things := make([]*thing, 12)
		for n := range things {
			things[n] = &thing{name: n}
		}
		model := map[*thing]int{}
		first := func() int {
			times := make([]int, 0, len(model))
			for _, seconds := range model {
				times = append(times, seconds)
			}
			return slices.Min(times)
		}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			x, seconds := rapid.SampledFrom(things).Draw(t, "thing"), rapid.IntRange(0, 20).Draw(t, "seconds")
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0, 1:
				h.Set(x, at(seconds))
				model[x] = seconds
				if !x.Due().Equal(at(seconds)) {
					t.Fatalf("due at %s, want %s", x.Due(), at(seconds))
				}
			case 2:
				h.Remove(x)
				delete(model, x)
			case 3:
				got, ok := h.Pop(at(seconds))
				if want := len(model) > 0 && first() <= seconds; ok != want {
					t.Fatalf("something is due at %d s: %v, want %v", seconds, ok, want)
				}
				if ok {
					if model[got] != first() {
						t.Fatalf("first comes what is due at %d s, want %d s", model[got], first())
					}
					delete(model, got)
				}
			}
			if next, ok := h.Next(); ok != (len(model) > 0) || ok && !next.Equal(at(first())) {
				t.Fatalf("next %s, %v, of %v", next, ok, model)
			}
			for _, x := range things {
				if _, in := model[x]; x.Waits() != in {
					t.Fatalf("thing %d waits: %v, want %v", x.name, x.Waits(), in)
				}
			}
		}
	})
}
