package live

import (
	"sort"
	"sync"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// ring holds the most recent changes for all followers together. It is bounded by count and by bytes; what it drops it
// remembers by position alone, for each resource, so that the follower of a quiet resource is never told that it missed
// something when it did not.
type ring struct {
	maxCount int
	maxBytes int

	mu          sync.RWMutex
	entries     []held // circular; its length is a power of two and grows up to maxCount
	first, next uint64 // sequence numbers of the oldest change held, and of the one to come
	bytes       int
	floor       uint64 // changes at or before this position were never here
	lost        uint64 // position of the newest change that was dropped
	position    uint64 // up to which everything has been added
	tracks      map[domain.Resource]*track
	everything  map[*follower]struct{} // the followers of all resources
	followers   map[*follower]struct{}
	closed      bool
}

type held struct {
	change projections.Change
	bytes  int
}

// track lists the changes of one resource and who waits for them.
type track struct {
	seqs    queue
	lost    uint64 // position of the newest change of the resource that was dropped
	waiting map[*follower]struct{}
}

func newRing(maxCount, maxBytes int) *ring {
	return &ring{
		maxCount: maxCount, maxBytes: maxBytes, tracks: map[domain.Resource]*track{},
		everything: map[*follower]struct{}{}, followers: map[*follower]struct{}{},
	}
}

// reset forgets everything: the ring goes on after a position.
func (r *ring) reset(position uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.entries)
	r.first, r.bytes = r.next, 0
	r.floor, r.lost, r.position = position, position, position
	for _, t := range r.tracks {
		t.seqs, t.lost = queue{}, position
	}
}

// add appends the changes of a batch, moves the position on and wakes those whom the changes concern.
func (r *ring) add(changes []projections.Change, position uint64) {
	r.mu.Lock()
	var last *track
	var lastResource domain.Resource
	for _, c := range changes {
		size := sizeOf(c)
		r.push(held{c, size})
		r.bytes += size
		gr := c.Event.Ref.GroupResource()
		if last == nil || gr != lastResource {
			last, lastResource = r.track(gr), gr
		}
		last.seqs.push(r.next - 1)
		for f := range last.waiting {
			f.signal()
		}
	}
	for (r.bytes > r.maxBytes && r.next-r.first > 1) || r.next-r.first > uint64(r.maxCount) {
		r.drop()
	}
	r.position = position
	if len(changes) > 0 {
		for f := range r.everything {
			f.signal()
		}
	}
	r.mu.Unlock()
}

// progress lets every follower that is behind learn the position although nothing has changed for it.
func (r *ring) progress() {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for f := range r.followers {
		if f.told.Load() < r.position {
			f.tell.Store(true)
			f.signal()
		}
	}
}

func (r *ring) push(h held) {
	if n := len(r.entries); r.next-r.first == uint64(n) {
		grown := make([]held, max(64, 2*n))
		for s := r.first; s < r.next; s++ {
			grown[s&uint64(len(grown)-1)] = r.entries[s&uint64(n-1)]
		}
		r.entries = grown
	}
	r.entries[r.next&uint64(len(r.entries)-1)] = h
	r.next++
}

func (r *ring) drop() {
	h := &r.entries[r.first&uint64(len(r.entries)-1)]
	t := r.track(h.change.Event.Ref.GroupResource())
	t.seqs.pop()
	t.lost = h.change.Event.Position
	r.lost = t.lost
	r.bytes -= h.bytes
	*h = held{}
	r.first++
}

// track returns the track of a resource, made if need be; r.mu is held for writing.
func (r *ring) track(gr domain.Resource) *track {
	t := r.tracks[gr]
	if t == nil {
		t = &track{lost: r.floor, waiting: map[*follower]struct{}{}}
		r.tracks[gr] = t
	}
	return t
}

func (r *ring) at(seq uint64) *projections.Change {
	return &r.entries[seq&uint64(len(r.entries)-1)].change
}

// missed says whether changes after a position, of the given resources (nil: of all), have been dropped. r.mu is held.
func (r *ring) missed(after uint64, tracks []*track) bool {
	if tracks == nil {
		return after < r.lost || after < r.floor
	}
	for _, t := range tracks {
		if after < t.lost {
			return true
		}
	}
	return false
}

// collect appends to into up to limit changes after a position, of some resources (none: of all), in order, and returns the
// position up to which everything has then been delivered. r.mu is held for reading.
func (r *ring) collect(into []projections.Change, after uint64, tracks []*track, limit int) ([]projections.Change, uint64, error) {
	if r.missed(after, tracks) {
		return into, after, projections.ErrTooOld
	}
	if tracks == nil {
		n := r.next - r.first
		i := uint64(sort.Search(int(n), func(i int) bool { return r.at(r.first+uint64(i)).Event.Position > after }))
		for ; i < n; i++ {
			if len(into) == limit {
				return into, into[limit-1].Event.Position, nil
			}
			into = append(into, *r.at(r.first + i))
		}
		return into, max(after, r.position), nil
	}
	cursors := make([]int, len(tracks))
	for k, t := range tracks {
		cursors[k] = sort.Search(t.seqs.len(), func(i int) bool { return r.at(t.seqs.at(i)).Event.Position > after })
	}
	for {
		best, bestSeq := -1, uint64(0)
		for k, t := range tracks {
			if cursors[k] < t.seqs.len() {
				if s := t.seqs.at(cursors[k]); best < 0 || s < bestSeq {
					best, bestSeq = k, s
				}
			}
		}
		if best < 0 {
			return into, max(after, r.position), nil
		}
		if len(into) == limit {
			return into, into[limit-1].Event.Position, nil
		}
		into = append(into, *r.at(bestSeq))
		cursors[best]++
	}
}

// sizeOf estimates what holding a change keeps in memory beside the current state: the object after it, once more as its typed
// form, and the event.
func sizeOf(c projections.Change) int {
	n := 512 + len(c.Event.Change) + len(c.Event.Evidence)
	if c.After != nil {
		n += 3 * len(c.After.JSON)
	} else if c.Before != nil {
		n += 3 * len(c.Before.JSON)
	}
	return n
}

// queue is a circular queue of sequence numbers.
type queue struct {
	buf  []uint64 // its length is a power of two
	head int
	n    int
}

func (q *queue) len() int        { return q.n }
func (q *queue) at(i int) uint64 { return q.buf[(q.head+i)&(len(q.buf)-1)] }
func (q *queue) pop()            { q.head, q.n = (q.head+1)&(len(q.buf)-1), q.n-1 }
func (q *queue) push(seq uint64) {
	if q.n == len(q.buf) {
		grown := make([]uint64, max(8, 2*q.n))
		for i := range q.n {
			grown[i] = q.at(i)
		}
		q.buf, q.head = grown, 0
	}
	q.buf[(q.head+q.n)&(len(q.buf)-1)] = seq
	q.n++
}

func (r *ring) stats() (changes, bytes, followers int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return int(r.next - r.first), r.bytes, len(r.followers)
}

func (r *ring) reached() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.position
}
