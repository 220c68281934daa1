package projections

import (
	"errors"
	"fmt"
	"strings"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
)

// EventOf reads a record of the log. It returns false, and no error, for a record that is none of a cluster's events: a log may
// hold others' streams too, and system events in any. Another record in an object's stream that cannot be read is an error.
func EventOf(r eventstore.Recorded) (domain.Event, bool, error) {
	if strings.HasPrefix(r.Type, "$") {
		return domain.Event{}, false, nil
	}
	e, err := domain.UnmarshalEvent(r.Type, r.ID.String(), r.Data, r.Metadata, uint64(r.Position), r.Revision, r.Created)
	if err == nil {
		return e, true, nil
	}
	if _, object := domain.ParseStream(r.Stream); !object && errors.Is(err, domain.ErrBadEvent) {
		return domain.Event{}, false, nil
	}
	return domain.Event{}, false, fmt.Errorf("stream %s: %w", r.Stream, err)
}

// Concerns says whether an event is part of its object's history: it stands in the object's own stream. An event that stands
// elsewhere, such as one in the trail of refused requests, is a fact about the object that changes nothing of it.
func Concerns(r eventstore.Recorded, e domain.Event) bool { return r.Stream == e.Ref.Stream() }

// StateOf returns the state that an object's events have led to; that of an object that is not there is the zero State.
func StateOf(o *Object) domain.State {
	if o == nil {
		return domain.State{}
	}
	return domain.State{JSON: o.JSON, UID: o.Ref.UID, Revision: o.Revision, Position: o.Position, Exists: true, Seen: true}
}
