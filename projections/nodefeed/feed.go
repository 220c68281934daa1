// Package nodefeed tells a node what concerns it, and nothing else: its pods, what they refer to (secrets, config maps,
// service accounts, claims and their volumes), its own Node object, and namespaces, services, endpoint slices, network policies
// and runtime classes, which every node needs. Wanted is the definition; Source leads to it step by step.
//
// A source follows the live view once for all feeds and works out once what is the same for all nodes. A feed that is opened
// after a position goes on from there, as long as the live view has the changes since; the node may have been cut off in the middle
// of a step. Else it starts with a Reset.
//
// Copy is the receiving side, Store its file on the node, MarshalItem and UnmarshalItem the form on the wire and in the file.
package nodefeed

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/domain"
)

// Op of an item.
type Op string

// What an item does to the node's copy.
const (
	// Put adds or replaces an object.
	Put Op = "put"
	// Delete says that an object is gone, or no longer concerns the node.
	Delete Op = "delete"
	// Reset starts a full copy: forget everything that is not put again before the next Synced.
	Reset Op = "reset"
	// Synced says that the node's copy is complete as of Position.
	Synced Op = "synced"
)

// Item is one step of a feed.
type Item struct {
	Op       Op             `json:"op"`
	Position uint64         `json:"position"` // a checkpoint to resume from once the item is applied
	Ref      domain.Ref     `json:"ref,omitzero"`
	Object   runtime.Object `json:"-"` // typed; on the wire it is JSON, told apart by Ref
	EventID  string         `json:"eventID,omitempty"`
}

// Stream delivers items in order. It is used by one goroutine.
type Stream interface {
	// Next blocks for the next items. After an error the stream is over: open another from the last position.
	Next(ctx context.Context) ([]Item, error)
	Close() error
}

// Source opens feeds: in the control plane's process over the live view, elsewhere over HTTP.
type Source interface {
	// Open starts the feed of a node after a position; 0, or a position too old to resume from, starts with a Reset.
	Open(ctx context.Context, node string, after uint64) (Stream, error)
}
