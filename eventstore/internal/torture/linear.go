package torture

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Recorder writes down what concurrent clients of a log asked for and were told. It is safe for use by any number of goroutines.
type Recorder struct {
	mu         sync.Mutex
	began      time.Time
	operations []porcupine.Operation
	open       []int // those of an unknown outcome that may still happen
}

// NewRecorder starts with an empty history.
func NewRecorder() *Recorder { return &Recorder{began: time.Now()} }

// Record calls do, which asks for op, and writes down when and with what result. A read that failed says nothing and is left out.
func (r *Recorder) Record(client int, op Op, do func() Result) Result {
	call := time.Since(r.began)
	result := do()
	end := time.Since(r.began)
	if result.Outcome == Unknown && !op.Kind.Writes() {
		return result
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	o := porcupine.Operation{ClientId: client, Input: op, Call: int64(call), Output: result, Return: int64(end)}
	if result.Outcome == Unknown {
		o.Return = math.MaxInt64
		r.open = append(r.open, len(r.operations))
	}
	r.operations = append(r.operations, o)
	return result
}

// Settle says that what has not happened by now never will: the process that was asked is gone.
func (r *Recorder) Settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Since(r.began)
	for _, i := range r.open {
		r.operations[i].Return = int64(now)
	}
	r.open = nil
}

// Len is how many operations are in the history.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.operations)
}

// Check says whether the history is linearizable: whether there is one order of all operations, in which those that followed each
// other in time do so, that explains every answer. An operation of unknown outcome may have happened at any time before it was
// settled, or never.
func (r *Recorder) Check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	model := linearModel()
	byStream := make(map[string][]porcupine.Operation)
	for _, o := range r.operations {
		stream := o.Input.(Op).Stream
		byStream[stream] = append(byStream[stream], o)
	}
	for stream, history := range byStream {
		// The time that is given up after only bounds a history that is wrong in a way that is hard to prove.
		if got := porcupine.CheckOperationsTimeout(model, history, 2*time.Minute); got != porcupine.Ok {
			return fmt.Errorf("the history of %s is not linearizable (%s): %s", stream, got, stuck(model, history))
		}
	}
	return nil
}

func linearModel() porcupine.Model {
	seed := maphash.MakeSeed()
	nondeterministic := porcupine.NondeterministicModel{
		Init: func() []any { return []any{NewStream()} },
		Step: func(state, input, output any) []any {
			s, op, r := state.(Stream), input.(Op), output.(Result)
			if r.Outcome == Unknown {
				next, _ := s.Write(op)
				return []any{next, s}
			}
			if s.Allows(op, r) != nil {
				return nil
			}
			if op.Kind.Writes() {
				s, _ = s.Write(op)
			}
			return []any{s}
		},
		Equal: func(a, b any) bool {
			x, y := a.(Stream), b.(Stream)
			return x.Last == y.Last && x.Meta == y.Meta && x.Keep == y.Keep && slices.Equal(x.Events, y.Events)
		},
		Hash: func(state any) uint64 {
			s := state.(Stream)
			var h maphash.Hash
			h.SetSeed(seed)
			maphash.WriteComparable(&h, [2]int64{s.Last, s.Meta})
			maphash.WriteComparable(&h, s.Keep)
			for i := range s.Events {
				maphash.WriteComparable(&h, s.Events[i])
			}
			return h.Sum64()
		},
	}
	return nondeterministic.ToModel()
}

// stuck tells how far a history can be explained: the longest explanation's last operations, and those that cannot follow.
func stuck(model porcupine.Model, history []porcupine.Operation) string {
	_, info := porcupine.CheckOperationsVerbose(model, history, 2*time.Minute)
	var longest []porcupine.Operation
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, partial := range partition {
			if len(partial) > len(longest) {
				longest = partial
			}
		}
	}
	states := model.Init().([]any)
	explained := make(map[int64]bool, len(longest))
	for _, o := range longest {
		_, next := model.Step(states, o.Input, o.Output)
		states = next.([]any)
		explained[o.Call] = true
	}
	var rest []porcupine.Operation
	for _, o := range history {
		if !explained[o.Call] {
			rest = append(rest, o)
		}
	}
	slices.SortFunc(rest, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	out := fmt.Sprintf("%d of %d operations are explained, the last of them\n%s", len(longest), len(history), text(longest[max(0, len(longest)-12):]))
	for _, s := range states {
		out += fmt.Sprintf("which leave %+v;\n", s)
	}
	return out + "these cannot follow\n" + text(rest[:min(len(rest), 12)])
}

// text tells a history, an operation a line.
func text(history []porcupine.Operation) string {
	var out strings.Builder
	for _, o := range history {
		fmt.Fprintf(&out, "  %12s to %12s  client %d: %s -> %s\n", time.Duration(o.Call), time.Duration(o.Return), o.ClientId, o.Input, o.Output)
	}
	return out.String()
}
