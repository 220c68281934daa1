package domain

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// ErrNewer is what every error is that says that a log holds what only a newer build understands: *UnknownVersionError and
// *MandatoryEventError, for errors.Is. Nothing may be derived from such a log by this build: whoever meets it stops and says so.
var ErrNewer = errors.New("written by a newer build")

// The facts that the API's trail tells: they change no object.
const (
	RequestRefused = "RequestRefused" // the API said no: 4xx
	RequestFailed  = "RequestFailed"  // the API could not: 5xx
	SecretRead     = "SecretRead"
	SessionOpened  = "SessionOpened" // exec, attach, port-forward, proxy
)

// FactTypes returns the types of all events that change no object.
func FactTypes() []string {
	return []string{RequestRefused, RequestFailed, SecretRead, SessionOpened}
}

// MandatoryEventError says that an event is marked mandatory and that this build does not know its type, or what it does to its
// object. An event is marked so when a build that went by its Op alone, or left it out, would derive something wrong from the log.
type MandatoryEventError struct {
	ID, Type string
	Ref      Ref // as far as it could be read
	Op       Op
	Position uint64
	Revision uint64
}

func (e *MandatoryEventError) Error() string {
	what := "does not know events of that type"
	if !knownOp(e.Op) {
		what = fmt.Sprintf("does not know its operation %q", e.Op)
	}
	return fmt.Sprintf("event %s (%s) at position %d, revision %d of stream %s is mandatory and this build %s: "+
		"whatever it derived from the log would be wrong. Use the build that wrote the log, or a newer one", e.ID, e.Type, e.Position, e.Revision, e.Ref.Stream(), what)
}

// Is makes errors.Is(err, ErrNewer) true.
func (e *MandatoryEventError) Is(target error) bool { return target == ErrNewer }

// checkMandatory refuses an event that must be understood and is not.
func (e *Event) checkMandatory() error {
	if !e.Mandatory || knownOp(e.Op) && knownType(e.Ref.GroupResource(), e.Type) {
		return nil
	}
	return &MandatoryEventError{ID: e.ID, Type: e.Type, Ref: e.Ref, Op: e.Op, Position: e.Position, Revision: e.Revision}
}

func knownOp(op Op) bool { return op == "" || op == Created || op == Changed || op == Deleted }

// knownType says whether this build has a word for such an event: one of the catalogue, or, of a resource that it has no kind for
// (a custom resource), one of those that every kind has.
func knownType(gr Resource, typ string) bool {
	if slices.Contains(FactTypes(), typ) {
		return true
	}
	types, builtIn := catalogue()[gr]
	if builtIn {
		return types[typ]
	}
	return slices.ContainsFunc(genericSuffixes(), func(suffix string) bool { return len(typ) > len(suffix) && strings.HasSuffix(typ, suffix) })
}

func genericSuffixes() []string {
	suffixes := []string{"Created", "Deleted", "Changed"}
	for _, w := range genericWords {
		suffixes = append(suffixes, w.suffix)
	}
	return suffixes
}

// catalogue lists the event types of the built-in kinds. It is made once, at the first mandatory event, and never changes.
var catalogue = sync.OnceValue(func() map[Resource]map[string]bool {
	all := map[Resource]map[string]bool{}
	for _, k := range Kinds() {
		types := map[string]bool{}
		for _, w := range EventTypes(k) {
			types[w.Type] = true
		}
		all[k.GroupResource()] = types
	}
	return all
})
