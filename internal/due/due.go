// Package due keeps things in the order in which they are due: what a queue tries again, what expires, what a simulation does next.
package due

import (
	"container/heap"
	"time"
)

// Place is where a thing stands in its heap, of which it can be in one at a time. A thing embeds it. The zero value stands in none.
type Place struct {
	at time.Time
	n  int // from 1 on; 0: in no heap
}

// Due is when the thing is due, or was when it last stood in a heap.
func (p *Place) Due() time.Time { return p.at }

// Waits says whether the thing stands in a heap.
func (p *Place) Waits() bool { return p.n > 0 }

func (p *Place) place() *Place { return p }

// Thing is a pointer to a struct that embeds Place.
type Thing interface {
	comparable
	place() *Place
}

// Heap holds things by the time at which they are due. The zero value is empty. It is for one goroutine at a time.
type Heap[T Thing] struct{ things things[T] }

// Len is how many things wait.
func (h *Heap[T]) Len() int { return len(h.things) }

// Set puts a thing in, or moves it, to a time.
func (h *Heap[T]) Set(t T, at time.Time) {
	p := t.place()
	p.at = at
	if p.n > 0 {
		heap.Fix(&h.things, p.n-1)
		return
	}
	heap.Push(&h.things, t)
}

// Remove takes a thing out, if it is in.
func (h *Heap[T]) Remove(t T) {
	if p := t.place(); p.n > 0 {
		heap.Remove(&h.things, p.n-1)
	}
}

// Next is when the first thing is due; ok is false when there is none.
func (h *Heap[T]) Next() (at time.Time, ok bool) {
	if h.Len() == 0 {
		return time.Time{}, false
	}
	return h.things[0].place().at, true
}

// Pop takes out the first thing, if it is due by now.
func (h *Heap[T]) Pop(now time.Time) (t T, ok bool) {
	if at, any := h.Next(); !any || at.After(now) {
		return t, false
	}
	return heap.Pop(&h.things).(T), true
}

// things implements heap.Interface.
type things[T Thing] []T

func (h things[T]) Len() int           { return len(h) }
func (h things[T]) Less(i, j int) bool { return h[i].place().at.Before(h[j].place().at) }
func (h things[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place().n, h[j].place().n = i+1, j+1
}

func (h *things[T]) Push(x any) {
	t := x.(T)
	*h = append(*h, t)
	t.place().n = len(*h)
}

func (h *things[T]) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	var none T
	(*h)[last] = none // so that it can be collected
	*h = (*h)[:last]
	t.place().n = 0
	return t
}
