package eventstore

import (
	"fmt"
	"strings"
)

// FaultKind names what is wrong with a log.
type FaultKind string

// The kinds of fault.
const (
	Changed          FaultKind = "changed"           // an entry is not what was written
	Missing          FaultKind = "missing"           // an entry is gone without a trace
	Inserted         FaultKind = "inserted"          // an entry was put in afterwards
	Reordered        FaultKind = "reordered"         // entries have changed places
	Unindexed        FaultKind = "unindexed"         // the index of a stream and the events disagree
	Misnamed         FaultKind = "misnamed"          // the names of streams and their ids disagree
	WronglyScavenged FaultKind = "wrongly scavenged" // a trace stands where no retention allowed to remove an event
	WrongRetention   FaultKind = "wrong retention"   // what is kept of a stream is not what its metadata says
	Unreadable       FaultKind = "unreadable"        // the storage does not give back what it took
	BadSignature     FaultKind = "bad signature"     // a signed checkpoint was not signed with the key
	Contradicted     FaultKind = "contradicted"      // the log is not what was signed, or expected
	Unsigned         FaultKind = "unsigned"          // signatures are asked for and there are none
)

// Fault is something wrong with a log. Fields that do not apply are zero.
type Fault struct {
	Kind     FaultKind `json:"kind"`
	Position Position  `json:"position,omitempty"`
	Stream   string    `json:"stream,omitempty"`
	Revision uint64    `json:"revision,omitempty"` // meaningful with Stream
	Detail   string    `json:"detail"`
}

func (f Fault) String() string {
	var out strings.Builder
	out.WriteString(string(f.Kind))
	if f.Position > 0 {
		fmt.Fprintf(&out, " at position %d", f.Position)
	}
	if f.Stream != "" {
		fmt.Fprintf(&out, ", revision %d of %q", f.Revision, f.Stream)
	}
	return out.String() + ": " + f.Detail
}
