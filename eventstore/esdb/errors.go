package esdb

import (
	"errors"
	"fmt"
	"strings"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"github.com/shiplog/shiplog/eventstore"
)

// errBroken marks an ErrUnavailable after which the client is of no more use.
var errBroken = fmt.Errorf("%w: the connection is lost", eventstore.ErrUnavailable)

// errElsewhere is an ErrNotLeader that is cured by trying again: the client is on its way to the leader.
var errElsewhere = fmt.Errorf("%w: %w", eventstore.ErrUnavailable, eventstore.ErrNotLeader)

// errLeaderless is an ErrNotLeader of a cluster that is between two leaders, as far as this node knows.
var errLeaderless = fmt.Errorf("%w: %w", errBroken, eventstore.ErrNotLeader)

// kindOf gives an error of the client the kind that the contract knows, and keeps what the client said.
func kindOf(err error) error {
	switch kind := kindOfCode(err); kind {
	case nil:
		return err
	case eventstore.ErrStreamDeleted, eventstore.ErrStreamNotFound:
		return kind // the caller says which stream
	default:
		return fmt.Errorf("%w: %w", kind, err)
	}
}

// kindOfCode is the kind of an error of the client; nil when it says all there is to say itself.
func kindOfCode(err error) error {
	text := err.Error()
	var known *esdb.Error
	if !errors.As(err, &known) {
		return kindOfText(text)
	}
	switch known.Code() {
	case esdb.ErrorCodeStreamDeleted:
		return eventstore.ErrStreamDeleted
	case esdb.ErrorCodeResourceNotFound:
		return eventstore.ErrStreamNotFound
	case esdb.ErrorCodeNotLeader:
		return errElsewhere
	case esdb.ErrorCodeConnectionClosed:
		return errBroken
	case esdb.ErrorUnavailable:
		if leaderless(text) {
			return errLeaderless
		}
		return errBroken
	case esdb.ErrorAborted, esdb.ErrorCodeDeadlineExceeded:
		return eventstore.ErrUnavailable
	case esdb.ErrorCodeUnauthenticated:
		return eventstore.ErrDenied
	case esdb.ErrorCodeAccessDenied:
		if strings.Contains(text, eventstore.ErrReadOnly.Error()) {
			return eventstore.ErrReadOnly
		}
		return eventstore.ErrDenied
	}
	return kindOfText(text)
}

// kindOfText finds kinds that the client has no code for, by the status that gRPC puts into the text.
func kindOfText(text string) error {
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("Maximum Append Size", "code = ResourceExhausted"):
		return eventstore.ErrTooLarge
	case has("code = DataLoss"):
		return eventstore.ErrCorrupt
	case leaderless(text):
		return errLeaderless
	case has("code = Unavailable"):
		return errBroken
	case has("code = Canceled", "EOF", "transport", "code = Aborted", "code = DeadlineExceeded", "code = Internal"):
		// Giving up a connection cancels the calls of others, and a connection that breaks in the middle of a message is an
		// internal error to gRPC. They are free to try again.
		return eventstore.ErrUnavailable
	}
	return nil
}

// leaderless says whether a server said that it knows of no leader: EventStoreDB's words, our server's, and those of our error.
func leaderless(text string) bool {
	return strings.Contains(text, "No leader info") || strings.Contains(text, "there is no leader") || strings.Contains(text, eventstore.ErrNotLeader.Error())
}
