package persistent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// Where a group keeps what it must remember, as EventStoreDB does.
const (
	streamPrefix     = "$persistentsubscription-"
	checkpointSuffix = "-checkpoint"
	parkedSuffix     = "-parked"
	checkpointType   = "$SubscriptionCheckpoint"
)

// isOwn says that a stream holds the bookkeeping of groups. Groups that read all streams do not get it: handing out checkpoints
// would make for new ones, without end.
func isOwn(stream string) bool {
	stream, _ = strings.CutPrefix(stream, eventstore.MetadataStreamPrefix)
	return strings.HasPrefix(stream, streamPrefix) || stream == configStream
}

// state reads and writes what a group must remember.
type state struct {
	log        eventstore.Log
	all        bool // the group reads all streams
	checkpoint string
	parked     string
}

func newState(log eventstore.Log, d *Definition) *state {
	base := streamPrefix + d.Key()
	return &state{log: log, all: d.Stream == All, checkpoint: base + checkpointSuffix, parked: base + parkedSuffix}
}

// place writes a place as clients read it: a revision, or a position.
func (s *state) place(p uint64) string { return formatPlace(s.all, p) }

func formatPlace(all bool, p uint64) string {
	if all {
		return fmt.Sprintf("C:%d/P:%d", p, p)
	}
	return strconv.FormatUint(p, 10)
}

// reached returns the last checkpoint, nil if there is none.
func (s *state) reached(ctx context.Context) (*uint64, error) {
	last, err := lastOf(ctx, s.log, s.checkpoint)
	if err != nil || last == nil {
		return nil, err
	}
	var text string
	if err := json.Unmarshal(last.Data, &text); err != nil {
		return nil, fmt.Errorf("reading a checkpoint in %s at %d: %w", s.checkpoint, last.Revision, err)
	}
	number := text
	if s.all {
		number, _, _ = strings.Cut(strings.TrimPrefix(text, "C:"), "/")
	}
	p, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("reading a checkpoint in %s at %d: %w", s.checkpoint, last.Revision, err)
	}
	return &p, nil
}

// write writes a checkpoint. Of all of them the last two are kept.
func (s *state) write(ctx context.Context, place uint64) error {
	_, revision, err := s.log.Metadata(ctx, s.checkpoint)
	if err != nil {
		return err
	}
	if revision == eventstore.NoStream {
		m := eventstore.Metadata{MaxCount: 2, Custom: map[string]any{"$acl": map[string]any{
			"$r": "$admins", "$w": "$admins", "$d": "$admins", "$mr": "$all", "$mw": "$admins",
		}}}
		if err := s.log.SetMetadata(ctx, s.checkpoint, eventstore.NoStream, m); err != nil && !errors.Is(err, eventstore.ErrWrongExpectedRevision) {
			return err
		}
	}
	data, err := json.Marshal(s.place(place))
	if err != nil {
		return err
	}
	_, err = s.log.Append(ctx, s.checkpoint, eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: checkpointType, Data: data})
	return err
}

// parkedMessage is said with the link to a parked event.
type parkedMessage struct {
	Added  time.Time `json:"added"`
	Reason string    `json:"reason"`
	Number uint64    `json:"subscriptionEventNumber"`
}

// park puts an event aside, by a link to it. Doing it again with the same id does it once.
func (s *state) park(ctx context.Context, id uuid.UUID, p parking, now time.Time) error {
	about, err := json.Marshal(parkedMessage{Added: now, Reason: p.reason, Number: p.place})
	if err != nil {
		return err
	}
	_, err = s.log.Append(ctx, s.parked, eventstore.Any, eventstore.Proposed{
		ID: id, Type: LinkType, ContentType: "application/octet-stream", Metadata: about,
		Data: fmt.Appendf(nil, "%d@%s", p.event.Revision, p.event.Stream),
	})
	return err
}

// unpark forgets the parked events before a revision.
func (s *state) unpark(ctx context.Context, before uint64) error {
	m, revision, err := s.log.Metadata(ctx, s.parked)
	if err != nil {
		return err
	}
	if m.TruncateBefore >= before {
		return nil
	}
	m.TruncateBefore = before
	return s.log.SetMetadata(ctx, s.parked, revision, m)
}

// parkedRange returns the revisions of the first parked event and of the one that will come next.
func (s *state) parkedRange(ctx context.Context) (first, next uint64, err error) {
	last, err := lastOf(ctx, s.log, s.parked)
	if err != nil || last == nil {
		return 0, 0, err
	}
	for e, err := range s.log.ReadStream(ctx, s.parked, eventstore.ReadStream{Limit: 1}) {
		if gone(err) {
			break
		}
		if err != nil {
			return 0, 0, err
		}
		return e.Revision, last.Revision + 1, nil
	}
	return last.Revision + 1, last.Revision + 1, nil
}

// forget deletes all that was remembered.
func (s *state) forget(ctx context.Context) error {
	for _, stream := range []string{s.checkpoint, s.parked} {
		if err := s.log.Delete(ctx, stream, eventstore.Any); err != nil && !errors.Is(err, eventstore.ErrStreamNotFound) {
			return fmt.Errorf("forgetting what a group remembered: %w", err)
		}
	}
	return nil
}

func gone(err error) bool {
	return errors.Is(err, eventstore.ErrStreamNotFound) || errors.Is(err, eventstore.ErrStreamDeleted)
}

// lastOf returns a stream's last event, nil if there is none.
func lastOf(ctx context.Context, log eventstore.Log, stream string) (*eventstore.Recorded, error) {
	for e, err := range log.ReadStream(ctx, stream, eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true, Limit: 1}) {
		if gone(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the last event of %s: %w", stream, err)
		}
		return &e, nil
	}
	return nil, nil
}
