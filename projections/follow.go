package projections

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/domain"
)

// Live is the current state of the cluster and the stream of its changes, as package live keeps it.
type Live interface {
	// Snapshot returns the state as of the last event applied, in constant time.
	Snapshot() Reader
	// WaitFor blocks until the state reflects a position, so that a client that wrote sees its write.
	WaitFor(ctx context.Context, position uint64) error
	// Follow delivers every change after a position, of the given resources (none: of all), from the buffer of recent changes.
	// ErrTooOld says that the buffer no longer holds them: start again from a Snapshot, or read the log.
	Follow(after uint64, resources ...domain.Resource) (Follower, error)
	// Expect lends the typed form of the object that an event about to be appended leads to, so that it need not be decoded
	// again. The object must never change afterwards; a hint for an event that never comes is forgotten.
	Expect(eventID string, typed runtime.Object)
}

// Follower delivers changes in the order of the log. It is used by one goroutine. A slow follower never holds up others: one
// that falls behind the buffer gets ErrTooOld.
type Follower interface {
	// Next blocks for the next changes. The position is the one up to which everything has been delivered; changes may be
	// empty when only the position moved on.
	Next(ctx context.Context) (changes []Change, position uint64, err error)
	Close()
}

// Change is one event with the object before and after it: Before is nil for a creation, After for a deletion.
type Change struct {
	Event  domain.Event
	Before *Object
	After  *Object
}
