// Package contract is the suite that every implementation of eventstore.Log passes, and the promises of a log as errors that
// a checker reports over a recorded history.
package contract

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// patience bounds how long a test waits for something that must happen.
const patience = 2 * time.Minute

// Run runs the suite, and for a log that is eventstore.Chained what that promises. open returns a new, empty log each time and has t
// close it.
func Run(t *testing.T, open func(t *testing.T) eventstore.Log) {
	for _, part := range []struct {
		name  string
		tests []test
	}{
		{"append", appendTests},
		{"idempotence", idempotenceTests},
		{"read", readTests},
		{"metadata", metadataTests},
		{"delete", deleteTests},
		{"subscribe", subscribeTests},
		{"promises", promiseTests},
		{"times", timeTests},
		{"ends", endTests},
	} {
		t.Run(part.name, func(t *testing.T) {
			for _, test := range part.tests {
				t.Run(test.name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					test.run(ctx, t, open(t))
				})
			}
		})
	}
	t.Run("chain", func(t *testing.T) { runChain(t, open) })
}

type test struct {
	name string
	run  func(ctx context.Context, t *testing.T, log eventstore.Log)
}

func event(typ, data string) eventstore.Proposed {
	encoded, err := json.Marshal(data)
	if err != nil {
		panic(fmt.Sprintf("contract: encoding %q: %v", data, err))
	}
	return eventstore.Proposed{ID: uuid.New(), Type: typ, ContentType: "application/json", Data: encoded}
}

// events returns n different events.
func events(n int) []eventstore.Proposed {
	out := make([]eventstore.Proposed, n)
	for i := range out {
		out[i] = event("Counted", fmt.Sprint(i))
	}
	return out
}

func mustAppend(ctx context.Context, t *testing.T, log eventstore.Log, stream string, expected eventstore.Expected, events ...eventstore.Proposed) eventstore.Appended {
	t.Helper()
	a, err := log.Append(ctx, stream, expected, events...)
	if err != nil {
		t.Fatalf("appending %d events to %s: %v", len(events), stream, err)
	}
	return a
}

func collect(events iter.Seq2[eventstore.Recorded, error]) ([]eventstore.Recorded, error) {
	var out []eventstore.Recorded
	for e, err := range events {
		if err != nil {
			return out, err
		}
		out = append(out, e)
	}
	return out, nil
}

func mustCollect(t *testing.T, events iter.Seq2[eventstore.Recorded, error]) []eventstore.Recorded {
	t.Helper()
	out, err := collect(events)
	if err != nil {
		t.Fatalf("reading: %v", err)
	}
	return out
}

// everything reads the whole log, system events included.
func everything(ctx context.Context, t *testing.T, log eventstore.Log) []eventstore.Recorded {
	t.Helper()
	return mustCollect(t, log.ReadAll(ctx, eventstore.ReadAll{Filter: eventstore.Filter{System: true}}))
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want one that is %q", err, want)
	}
}

// wantConflict wants a conflict that tells where the stream is.
func wantConflict(t *testing.T, err error, stream string, expected, actual eventstore.Expected) {
	t.Helper()
	wantErr(t, err, eventstore.ErrWrongExpectedRevision)
	var got *eventstore.WrongExpectedRevisionError
	if !errors.As(err, &got) {
		t.Fatalf("got error %v, want a WrongExpectedRevisionError", err)
	}
	want := &eventstore.WrongExpectedRevisionError{Stream: stream, Expected: expected, Actual: actual}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("conflict differs (-want +got):\n%s", diff)
	}
}

// wantRevisions wants events with these revisions, in this order.
func wantRevisions(t *testing.T, events []eventstore.Recorded, revisions ...uint64) {
	t.Helper()
	got := make([]uint64, 0, len(events))
	for _, e := range events {
		got = append(got, e.Revision)
	}
	if diff := cmp.Diff(append([]uint64{}, revisions...), got); diff != "" {
		t.Fatalf("revisions differ (-want +got):\n%s", diff)
	}
}

// upTo returns from, from+1, ... below to.
func upTo(from, to uint64) []uint64 {
	var out []uint64
	for ; from < to; from++ {
		out = append(out, from)
	}
	return out
}

func backwards(revisions []uint64) []uint64 {
	out := make([]uint64, 0, len(revisions))
	for i := len(revisions) - 1; i >= 0; i-- {
		out = append(out, revisions[i])
	}
	return out
}
