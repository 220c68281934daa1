package eventstore

import (
	"errors"
	"fmt"
)

// The kinds of error that a Log returns, tested with errors.Is.
var (
	ErrStreamNotFound = errors.New("stream not found")
	ErrStreamDeleted  = errors.New("stream deleted for good")
	ErrNotLeader      = errors.New("not the leader")
	ErrTooLarge       = errors.New("event too large")
	ErrUnavailable    = errors.New("event store unavailable")
	ErrClosed         = errors.New("event store closed")
	ErrDropped        = errors.New("subscription dropped")
	ErrReadOnly       = errors.New("event store takes no writes")
	ErrDenied         = errors.New("event store refuses access")
	ErrCorrupt        = errors.New("event store damaged")
	ErrLocked         = errors.New("event store in use by another process")
	ErrVersion        = errors.New("event store written by another version")
	// ErrWrongExpectedRevision is what every WrongExpectedRevisionError is, for errors.Is.
	ErrWrongExpectedRevision = errors.New("wrong expected revision")
)

// WrongExpectedRevisionError says that a stream is not where the writer expected it.
type WrongExpectedRevisionError struct {
	Stream   string
	Expected Expected
	Actual   Expected // the last revision, or NoStream
}

func (e *WrongExpectedRevisionError) Error() string {
	return fmt.Sprintf("appending to %s: expected revision %d, stream is at %d", e.Stream, e.Expected, e.Actual)
}

// Is makes errors.Is(err, ErrWrongExpectedRevision) true.
func (e *WrongExpectedRevisionError) Is(target error) bool { return target == ErrWrongExpectedRevision }
