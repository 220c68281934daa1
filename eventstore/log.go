package eventstore

import (
	"context"
	"iter"
	"time"

	"github.com/google/uuid"
)

// Position is an event's place in the whole log. Positions start at 1 and are strictly increasing, not necessarily dense.
// 0 stands before the first event.
type Position uint64

// Log is an append-only store of events in streams. Every method honours its context's cancellation. All implementations
// pass the same contract suite; their errors are those of this package, tested with errors.Is and errors.As.
type Log interface {
	// Append adds events to the end of a stream, all or none. When it returns without error the events are durable and
	// every later read sees them. Appending again with the same event ids is idempotent: exactly with an expected
	// revision, best effort with Any.
	Append(ctx context.Context, stream string, expected Expected, events ...Proposed) (Appended, error)

	// ReadStream yields a stream's events. Reading a stream that does not exist yields ErrStreamNotFound.
	ReadStream(ctx context.Context, stream string, opts ReadStream) iter.Seq2[Recorded, error]

	// ReadAll yields the events of all streams in the order of their positions.
	ReadAll(ctx context.Context, opts ReadAll) iter.Seq2[Recorded, error]

	// Subscribe delivers every event after opts.After (exclusive) that the filter admits, in order, each once: first those
	// there are (catching up), then those that come (live). A slow receiver never holds up a writer.
	Subscribe(ctx context.Context, opts Subscribe) (Subscription, error)

	// SetMetadata replaces a stream's metadata. Events that it makes expire are no longer read from then on.
	SetMetadata(ctx context.Context, stream string, expected Expected, m Metadata) error
	// Metadata returns a stream's metadata and its revision; the zero Metadata and NoStream if none was set.
	Metadata(ctx context.Context, stream string) (Metadata, Expected, error)

	// Delete soft-deletes a stream: its events are gone, and it can be appended to again, revisions going on.
	Delete(ctx context.Context, stream string, expected Expected) error
	// Tombstone deletes a stream for good: every later append fails with ErrStreamDeleted.
	Tombstone(ctx context.Context, stream string, expected Expected) error

	// Head is the position of the last committed event, 0 in an empty log.
	Head(ctx context.Context) (Position, error)

	Close() error
}

// Expected is what a writer expects a stream's last revision to be.
type Expected int64

// The expectations that are not an exact revision.
const (
	Any          Expected = -2
	NoStream     Expected = -1
	StreamExists Expected = -4
)

// Exact expects the stream's last event to have this revision.
func Exact(revision uint64) Expected { return Expected(revision) }

// Proposed is an event to be appended.
type Proposed struct {
	ID          uuid.UUID
	Type        string
	ContentType string // "application/json" unless set
	Data        []byte
	Metadata    []byte
}

// Recorded is an event in the log. Its slices are shared: never change them.
type Recorded struct {
	Proposed
	Stream   string
	Revision uint64
	Position Position
	Created  time.Time
}

// Appended tells where the last of the appended events stands.
type Appended struct {
	Position Position
	Revision uint64
}

// Direction of a read.
type Direction int

// Directions.
const (
	Forwards Direction = iota
	Backwards
)

// ReadStream says what of a stream to read. The zero value reads all of it forwards.
type ReadStream struct {
	Direction Direction
	// From is the first revision to read, inclusive. Backwards, FromEnd reads from the last event.
	From    uint64
	FromEnd bool
	Limit   int // 0: no limit
}

// ReadAll says what of the log to read. The zero value reads all of it forwards.
type ReadAll struct {
	Direction Direction
	// From is the first position to read, inclusive. Backwards, FromEnd reads from the last event.
	From    Position
	FromEnd bool
	Limit   int // 0: no limit; counts the events that the filter admits
	Filter  Filter
	// Lend says that whoever reads is done with an event's data and metadata, or has copied them, when asking for the next event: the log
	// may then put others in that memory.
	Lend bool
}

// Filter admits an event when it meets both lists; an empty list admits everything. System events (whose stream's name or whose
// type begins with "$") are admitted only when System is set.
type Filter struct {
	StreamPrefixes []string
	TypePrefixes   []string
	System         bool
}

// Subscribe says what to subscribe to.
type Subscribe struct {
	After  Position // exclusive; 0 from the beginning
	Filter Filter
	// Stream, when set, subscribes to one stream after AfterRevision (nil: from its beginning); After is not used.
	Stream        string
	AfterRevision *uint64
}

// Subscription delivers batches. It is used by one goroutine at a time.
type Subscription interface {
	// Next blocks for the next batch. After an error (ErrDropped, a cancelled context) the subscription is over; resubscribe
	// after the last position seen.
	Next(ctx context.Context) (Batch, error)
	Close() error
}

// Batch is one or more events, or a checkpoint without events.
type Batch struct {
	Events []Recorded
	// Checkpoint is the position up to which everything that the filter admits has been delivered.
	Checkpoint Position
	// CaughtUp says that, with this batch, everything there was has been delivered. It is said each time the subscription
	// goes over from catching up to live, not with every batch that follows.
	CaughtUp bool
}

// Metadata of a stream, as EventStoreDB knows it.
type Metadata struct {
	MaxCount       uint64        // keep at most this many of the last events; 0: all
	MaxAge         time.Duration // keep events this long; 0: for good. Whole seconds
	TruncateBefore uint64        // events with a lower revision are gone
	Custom         map[string]any
}
