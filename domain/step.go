package domain

import "bytes"

// currentVersion is how the metadata of an event of this schema ends, if nothing is special about it: see MarshalEvent.
const currentVersion = `"` + wireVersion + `":1}`

// Whoever raises SchemaVersion finds the constant above: this does not compile then.
var _ = [1]struct{}{}[SchemaVersion-1]

// Known is what a reader of a stream knows of its next event: most likely it changes the object that those before have changed. The
// zero Known expects nothing.
type Known struct {
	Ref  Ref
	head []byte // what MarshalEvent writes of such an event ahead of its change; made when it is first looked for
}

// changeIn returns the data of a record from the change on that it makes of the known object, if that is what the record says and if
// it has nothing special.
func (k *Known) changeIn(r Record) (change []byte, ok bool) {
	if k.head == nil {
		if k.Ref.Name == "" {
			return nil, false
		}
		w := wireWriter{}
		w.head(Event{Ref: k.Ref, Op: Changed})
		w.key(wireChange)
		k.head = w.out
	}
	if !bytes.HasPrefix(r.Data, k.head) || !bytes.HasSuffix(r.Metadata, []byte(currentVersion)) {
		return nil, false
	}
	return r.Data[len(k.head):], true
}

// Brief reads of a record only what happened to which object, which is all that a fold needs: neither who did it nor when nor why. ok is
// false when the record has to be read whole, by UnmarshalEvent, which says what is special about it.
func (r Record) Brief() (e Event, ok bool) {
	if !bytes.HasSuffix(r.Metadata, []byte(currentVersion)) {
		return Event{}, false
	}
	e = Event{Type: r.Type, Position: r.Position, Revision: r.Revision, Version: SchemaVersion}
	w := wireReader{}
	w.object(r.Data, func(key string, v []byte) { w.dataField(&e, key, v) })
	return e, w.err == nil && e.Ref.Resource != "" && e.Ref.Name != ""
}
