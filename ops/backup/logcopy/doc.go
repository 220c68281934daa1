// Package logcopy copies one log into another: into a directory, where everything stands as it stood, or into an EventStoreDB
// server, which gives positions and dates of its own. A copy that was cut off goes on where it ended, which it finds out from the
// target.
package logcopy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/shiplog/shiplog/eventstore"
)

// The kinds of error that a copy ends with, besides those of the logs, tested with errors.Is.
var (
	// ErrForeign says that the target holds something that does not come from the source.
	ErrForeign = errors.New("the target holds something else")
	// ErrDiffers says that what was copied is not what the source holds.
	ErrDiffers = errors.New("the copy differs from the source")
)

// Steps of a copy, as they are reported.
const (
	Looking   = "looking at the target"
	Copying   = "copying"
	Verifying = "verifying"
)

// Progress says where a copy is. Positions are the source's, except while a directory is verified.
type Progress struct {
	Step     string
	At, Head eventstore.Position
}

// Result says what was done.
type Result struct {
	Head    eventstore.Position `json:"head"`    // of the source, when the copy began
	After   eventstore.Position `json:"after"`   // the target had everything up to here
	Copied  uint64              `json:"copied"`  // events
	Fillers uint64              `json:"fillers"` // events that stand for those that the source has forgotten
	// Compared is what was found equal on both sides at the end, events or entries, and Digest their digest: the head's of the hash
	// chain where both logs have the same, and otherwise one over the place and content of each event.
	Compared uint64            `json:"compared"`
	Digest   eventstore.Digest `json:"digest"`
	// SamePositions says that every event has its position and date in the target too.
	SamePositions bool `json:"samePositions"`
}

// Copy copies everything up to the source's head, and verifies it. Nobody else may write to the target meanwhile. Copying again is
// harmless.
func Copy(ctx context.Context, from, to eventstore.Log, progress func(Progress)) (Result, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	head, err := from.Head(ctx)
	if err != nil {
		return Result{}, err
	}
	if target, ok := to.(eventstore.Chained); ok {
		c := &intoChain{to: target, head: head, progress: progress}
		if c.from, ok = from.(eventstore.Chained); ok {
			return c.copyChain(ctx)
		}
		return c.copyEvents(ctx, from)
	}
	c, err := newIntoServer(from, to, head, progress)
	if err != nil {
		return Result{}, err
	}
	return c.run(ctx)
}

// FillerType is the type of an event that stands where the source has forgotten one, so that those after it have their revisions.
// Retention hides it. A "$" begins it, so that readers who did not ask for system events never see it.
const FillerType = "$shiplog-filler"

// foreignStream says whether a stream belongs to an event store server itself: its users, statistics, subscriptions.
func foreignStream(stream string) bool {
	base, _ := eventstore.MetadataOf(stream)
	return strings.HasPrefix(base, "$") || base == ""
}

func isTombstone(e *eventstore.Recorded) bool {
	return e.Type == eventstore.TombstoneType && e.Revision == eventstore.TombstoneRevision
}

func metadataIn(e *eventstore.Recorded) (m eventstore.Metadata, err error) {
	if e.Type != eventstore.MetadataType {
		return m, fmt.Errorf("%s is no metadata", e.Type)
	}
	return m, json.Unmarshal(e.Data, &m)
}
