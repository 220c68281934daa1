package contract

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// Each promise is seen to be broken by the history that breaks it, and by nothing else.
func TestHistoryCheck(t *testing.T) {
	log := record(1, 2, 3, 4) // appended as 1, 2+3, 4
	ids := func(events ...eventstore.Recorded) (out []uuid.UUID) {
		for _, e := range events {
			out = append(out, e.ID)
		}
		return out
	}
	first := &attempt{stream: "s", expected: eventstore.NoStream, ids: ids(log[0]), began: 1, ended: 2, result: eventstore.Appended{Position: 1, Revision: 0}}
	second := &attempt{stream: "s", expected: 0, ids: ids(log[1], log[2]), began: 3, ended: 4, result: eventstore.Appended{Position: 3, Revision: 2}}
	third := &attempt{stream: "s", expected: eventstore.Any, ids: ids(log[3]), began: 5, ended: 8, result: eventstore.Appended{Position: 4, Revision: 3}}
	all := []*attempt{first, second, third}
	other := uuid.NewSHA1(uuid.Nil, []byte("other"))
	conflict := func(expected, actual eventstore.Expected) *attempt {
		return &attempt{
			stream: "s", expected: expected, ids: []uuid.UUID{other}, began: 6, ended: 7,
			err: &eventstore.WrongExpectedRevisionError{Stream: "s", Expected: expected, Actual: actual},
		}
	}
	with := func(more ...*attempt) []*attempt { return append(slices.Clone(all), more...) }
	read := func(began int, events ...eventstore.Recorded) *reading {
		return &reading{opts: eventstore.ReadAll{}, began: began, ended: began + 1, events: events}
	}
	backwards := func(limit int, events ...eventstore.Recorded) *reading {
		return &reading{opts: eventstore.ReadAll{Direction: eventstore.Backwards, FromEnd: true, Limit: limit}, began: 9, ended: 10, events: events}
	}
	changed := log[1]
	changed.Type = "B"
	early := slices.Clone(log)
	early[0].Created = time.Unix(5, 0)
	foreign := record(9)[0]
	for _, c := range []struct {
		name    string
		log     []eventstore.Recorded
		appends []*attempt
		read    *reading
		want    error
	}{
		{"sound", log, all, read(9, log...), nil},
		{"a write that was under way need not be seen", log, all, read(6, log[:3]...), nil},
		{"a write that was under way may be seen", log, all, read(6, log...), nil},
		{"backwards", log, all, backwards(0, log[3], log[2], log[1], log[0]), nil},
		{"a limited read", log, all, backwards(2, log[3], log[2]), nil},
		{"an open outcome that came to nothing", log, with(&attempt{stream: "s", ids: []uuid.UUID{other}, err: eventstore.ErrUnavailable}), nil, nil},
		{"an open outcome that was made", log, []*attempt{first, second, {stream: "s", expected: 2, ids: ids(log[3]), err: eventstore.ErrUnavailable}}, nil, nil},
		{"a justified conflict", log, with(conflict(1, 2)), nil, nil},
		{"acknowledged and lost", log[:3], all, nil, ErrLost},
		{"refused and there", log, []*attempt{first, {stream: "s", expected: 7, ids: ids(log[1], log[2]), err: &eventstore.WrongExpectedRevisionError{Actual: 0}}, third}, nil, ErrPhantom},
		{"half an append", []eventstore.Recorded{log[0], log[1]}, []*attempt{first, {stream: "s", ids: ids(log[1], log[2]), err: eventstore.ErrUnavailable}}, nil, ErrHalf},
		{"half an append read", log, all, read(4, log[:2]...), ErrHalf},
		{"not seen by a later read", log, all, read(5, log[0]), ErrStale},
		{"seen and not there", log, all, read(9, append(slices.Clone(log), foreign)...), ErrPhantom},
		{"seen and changed", log, all, read(9, log[0], changed, log[2], log[3]), ErrChanged},
		{"seen twice", log, all, read(9, log[0], log[1], log[1], log[2], log[3]), ErrNotUnique},
		{"seen in disorder", log, all, backwards(0, log[3], log[1], log[2], log[0]), ErrUnordered},
		{"an append where it was not expected", log, []*attempt{first, {stream: "s", expected: 7, ids: ids(log[1], log[2]), ended: 4, result: second.result}, third}, nil, ErrUnchecked},
		{"a conflict that is none", log, with(conflict(2, 2)), nil, ErrUnjustified},
		{"a conflict with what the stream was long ago", log, with(conflict(2, 0)), nil, ErrStale},
		{"a conflict with what the stream never was", log, with(conflict(2, 77)), nil, ErrPhantom},
		{"a date before an earlier one", early, all, nil, ErrTimeWentBack},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &History{appends: c.appends}
			if c.read != nil {
				h.reads = []*reading{c.read}
			}
			checkBroken(t, h.Check(c.log), c.want)
		})
	}
}

// A hole in what was read is one, whoever wrote what is missing.
func TestHistoryCheckFindsHoles(t *testing.T) {
	log := record(1, 2, 3)
	h := &History{reads: []*reading{{events: []eventstore.Recorded{log[0], log[2]}}}}
	if err := h.Check(log); !errors.Is(err, ErrIncomplete) {
		t.Errorf("got %v, want %v", err, ErrIncomplete)
	}
}
