package projections

import (
	"context"
	"time"

	"github.com/shiplog/shiplog/domain"
)

// History reads the past. Package postgres answers from the read models; package logreplay answers the same from the log
// alone, slower, for those who have no Postgres at hand.
type History interface {
	// Position is the last event that the answers reflect.
	Position(ctx context.Context) (uint64, error)
	// PositionAt is the position of the last change of an object not after t; 0 before the first. Facts that change no object do not
	// count.
	PositionAt(ctx context.Context, t time.Time) (uint64, error)
	// GetAt returns an object as it was when the log stood at position; ErrNotFound if it was not there.
	GetAt(ctx context.Context, ref domain.Ref, position uint64) (*Object, error)
	// ListAt returns the objects of a resource as they were; namespace "" means all.
	ListAt(ctx context.Context, gr domain.Resource, namespace string, position uint64) ([]*Object, error)
	// Events returns what happened, oldest first unless the query says otherwise.
	Events(ctx context.Context, q EventQuery) ([]domain.Event, error)
	// Event returns one event by its position or, when position is 0, by its id; ErrNotFound if there is none.
	Event(ctx context.Context, position uint64, id string) (domain.Event, error)
}

// EventQuery selects events; the zero value of a field selects all.
type EventQuery struct {
	Group, Resource, Namespace, Name string
	AnyGroup                         bool // Group "" is the core group unless AnyGroup is set
	UID                              string
	Types                            []string
	Actor                            string // who asked, or whose name they asked in
	Correlation                      string
	CauseID                          string    // the events that this event caused directly
	After, Through                   uint64    // positions; After exclusive, Through inclusive (0: no bound)
	Since, Until                     time.Time // Since inclusive, Until exclusive
	Newest                           bool      // newest first
	Limit                            int       // 0: 1,000
}
