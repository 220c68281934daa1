package controllers

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Key names what a controller looks at in one go: most often an object of its main kind, UID left empty. The runtime never
// reconciles one key of one controller twice at the same time.
type Key = domain.Ref

// Controller decides. It holds no client, starts nothing, and keeps nothing between two calls; all of its methods may be called
// by several goroutines.
type Controller interface {
	// Name is the controller's service account in kube-system, in the form "replicaset-controller".
	Name() string
	// Inputs are the kinds whose changes concern the controller.
	Inputs() []Input
	// Outputs are the field sets that it writes. No two controllers may write the same one.
	Outputs() []Output
	// Reconcile decides what to do about a key. It is a function of its arguments: no clock, no randomness, no IO. An error
	// means that it could not decide; the key is retried with back-off.
	Reconcile(view projections.Reader, key Key, now time.Time) (Decision, error)
}

// Starter is a Controller that judges how long ago something happened, such as a node's last sign of life. What happened while
// nobody looked must not count: Started returns the controller as it is for a runtime that began to lead at a time.
type Starter interface {
	Started(at time.Time) Controller
}

// Input says which keys a change of a resource concerns.
type Input struct {
	// Resource whose changes are looked at; AnyResource for all.
	Resource domain.Resource
	// Keys returns the keys that a change concerns. The view reflects the change, and maybe later ones. nil: the changed
	// object itself. It is also called for each object there is when the runtime starts: Event then holds a reference, the
	// operation domain.Created and the position of the object's last event, and Before is nil.
	Keys func(view projections.Reader, c projections.Change) []Key
	// Why says in a few words what the input is for; it labels the edge in the graph.
	Why string
}

// AnyResource is the Resource of an Input that sees the changes of every kind.
var AnyResource = domain.Resource{Resource: "*"}

// Output claims a set of fields of a set of objects.
type Output struct {
	Resource domain.Resource
	// Of narrows the claim to some objects of the resource, in words: "owned by replicasets.apps". Claims on the same
	// resource with different words are held to be disjoint; an empty Of is all objects.
	Of string
	// Fields that the controller alone writes, as paths: "status", "status.conditions[Ready]", "metadata.finalizers". A path
	// holds everything below it.
	Fields []string
	// Creates says that the controller, and no other, creates these objects.
	Creates bool
	// Deletes says that the controller deletes such objects. Deleting is not exclusive: deleted is deleted.
	Deletes bool
}

// Decision is what a controller wants done. The zero value is: nothing, and look again when something changes.
type Decision struct {
	// Commands do not depend on one another and are carried out concurrently, in no order. The runtime fills in Actor and,
	// where they are empty, Cause and Correlation.
	Commands []commands.Command
	// Careful sends the commands in batches of 1, 2, 4 and so on, and none after a batch in which one failed: for many
	// creations that are likely to fail for the same reason, such as a quota.
	Careful bool
	// Then is called when all commands have ended, and its decision is carried out as well. It is as pure as Reconcile.
	Then func(outcomes []Outcome) Decision
	// Again is the time to look again, whatever happens; zero: only when something changes.
	Again time.Time
	// Settle is the least time until the key is reconciled again, however much changes meanwhile: it bounds what following
	// a large object costs.
	Settle time.Duration
	// Events are core Events for the user to read, recorded after the commands.
	Events []Event
}

// Outcome is what became of a command. Err is an API status, or ErrSkipped.
type Outcome struct {
	Command commands.Command
	Result  commands.Result
	Err     error
}

// Event is a core Event about an object, as shown by kubectl describe.
type Event struct {
	About   corev1.ObjectReference
	Type    string // corev1.EventTypeNormal or EventTypeWarning
	Reason  string // "SuccessfulCreate"
	Message string
}
