package domain

import (
	"encoding/json"
	"time"
)

// SchemaVersion is the version of the envelope that this build writes. Older versions are read through upcasters.
const SchemaVersion = 1

// Op says what an event does to the object that it concerns.
type Op string

// The three things that can happen to an object.
const (
	Created Op = "created" // Change holds the whole object
	Changed Op = "changed" // Change holds an exact delta (see Diff) against the object before
	Deleted Op = "deleted" // Change is empty, or an exact delta to the object's last state
)

// Event is one immutable change of one object, or (Op empty) a fact about the cluster that changes none, such as a refused
// request. Position and Revision are given by the log when the event is appended.
type Event struct {
	ID   string `json:"id"`   // UUID
	Type string `json:"type"` // a past-tense word of the field: PodCreated, DeploymentScaled
	Ref  Ref    `json:"ref"`
	Op   Op     `json:"op,omitempty"`
	// Change is the whole object in canonical JSON for a creation, a delta afterwards. It never holds a resourceVersion: an
	// object's resourceVersion is the position of its last event.
	Change json.RawMessage `json:"change,omitempty"`

	Actor       Actor           `json:"actor"`
	Command     CommandInfo     `json:"command"`
	Correlation string          `json:"correlation"`     // the same for all events that follow from one request; UUID
	Cause       *Cause          `json:"cause,omitempty"` // the event that made a component act; nil for a person's request
	Evidence    json.RawMessage `json:"evidence,omitempty"`
	Time        time.Time       `json:"time"` // UTC
	Version     int             `json:"version"`
	// Mandatory marks an event that must not be folded by a build that does not know its type: see MandatoryEventError.
	Mandatory bool `json:"mandatory,omitempty"`

	Position uint64 `json:"position,omitempty"` // place in the whole log, from 1
	Revision uint64 `json:"revision,omitempty"` // place in the object's stream, from 0
}

// Actor is the user or component that asked for a change, or in whose name it was asked for.
type Actor struct {
	User      string   `json:"user"`
	UID       string   `json:"uid,omitempty"`
	Groups    []string `json:"groups,omitempty"`
	UserAgent string   `json:"userAgent,omitempty"`
	SourceIP  string   `json:"sourceIP,omitempty"`
	// Impersonator is the authenticated user who asked in User's name; empty when that was User.
	Impersonator string `json:"impersonator,omitempty"`
}

// CommandInfo says what was asked for.
type CommandInfo struct {
	Verb        string `json:"verb"` // create, update, patch, delete
	Subresource string `json:"subresource,omitempty"`
	RequestID   string `json:"requestID,omitempty"`
	DryRun      bool   `json:"dryRun,omitempty"`
}

// Cause points at the event that made a component act.
type Cause struct {
	ID       string `json:"id"`
	Position uint64 `json:"position"`
}
