package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/shiplog/shiplog/eventstore"
)

// stream is what must be known of a stream to append to it and to read it.
type stream struct {
	id      uint64 // 0: nobody has mentioned the stream yet
	last    int64  // last revision; -1 while it holds nothing
	lastPos eventstore.Position
	keep    retention
}

func (s stream) tombstoned() bool  { return s.last == eventstore.TombstoneRevision }
func (s stream) softDeleted() bool { return s.keep.truncateBefore == eventstore.DeletedTruncateBefore }

// exists says whether the stream has been written to and not been deleted since.
func (s stream) exists() bool { return s.last >= 0 && !s.softDeleted() }

// retention is a stream's metadata as far as it makes events expire.
type retention struct {
	maxCount       uint64
	maxAge         time.Duration // whole seconds
	truncateBefore uint64
}

func (r retention) String() string {
	return fmt.Sprintf("(max count %d, max age %s, truncated before %d)", r.maxCount, r.maxAge, r.truncateBefore)
}

// retentionOf reads a stream's metadata.
func retentionOf(metadata []byte) (retention, error) {
	var m eventstore.Metadata
	if err := json.Unmarshal(metadata, &m); err != nil {
		return retention{}, err
	}
	return retention{maxCount: m.MaxCount, maxAge: m.MaxAge, truncateBefore: m.TruncateBefore}, nil
}

// firstVisible is the lowest revision that has not expired by count or truncation.
func (s stream) firstVisible() uint64 {
	first := s.keep.truncateBefore
	if c := s.keep.maxCount; c > 0 && s.last >= 0 && uint64(s.last) >= c {
		first = max(first, uint64(s.last)-c+1)
	}
	return first
}

// visible says whether an event of the stream has not expired by now.
func (s stream) visible(revision, ticks uint64, now time.Time) bool {
	if s.keep == (retention{}) || revision == eventstore.TombstoneRevision {
		return true
	}
	return revision >= s.firstVisible() && !s.expired(ticks, now)
}

// expired says whether an event that was recorded at ticks has outlived the stream's maximum age.
func (s stream) expired(ticks uint64, now time.Time) bool {
	return s.keep.maxAge > 0 && timeOf(ticks).Before(now.Add(-s.keep.maxAge))
}

// streams remembers the streams used last, as of the head: changes of a batch that is not durable yet are with the
// committer (see group).
type streams struct {
	mu      sync.Mutex
	version uint64                         // counts changes, so that a reader does not put back what it loaded before one
	ids     *simplelru.LRU[string, uint64] // name -> id
	names   *simplelru.LRU[uint64, string]
	states  *simplelru.LRU[uint64, stream]
	// limited are the streams that have a retention record: all others can be read without a look at their state.
	limited map[uint64]struct{}
	// pinned are the streams that a batch changes which is in the database and not durable yet, as they were before it.
	pinned map[uint64]stream
	head   func() eventstore.Position
}

func newStreams(size int, head func() eventstore.Position) (*streams, error) {
	ids, err := simplelru.NewLRU[string, uint64](size, nil)
	if err != nil {
		return nil, err
	}
	names, err := simplelru.NewLRU[uint64, string](size, nil)
	if err != nil {
		return nil, err
	}
	states, err := simplelru.NewLRU[uint64, stream](size, nil)
	return &streams{ids: ids, names: names, states: states, limited: make(map[uint64]struct{}), head: head}, err
}

// database reads what is in Pebble, or in a snapshot of it.
type database struct{ db pebble.Reader }

func (d database) get(key []byte) ([]byte, bool, error) {
	value, closer, err := d.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, readError(err)
	}
	value = append([]byte(nil), value...)
	return value, true, readError(closer.Close())
}

func (d database) iter(lower, upper []byte) (*pebble.Iterator, error) {
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	return it, readError(err)
}

// readError gives a failed read the kind that the contract knows.
func readError(err error) error {
	switch {
	case err == nil:
		return nil
	case pebble.IsCorruptionError(err):
		return fmt.Errorf("%w: %w; restore the directory from a backup", eventstore.ErrCorrupt, err)
	default:
		return fmt.Errorf("%w: reading: %w", eventstore.ErrUnavailable, err)
	}
}

// idOf returns a stream's id, 0 if nobody has mentioned it yet.
func (s *streams) idOf(db database, name string) (uint64, error) {
	s.mu.Lock()
	id, ok := s.ids.Get(name)
	s.mu.Unlock()
	if ok {
		return id, nil
	}
	value, found, err := db.get(keyOfName(name))
	if err != nil || !found {
		return 0, err
	}
	if !readVarints(value, &id) {
		return 0, fmt.Errorf("%w: the id of stream %s does not parse; restore the directory from a backup", eventstore.ErrCorrupt, name)
	}
	s.mu.Lock()
	s.ids.Add(name, id) // an id is given once and never changes
	s.mu.Unlock()
	return id, nil
}

func (s *streams) nameOf(db database, id uint64) (string, error) {
	s.mu.Lock()
	name, ok := s.names.Peek(id) // it never changes, and which are forgotten matters little: not worth keeping an order for
	s.mu.Unlock()
	if ok {
		return name, nil
	}
	value, found, err := db.get(keyOf(nameKey, id))
	if err != nil {
		return "", err
	}
	if !found {
		return "", fmt.Errorf("%w: stream %d has no name; restore the directory from a backup", eventstore.ErrCorrupt, id)
	}
	name = string(value)
	s.mu.Lock()
	s.names.Add(id, name)
	s.mu.Unlock()
	return name, nil
}

// isLimited says whether a stream has a retention record.
func (s *streams) isLimited(id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.limited[id]
	return ok
}

// stateOf returns a stream as of the head. isMeta says that it is a metadata stream, of which only the last event is kept.
func (s *streams) stateOf(db database, id uint64, isMeta bool) (stream, error) {
	st, _, err := s.stateAt(db, id, isMeta)
	return st, err
}

// loadTries is how often a stream is loaded beside the committer before it has to wait for the load.
const loadTries = 4

// stateAt returns a stream as of the head, and that head.
func (s *streams) stateAt(db database, id uint64, isMeta bool) (stream, eventstore.Position, error) {
	for try := 0; ; try++ {
		s.mu.Lock()
		version, head := s.version, s.head()
		st, known := s.pinned[id]
		if !known {
			st, known = s.states.Get(id)
		}
		if id == 0 {
			st, known = stream{last: -1}, true
		}
		if known {
			s.mu.Unlock()
			return st, head, nil
		}
		// What a batch changes in the database meanwhile is either durable only later or newer than this head.
		if try < loadTries {
			s.mu.Unlock()
		}
		st, err := loadStream(db, id, isMeta, head)
		if try < loadTries {
			s.mu.Lock()
		}
		moved := s.version != version
		if err == nil && !moved {
			s.states.Add(id, st)
		}
		s.mu.Unlock()
		if err != nil || !moved {
			return st, head, err
		}
	}
}

// pin keeps streams as they are while a batch that changes them is in the database without being durable. Should it never
// become so, they stay like that: the log takes no more writes then.
func (s *streams) pin(before map[uint64]stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.pinned = before
}

// committed takes over what a durable batch changed, and moves the head in the same moment: whoever sees an event finds
// its stream as it is with that event.
func (s *streams) committed(g *group, moveHead func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	moveHead()
	s.version++
	s.pinned = nil
	for name, id := range g.newIDs {
		s.ids.Add(name, id)
		s.names.Add(id, name)
	}
	for id, st := range g.states {
		s.states.Add(id, *st)
		if _, isMeta := g.metas[id]; isMeta {
			continue
		}
		if st.keep == (retention{}) {
			delete(s.limited, id)
		} else {
			s.limited[id] = struct{}{}
		}
	}
}

func loadStream(db database, id uint64, isMeta bool, head eventstore.Position) (stream, error) {
	st := stream{id: id, last: -1}
	var err error
	if st.keep, err = loadRetention(db, id); err != nil {
		return st, err
	}
	if isMeta {
		st.keep.maxCount = 1
	}
	it, err := db.iter(keyOf(indexKey, id), keyOf(indexKey, id+1))
	if err != nil {
		return st, err
	}
	defer it.Close()
	for ok := it.Last(); ok; ok = it.Prev() {
		var position uint64
		if !readVarints(it.Value(), &position) {
			return st, fmt.Errorf("%w: the index of stream %d does not parse; restore the directory from a backup", eventstore.ErrCorrupt, id)
		}
		if eventstore.Position(position) <= head { // above it: in memory, but not durable yet
			st.last, st.lastPos = int64(numberIn(it.Key(), 1)), eventstore.Position(position)
			break
		}
	}
	if err := it.Error(); err != nil {
		return st, readError(err)
	}
	value, found, err := db.get(keyOf(floorKey, id))
	if err != nil || !found {
		return st, err
	}
	var last, position uint64
	if !readVarints(value, &last, &position) || last > math.MaxInt64 {
		return st, fmt.Errorf("%w: the last revision of stream %d does not parse; restore the directory from a backup", eventstore.ErrCorrupt, id)
	}
	if int64(last) > st.last && eventstore.Position(position) <= head {
		st.last, st.lastPos = int64(last), eventstore.Position(position)
	}
	return st, nil
}

func loadRetention(db database, id uint64) (retention, error) {
	var r retention
	value, found, err := db.get(keyOf(retentionKey, id))
	if err != nil || !found {
		return r, err
	}
	return parseRetention(value, id)
}

func parseRetention(value []byte, id uint64) (retention, error) {
	var r retention
	var seconds uint64
	if !readVarints(value, &r.maxCount, &seconds, &r.truncateBefore) || seconds > math.MaxInt64/uint64(time.Second) {
		return r, fmt.Errorf("%w: the retention of stream %d does not parse; restore the directory from a backup", eventstore.ErrCorrupt, id)
	}
	r.maxAge = time.Duration(seconds) * time.Second
	return r, nil
}

func (r retention) value() []byte {
	return varints(r.maxCount, uint64(r.maxAge/time.Second), r.truncateBefore)
}
