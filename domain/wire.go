package domain

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// ErrBadEvent says that a record of the log is not one of Shiplog's events, or is damaged.
var ErrBadEvent = errors.New("not an event of Shiplog")

// UnknownVersionError says that an event was written by a newer build.
type UnknownVersionError struct {
	ID, Type string
	Position uint64
	Version  int
}

func (e *UnknownVersionError) Error() string {
	return fmt.Sprintf("event %s (%s) at position %d has schema version %d, this build reads versions 1 to %d: "+
		"use the build that wrote the log, or a newer one", e.ID, e.Type, e.Position, e.Version, SchemaVersion)
}

// Is makes errors.Is(err, ErrNewer) true.
func (e *UnknownVersionError) Is(target error) bool { return target == ErrNewer }

// The names on the wire. They are never derived from names in Go.
const (
	wireRef, wireOp, wireChange, wireEvidence              = "ref", "op", "change", "evidence"
	wireGroup, wireResource, wireNamespace, wireName       = "group", "resource", "namespace", "name"
	wireUID                                                = "uid"
	wireActor, wireCommand, wireTime, wireVersion          = "actor", "command", "time", "version"
	wireCorrelation, wireCausation, wireCausePosition      = "$correlationId", "$causationId", "causePosition"
	wireMandatory                                          = "mandatory"
	wireUser, wireGroups, wireUserAgent, wireSourceIP      = "user", "groups", "userAgent", "sourceIP"
	wireImpersonator                                       = "impersonator"
	wireVerb, wireSubresource, wireRequestID, wireIsDryRun = "verb", "subresource", "requestID", "dryRun"
)

// MarshalEvent writes an event as the log keeps it: what happened to the object in data, who did it and why in metadata, with the
// names that EventStoreDB gives to correlation and causation. Type, id, position and revision are the log's own fields.
func MarshalEvent(e Event) (data, metadata []byte, err error) {
	if e.Version != 0 && e.Version != SchemaVersion {
		return nil, nil, fmt.Errorf("writing an event: %w", &UnknownVersionError{ID: e.ID, Type: e.Type, Version: e.Version})
	}
	if end := skip(e.Change, 0); len(e.Change) > 0 && end != len(e.Change) {
		return nil, nil, fmt.Errorf("writing an event: its change is %w", ErrBadJSON)
	}
	evidence := e.Evidence
	if len(evidence) > 0 {
		if evidence, err = Canonical(evidence); err != nil {
			return nil, nil, fmt.Errorf("writing an event's evidence: %w", err)
		}
	}
	d := wireWriter{out: make([]byte, 0, 192+len(e.Change)+len(evidence))}
	d.head(e)
	d.raw(wireChange, e.Change)
	d.raw(wireEvidence, evidence)
	d.close()

	m := wireWriter{out: make([]byte, 0, 448)}
	m.open("")
	m.text(wireCorrelation, e.Correlation)
	if e.Cause != nil {
		m.text(wireCausation, e.Cause.ID)
		m.number(wireCausePosition, e.Cause.Position)
	}
	m.open(wireActor)
	m.text(wireUser, e.Actor.User)
	m.text(wireUID, e.Actor.UID)
	m.texts(wireGroups, e.Actor.Groups)
	m.text(wireUserAgent, e.Actor.UserAgent)
	m.text(wireSourceIP, e.Actor.SourceIP)
	m.text(wireImpersonator, e.Actor.Impersonator)
	m.close()
	m.open(wireCommand)
	m.text(wireVerb, e.Command.Verb)
	m.text(wireSubresource, e.Command.Subresource)
	m.text(wireRequestID, e.Command.RequestID)
	if e.Command.DryRun {
		m.raw(wireIsDryRun, []byte("true"))
	}
	m.close()
	if !e.Time.IsZero() {
		m.text(wireTime, e.Time.UTC().Format(time.RFC3339Nano))
	}
	m.number(wireVersion, SchemaVersion)
	// What is true of few events comes last, in newer builds too, so that a fold sees at the end of the others that it is not there.
	if e.Mandatory {
		m.raw(wireMandatory, []byte("true"))
	}
	m.close()
	return d.out, m.out, nil
}

// wireWriter writes objects; members without a value are left out.
type wireWriter struct{ out []byte }

// head writes the data of an event as far as it says what was done to which object.
func (w *wireWriter) head(e Event) {
	w.open("")
	w.open(wireRef)
	w.text(wireGroup, e.Ref.Group)
	w.text(wireResource, e.Ref.Resource)
	w.text(wireNamespace, e.Ref.Namespace)
	w.text(wireName, e.Ref.Name)
	w.text(wireUID, string(e.Ref.UID))
	w.close()
	w.text(wireOp, string(e.Op))
}

func (w *wireWriter) key(name string) {
	if w.out[len(w.out)-1] != '{' {
		w.out = append(w.out, ',')
	}
	w.out = append(append(append(w.out, '"'), name...), '"', ':')
}

func (w *wireWriter) open(name string) {
	if name != "" {
		w.key(name)
	}
	w.out = append(w.out, '{')
}

func (w *wireWriter) close() { w.out = append(w.out, '}') }

func (w *wireWriter) text(name, value string) {
	if value != "" {
		w.key(name)
		w.out = appendString(w.out, value)
	}
}

func (w *wireWriter) texts(name string, values []string) {
	if len(values) == 0 {
		return
	}
	w.key(name)
	for i, v := range values {
		w.out = append(w.out, "[,"[min(i, 1)])
		w.out = appendString(w.out, v)
	}
	w.out = append(w.out, ']')
}

func (w *wireWriter) number(name string, value uint64) {
	if value != 0 {
		w.key(name)
		w.out = strconv.AppendUint(w.out, value, 10)
	}
}

func (w *wireWriter) raw(name string, value []byte) {
	if len(value) > 0 {
		w.key(name)
		w.out = append(w.out, value...)
	}
}

// UnmarshalEvent reads a record of the log. position, revision and created are what the log says of it. The event shares memory
// with data. An event of an older schema is read through the upcasters; one of a newer gives an *UnknownVersionError, one that is
// mandatory and that this build does not know a *MandatoryEventError (both are ErrNewer), anything that is not an event ErrBadEvent.
func UnmarshalEvent(typ, id string, data, metadata []byte, position, revision uint64, created time.Time) (Event, error) {
	r := Record{Type: typ, ID: id, Data: data, Metadata: metadata, Position: position, Revision: revision, Created: created}
	r, err := upcast(r, upcasters(), SchemaVersion)
	if err != nil {
		return Event{}, err
	}
	e, err := r.event()
	if newer := e.checkMandatory(); newer != nil { // whatever else of it could not be read
		return Event{}, newer
	}
	if err != nil {
		return Event{}, fmt.Errorf("reading event %s (%s) at position %d: %w", id, typ, position, err)
	}
	return e, nil
}

// event reads a record of the current schema. With an error it returns what could be read.
func (r Record) event() (Event, error) {
	e := Event{ID: r.ID, Type: r.Type, Position: r.Position, Revision: r.Revision, Time: r.Created.UTC(), Version: SchemaVersion}
	w := wireReader{}
	w.object(r.Data, func(key string, v []byte) { w.dataField(&e, key, v) })
	w.object(r.Metadata, func(key string, v []byte) {
		switch key {
		case wireCorrelation:
			e.Correlation = w.text(v)
		case wireCausation:
			e.cause().ID = w.text(v)
		case wireCausePosition:
			e.cause().Position = w.number(v)
		case wireActor:
			w.object(v, func(key string, v []byte) { w.actorField(&e.Actor, key, v) })
		case wireCommand:
			w.object(v, func(key string, v []byte) { w.commandField(&e.Command, key, v) })
		case wireTime:
			t, err := time.Parse(time.RFC3339Nano, w.text(v))
			w.check(err)
			e.Time = t.UTC()
		case wireMandatory:
			e.Mandatory = string(v) == "true"
		}
	})
	switch {
	case w.err != nil:
		return e, fmt.Errorf("%w: %w", ErrBadEvent, w.err)
	case e.Ref.Resource == "" || e.Ref.Name == "":
		return e, fmt.Errorf("%w: it names no object", ErrBadEvent)
	}
	return e, nil
}

func (e *Event) cause() *Cause {
	if e.Cause == nil {
		e.Cause = &Cause{}
	}
	return e.Cause
}

// wireReader reads members by their names; what it does not know it leaves alone. The first error stays.
type wireReader struct{ err error }

func (w *wireReader) check(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *wireReader) object(data []byte, member func(key string, value []byte)) {
	s := scanObject(data)
	for {
		k, v, ok := s.next()
		if !ok {
			break
		}
		member(string(k), v)
	}
	if s.bad || s.i != len(data)-1 {
		w.check(fmt.Errorf("%w: an object expected, got %s", ErrBadJSON, sortOf(data)))
	}
}

func (w *wireReader) text(v []byte) string {
	if len(v) >= 2 && v[0] == '"' {
		plain := true
		for _, b := range v[1 : len(v)-1] {
			plain = plain && b != '\\'
		}
		if plain {
			return string(v[1 : len(v)-1])
		}
	}
	var s string
	w.check(json.Unmarshal(v, &s))
	return s
}

// word reads a text that is nearly always one of a few, which then costs no memory.
func (w *wireReader) word(v []byte) string {
	for _, known := range knownWords {
		if len(v) == len(known)+2 && string(v[1:len(v)-1]) == known {
			return known
		}
	}
	return w.text(v)
}

var knownWords = [...]string{string(Created), string(Changed), string(Deleted), "create", "update", "patch", "delete", "status"}

func (w *wireReader) number(v []byte) uint64 {
	n, err := strconv.ParseUint(string(v), 10, 64)
	w.check(err)
	return n
}

func (w *wireReader) dataField(e *Event, key string, v []byte) {
	switch key {
	case wireRef:
		w.object(v, func(key string, v []byte) { w.refField(&e.Ref, key, v) })
	case wireOp:
		e.Op = Op(w.word(v))
	case wireChange:
		e.Change = v
	case wireEvidence:
		e.Evidence = v
	}
}

func (w *wireReader) refField(r *Ref, key string, v []byte) {
	switch key {
	case wireGroup:
		r.Group = w.text(v)
	case wireResource:
		r.Resource = w.text(v)
	case wireNamespace:
		r.Namespace = w.text(v)
	case wireName:
		r.Name = w.text(v)
	case wireUID:
		r.UID = types.UID(w.text(v))
	}
}

func (w *wireReader) actorField(a *Actor, key string, v []byte) {
	switch key {
	case wireUser:
		a.User = w.text(v)
	case wireUID:
		a.UID = w.text(v)
	case wireGroups:
		list, ok := elements(v)
		if !ok {
			w.check(fmt.Errorf("%w: a list of groups expected, got %s", ErrBadJSON, sortOf(v)))
			return
		}
		a.Groups = make([]string, len(list))
		for i := range list {
			a.Groups[i] = w.text(list[i])
		}
	case wireUserAgent:
		a.UserAgent = w.text(v)
	case wireSourceIP:
		a.SourceIP = w.text(v)
	case wireImpersonator:
		a.Impersonator = w.text(v)
	}
}

func (w *wireReader) commandField(c *CommandInfo, key string, v []byte) {
	switch key {
	case wireVerb:
		c.Verb = w.word(v)
	case wireSubresource:
		c.Subresource = w.word(v)
	case wireRequestID:
		c.RequestID = w.text(v)
	case wireIsDryRun:
		c.DryRun = string(v) == "true"
	}
}
