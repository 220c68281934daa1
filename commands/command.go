package commands

import (
	"context"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/domain"
)

// Verb of a command, in the API's words.
type Verb string

// Verbs.
const (
	Create Verb = "create"
	Update Verb = "update"
	Patch  Verb = "patch"
	Delete Verb = "delete"
)

// Command asks for one change of one object.
type Command struct {
	Verb        Verb
	Resource    schema.GroupVersionResource
	Subresource string // "status", "scale", "binding", "eviction", ...
	Namespace   string
	Name        string // empty for a creation with generateName

	// Object is the wanted object of a Create or Update, of the Go type of the resource's version (or of the subresource:
	// *corev1.Binding). The bus does not change it. An Update whose object has a resourceVersion conflicts unless that is current.
	Object runtime.Object
	// Patch of the given type, for a Patch.
	Patch        []byte
	PatchType    types.PatchType
	FieldManager string
	Force        bool // server-side apply only
	// DeleteOptions (propagation, preconditions, grace period) of a Delete; nil for the defaults.
	DeleteOptions *metav1.DeleteOptions
	DryRun        bool

	// Actor is who asks.
	Actor domain.Actor
	// Cause is the event that made the actor act; nil for a person's request.
	Cause *domain.Cause
	// Correlation joins all that follows from one request; empty starts a new one, or continues the cause's.
	Correlation string
	// Evidence is what the decision rested on (the scheduler's reasons); kept with the event, JSON.
	Evidence json.RawMessage
}

// Result of a command that was carried out.
type Result struct {
	Object   runtime.Object // as it is now, resourceVersion set; for a deletion as it was. Shared: never change it
	Position uint64         // of the event; of the object's last event when nothing had to change
}

// Bus carries commands out. Errors are API statuses (k8s.io/apimachinery/pkg/api/errors): IsConflict, IsNotFound,
// IsAlreadyExists, IsInvalid, IsForbidden and the like.
type Bus interface {
	Do(ctx context.Context, c Command) (Result, error)
}
