package torture

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// Kind of an operation on one stream.
type Kind string

// The operations: four that write and three that read.
const (
	Append      Kind = "append"
	SetMetadata Kind = "set metadata"
	Delete      Kind = "delete"
	Tombstone   Kind = "tombstone"
	Read        Kind = "read"      // the whole stream, forwards
	ReadLast    Kind = "read last" // the last event
	Metadata    Kind = "metadata"
)

// Writes says whether operations of this kind change a stream.
func (k Kind) Writes() bool { return k == Append || k == SetMetadata || k == Delete || k == Tombstone }

// Op is one client's wish of one stream.
type Op struct {
	Kind     Kind
	Stream   string
	Expected eventstore.Expected // of those that write
	IDs      []uuid.UUID         // of the events to append
	Keep     Retention           // to be set
	Bytes    int                 // of each event's data
}

// Retention is the part of a stream's metadata that does not depend on time.
type Retention struct{ MaxCount, TruncateBefore uint64 }

// Outcome of an operation.
type Outcome string

// The outcomes.
const (
	Done     Outcome = "done"
	Conflict Outcome = "wrong expected revision"
	Deleted  Outcome = "stream deleted"
	NotFound Outcome = "stream not found"
	Unknown  Outcome = "unknown" // it may have happened or not
)

// Result is what a client was told.
type Result struct {
	Outcome  Outcome
	Revision int64               // of the last event appended, or of the metadata read
	Position eventstore.Position // of the last event appended; the model does not know of it
	Actual   eventstore.Expected // of a conflict
	Events   []Event             // read
	Keep     Retention           // read
	Err      error               // of an unknown outcome
}

// Event of a stream, as far as the model cares.
type Event struct {
	ID       uuid.UUID
	Revision uint64
	// Expired says that retention has hidden the event at some time: should it be visible again, the scavenger may have been
	// there first.
	Expired bool
}

// Stream is what a stream has come to. It is a value that is never changed: Write returns another one.
type Stream struct {
	Last   int64 // revision of the last event, -1 before the first
	Meta   int64 // the same of the stream that holds the metadata
	Keep   Retention
	Events []Event
}

// NewStream is a stream that nobody has written to.
func NewStream() Stream { return Stream{Last: -1, Meta: -1} }

func (s Stream) tombstoned() bool  { return s.Last == eventstore.TombstoneRevision }
func (s Stream) softDeleted() bool { return s.Keep.TruncateBefore == eventstore.DeletedTruncateBefore }
func (s Stream) exists() bool      { return s.Last >= 0 && !s.softDeleted() }

// firstVisible is the lowest revision that retention leaves.
func (s Stream) firstVisible() uint64 {
	first := s.Keep.TruncateBefore
	if c := s.Keep.MaxCount; c > 0 && s.Last >= 0 && uint64(s.Last) >= c {
		first = max(first, uint64(s.Last)-c+1)
	}
	return first
}

// Write does what an operation asks for, and says what its client must be told.
func (s Stream) Write(op Op) (Stream, Result) {
	if s.tombstoned() {
		return s, Result{Outcome: Deleted}
	}
	if op.Kind == SetMetadata {
		if !meets(op.Expected, s.Meta, s.Meta >= 0) {
			return s, Result{Outcome: Conflict, Actual: eventstore.Expected(s.Meta)}
		}
		s.Meta, s.Keep = s.Meta+1, op.Keep
		return s.expire(), Result{Outcome: Done}
	}
	if !meets(op.Expected, s.Last, s.exists()) {
		if op.Kind == Append {
			if revision, ok := s.repeats(op); ok {
				return s, Result{Outcome: Done, Revision: revision}
			}
		}
		actual := eventstore.Expected(s.Last)
		if s.softDeleted() && op.Expected == eventstore.StreamExists {
			actual = eventstore.NoStream
		}
		return s, Result{Outcome: Conflict, Actual: actual}
	}
	switch op.Kind {
	case Delete:
		if s.exists() {
			s.Meta, s.Keep.TruncateBefore = s.Meta+1, eventstore.DeletedTruncateBefore
		}
	case Tombstone:
		s.Last, s.Events, s.Keep = eventstore.TombstoneRevision, nil, Retention{TruncateBefore: eventstore.DeletedTruncateBefore}
	case Append:
		if revision, ok := s.repeats(op); ok {
			return s, Result{Outcome: Done, Revision: revision}
		}
		if s.softDeleted() {
			s.Meta, s.Keep.TruncateBefore = s.Meta+1, uint64(s.Last+1)
		}
		s.Events = s.Events[:len(s.Events):len(s.Events)]
		for _, id := range op.IDs {
			s.Last++
			s.Events = append(s.Events, Event{ID: id, Revision: uint64(s.Last)})
		}
	}
	return s.expire(), Result{Outcome: Done, Revision: s.Last}
}

// repeats says whether a stream holds just the events of an append already, and the revision of the last of them.
func (s Stream) repeats(op Op) (int64, bool) {
	at := slices.IndexFunc(s.Events, func(e Event) bool { return e.ID == op.IDs[0] })
	if at < 0 || at+len(op.IDs) > len(s.Events) {
		return 0, false
	}
	for i, id := range op.IDs {
		if s.Events[at+i].ID != id {
			return 0, false
		}
	}
	return int64(s.Events[at+len(op.IDs)-1].Revision), true
}

func (s Stream) expire() Stream {
	first := s.firstVisible()
	n := 0
	for n < len(s.Events) && s.Events[n].Revision < first {
		n++
	}
	if n > 0 && !s.Events[n-1].Expired {
		s.Events = slices.Clone(s.Events)
		for i := range n {
			s.Events[i].Expired = true
		}
	}
	return s
}

func meets(expected eventstore.Expected, last int64, exists bool) bool {
	switch expected {
	case eventstore.Any:
		return true
	case eventstore.NoStream:
		return !exists
	case eventstore.StreamExists:
		return exists
	default:
		return last == int64(expected)
	}
}

// Allows says whether a client may be told this of the stream.
func (s Stream) Allows(op Op, r Result) error {
	if op.Kind.Writes() {
		_, want := s.Write(op)
		if want.Outcome != r.Outcome || want.Outcome == Conflict && want.Actual != r.Actual ||
			want.Outcome == Done && op.Kind == Append && want.Revision != r.Revision {
			return fmt.Errorf("%s was answered with %s, must be answered with %s", op, r, want)
		}
		return nil
	}
	want := Done
	switch {
	case op.Kind == Metadata && s.tombstoned(), s.tombstoned():
		want = Deleted
	case op.Kind != Metadata && !s.exists():
		want = NotFound
	}
	if r.Outcome != want {
		return fmt.Errorf("%s was answered with %s, must be answered with %s", op, r.Outcome, want)
	}
	if want != Done {
		return nil
	}
	switch op.Kind {
	case Metadata:
		if r.Revision != s.Meta || r.Keep != s.Keep {
			return fmt.Errorf("the metadata of %s is %+v at revision %d, must be %+v at %d", op.Stream, r.Keep, r.Revision, s.Keep, s.Meta)
		}
		return nil
	case ReadLast:
		if len(s.Events) > 0 && len(r.Events) > 0 && r.Events[0].Revision < uint64(s.Last) && s.visible(len(s.Events)-1) {
			return fmt.Errorf("the last event of %s is %d, must be %d", op.Stream, r.Events[0].Revision, s.Last)
		}
		return s.holds(op.Stream, r.Events, max(0, len(s.Events)-1))
	default:
		return s.holds(op.Stream, r.Events, 0)
	}
}

// Hidden says that some events of the stream have been hidden by retention: they may be there or not.
func (s Stream) Hidden() bool { return len(s.Events) > 0 && s.Events[0].Expired }

func (s Stream) visible(i int) bool { return s.Events[i].Revision >= s.firstVisible() }

// holds says whether events are those of the stream that must be seen, from the i-th one on, and none that must not.
func (s Stream) holds(name string, got []Event, from int) error {
	next := 0
	for i := from; i < len(s.Events); i++ {
		want := s.Events[i]
		if next < len(got) && got[next].ID == want.ID && got[next].Revision == want.Revision && s.visible(i) {
			next++
			continue
		}
		if s.visible(i) && !want.Expired {
			return fmt.Errorf("%s: revision %d (%s) is missing from %s", name, want.Revision, want.ID, describe(got))
		}
	}
	if next < len(got) {
		return fmt.Errorf("%s: revision %d (%s) should not be in %s", name, got[next].Revision, got[next].ID, describe(got))
	}
	return nil
}

func describe(events []Event) string {
	out := "["
	for i, e := range events {
		if i > 0 {
			out += " "
		}
		out += fmt.Sprintf("%d:%.4s", e.Revision, e.ID)
	}
	return out + "]"
}

func (op Op) String() string {
	switch op.Kind {
	case Append:
		ids := ""
		for _, id := range op.IDs {
			ids += fmt.Sprintf(" %.4s", id)
		}
		return fmt.Sprintf("append(%s, expecting %d:%s)", op.Stream, op.Expected, ids)
	case SetMetadata:
		return fmt.Sprintf("set metadata(%s, expecting %d: %+v)", op.Stream, op.Expected, op.Keep)
	case Delete, Tombstone:
		return fmt.Sprintf("%s(%s, expecting %d)", op.Kind, op.Stream, op.Expected)
	default:
		return fmt.Sprintf("%s(%s)", op.Kind, op.Stream)
	}
}

func (r Result) String() string {
	switch {
	case r.Outcome == Conflict:
		return fmt.Sprintf("%s, actual %d", r.Outcome, r.Actual)
	case r.Outcome == Done && r.Events != nil:
		return describe(r.Events)
	case r.Outcome == Unknown && r.Err != nil:
		return fmt.Sprintf("%s: %v", r.Outcome, r.Err)
	default:
		return fmt.Sprintf("%s, revision %d", r.Outcome, r.Revision)
	}
}
