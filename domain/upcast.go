package domain

import (
	"fmt"
	"strconv"
	"time"
)

// Record is an event as the log holds it.
type Record struct {
	Type, ID           string
	Data, Metadata     []byte
	Position, Revision uint64
	Created            time.Time
}

// Upcaster makes of a record of one schema version the same record of the next. It is a pure function and does not change what
// it is given.
type Upcaster func(Record) (Record, error)

// upcasters returns the step from each older schema version to the next: the first is from version 1 to 2. There is none as
// long as SchemaVersion is 1.
func upcasters() []Upcaster { return []Upcaster{} }

// upcast brings a record to the current schema version.
func upcast(r Record, steps []Upcaster, current int) (Record, error) {
	version, err := schemaVersion(r.Metadata)
	if err != nil {
		return r, fmt.Errorf("reading event %s (%s) at position %d: %w", r.ID, r.Type, r.Position, err)
	}
	if version < 1 || version > current {
		return r, &UnknownVersionError{ID: r.ID, Type: r.Type, Position: r.Position, Version: version}
	}
	for ; version < current; version++ {
		if r, err = steps[version-1](r); err != nil {
			return r, fmt.Errorf("bringing event %s (%s) at position %d from schema version %d to %d: %w", r.ID, r.Type, r.Position, version, version+1, err)
		}
	}
	return r, nil
}

func schemaVersion(metadata []byte) (int, error) {
	s := scanObject(metadata)
	for {
		k, v, ok := s.next()
		if !ok {
			return 0, fmt.Errorf("%w: it has no schema version", ErrBadEvent)
		}
		if string(k) == wireVersion {
			n, err := strconv.Atoi(string(v))
			if err != nil {
				return 0, fmt.Errorf("%w: schema version %.20q", ErrBadEvent, v)
			}
			return n, nil
		}
	}
}
