package domain

import (
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Kind describes one resource kind: everything that the machine must know of it stands here, and the API server, the
// projections, GraphQL, the CLI and the tests range over the one list of kinds (see Kinds).
type Kind struct {
	Group    string // "" for the core group
	Version  string // the version in which the log and the read models keep objects
	Kind     string // "Pod"
	Resource string // "pods"

	ShortNames []string // as kubectl knows them: "po"
	Namespaced bool
	// New returns an empty typed object of Version.
	New func() runtime.Object
	// Indexes are the ways in which the read models can look objects up besides by name. Every kind has the index OwnerIndex.
	Indexes []Index
	// Words name the changes of this kind that the field has a word for. The first that matches names the event; when none
	// does, the words that every kind has are tried (see EventType).
	Words []Word
	// Retention bounds the streams of kinds whose past nobody needs. The zero value keeps everything. The events of a bounded
	// stream hold whole objects, because what a delta builds on may be gone (see Delta).
	Retention Retention
	// Sealed are the fields that the log, the read models and the snapshots hold as ciphertext only (see Seal): paths of members.
	// Empty for nearly all kinds; the operator may name more (see SealFields).
	Sealed []Path
}

// GroupResource returns the collection's name.
func (k *Kind) GroupResource() Resource { return Resource{Group: k.Group, Resource: k.Resource} }

// GroupVersionKind returns the kind's name with the version kept in the log.
func (k *Kind) GroupVersionKind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

// GroupVersionResource returns the resource's name with the version kept in the log.
func (k *Kind) GroupVersionResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.Group, Version: k.Version, Resource: k.Resource}
}

// Ref makes a reference to an object of this kind.
func (k *Kind) Ref(namespace, name string) Ref {
	return Ref{Group: k.Group, Resource: k.Resource, Namespace: namespace, Name: name}
}

// Index is a named function from a typed object to the values under which it can be found.
type Index struct {
	Name   string
	Values func(obj runtime.Object) []string
}

// The indexes that more than one room asks for by name.
const (
	OwnerIndex    = "owner"    // metadata.ownerReferences[*].uid; every kind has it
	NodeIndex     = "node"     // pods: spec.nodeName, "" for those that are not bound
	RefersIndex   = "refers"   // pods: what they need, as "secrets/<name>", "configmaps/<name>", "persistentvolumeclaims/<name>", "serviceaccounts/<name>", all of the pod's namespace
	ServiceIndex  = "service"  // endpoint slices: "<namespace>/<name>" of the service that they belong to
	InvolvedIndex = "involved" // events: involvedObject.uid
	ParentIndex   = "parent"   // IP addresses: "<namespace>/<name>" of the service that holds them
	ClaimIndex    = "claim"    // persistent volumes: "<namespace>/<name>" of the claim that they are bound to
)

// Word names a change. Match sees the typed objects before and after; before is nil for a creation, after for a deletion.
type Word struct {
	Type  string // "PodBound"
	Doc   string // one sentence, for the event catalogue
	Match func(before, after runtime.Object) bool
}

// Retained says whether the stream of this kind is bounded, so that its older events may be gone.
func (k *Kind) Retained() bool { return k.Retention != (Retention{}) }

// Retention bounds a stream. Zero fields do not bound.
type Retention struct {
	MaxCount uint64
	MaxAge   time.Duration
}
