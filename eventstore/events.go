package eventstore

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/domain"
)

// Propose makes an event of the cluster ready to be appended. The event's ID is a UUID; its Position and Revision are left
// out, since the log gives them.
func Propose(e domain.Event) (Proposed, error) {
	id, err := uuid.Parse(e.ID)
	if err != nil {
		return Proposed{}, fmt.Errorf("proposing %s of %s: its id %q: %w", e.Type, e.Ref, e.ID, err)
	}
	data, metadata, err := domain.MarshalEvent(e)
	if err != nil {
		return Proposed{}, fmt.Errorf("proposing %s of %s: %w", e.Type, e.Ref, err)
	}
	return Proposed{ID: id, Type: e.Type, ContentType: "application/json", Data: data, Metadata: metadata}, nil
}

// Event makes a recorded event one of the cluster again, with its position and revision. It shares the record's memory.
func Event(r Recorded) (domain.Event, error) {
	e, err := domain.UnmarshalEvent(r.Type, r.ID.String(), r.Data, r.Metadata, uint64(r.Position), r.Revision, r.Created)
	if err != nil {
		return domain.Event{}, fmt.Errorf("reading the event at position %d, revision %d of %s: %w", r.Position, r.Revision, r.Stream, err)
	}
	return e, nil
}
