package contract

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/eventstore"
)

var appendTests = []test{
	{"a new stream begins at revision 0, the log at position 1 or later", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		for i, expected := range []eventstore.Expected{eventstore.NoStream, eventstore.Any} {
			a := mustAppend(ctx, t, log, fmt.Sprintf("s-%d", i), expected, event("A", ""))
			if a.Revision != 0 || a.Position < 1 {
				t.Errorf("expecting %d: got %+v", expected, a)
			}
		}
	}},
	{"each expectation that is met lets the append through", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.NoStream, events(3)...)
		for i, expected := range []eventstore.Expected{eventstore.Exact(2), eventstore.Any, eventstore.StreamExists, eventstore.Exact(5)} {
			if a := mustAppend(ctx, t, log, "s", expected, event("A", "")); a.Revision != uint64(3+i) {
				t.Errorf("expecting %d: got %+v", expected, a)
			}
		}
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})), upTo(0, 7)...)
	}},
	{"each expectation that is not met is a conflict that tells the actual revision", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.NoStream, events(3)...)
		for _, c := range []struct {
			stream           string
			expected, actual eventstore.Expected
		}{
			{"s", eventstore.NoStream, 2},
			{"s", eventstore.Exact(1), 2},
			{"s", eventstore.Exact(0), 2},
			{"s", eventstore.Exact(3), 2},
			{"s", eventstore.Exact(1000), 2},
			{"none", eventstore.StreamExists, eventstore.NoStream},
			{"none", eventstore.Exact(0), eventstore.NoStream},
			{"none", eventstore.Exact(7), eventstore.NoStream},
		} {
			_, err := log.Append(ctx, c.stream, c.expected, events(2)...)
			wantConflict(t, err, c.stream, c.expected, c.actual)
		}
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})), 0, 1, 2)
		_, err := collect(log.ReadStream(ctx, "none", eventstore.ReadStream{}))
		wantErr(t, err, eventstore.ErrStreamNotFound)
	}},
	{"a batch stands together, in order", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		var group errgroup.Group
		for w := range 8 {
			group.Go(func() error {
				for range 10 {
					if _, err := log.Append(ctx, fmt.Sprintf("s-%d", w), eventstore.Any, events(5)...); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		all := everything(ctx, t, log)
		if len(all) != 8*10*5 {
			t.Fatalf("read %d events, want %d", len(all), 8*10*5)
		}
		for i, e := range all {
			first := all[i-i%5]
			if e.Stream != first.Stream || e.Revision != first.Revision+uint64(i%5) || string(e.Data) != fmt.Sprintf(`"%d"`, i%5) {
				t.Fatalf("event %d of the log is %s@%d %s: batches are torn apart", i, e.Stream, e.Revision, e.Data)
			}
		}
	}},
	{"of writers that expect the same revision one wins", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		const writers, rounds = 8, 10
		for round := range rounds {
			expected := eventstore.Expected(round - 1)
			won := make([]bool, writers)
			var group errgroup.Group
			for w := range writers {
				group.Go(func() error {
					_, err := log.Append(ctx, "s", expected, event("Won", fmt.Sprint(w)))
					won[w] = err == nil
					if errors.Is(err, eventstore.ErrWrongExpectedRevision) {
						return nil
					}
					return err
				})
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
			winners := 0
			for _, w := range won {
				if w {
					winners++
				}
			}
			if winners != 1 {
				t.Fatalf("round %d: %d writers won, want 1", round, winners)
			}
		}
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})), upTo(0, rounds)...)
	}},
	{"what was appended is read back, to the byte", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		proposed := []eventstore.Proposed{
			{ID: uuid.New(), Type: "Json", ContentType: "application/json", Data: []byte(`{"a":[1,null,"ü"]}`), Metadata: []byte(`{"m":1}`)},
			{ID: uuid.New(), Type: "Binary", ContentType: "application/octet-stream", Data: []byte{0, 1, 0xff, 0xfe}, Metadata: []byte{0xff}},
			{ID: uuid.New(), Type: "Große Daten", ContentType: "application/json", Data: bytes.Repeat([]byte("x"), 1<<20)},
			{ID: uuid.New(), Type: "Empty", ContentType: "application/json"},
		}
		mustAppend(ctx, t, log, "streams-with/any name ü", eventstore.NoStream, proposed...)
		got := mustCollect(t, log.ReadStream(ctx, "streams-with/any name ü", eventstore.ReadStream{}))
		if len(got) != len(proposed) {
			t.Fatalf("read %d events, want %d", len(got), len(proposed))
		}
		for i, e := range got {
			want := eventstore.Recorded{Proposed: proposed[i], Stream: e.Stream, Revision: e.Revision, Position: e.Position, Created: e.Created}
			if !same(&want, &e) {
				t.Errorf("event %d (%s) differs", i, e.Type)
			}
			if e.Stream != "streams-with/any name ü" || e.Revision != uint64(i) {
				t.Errorf("event %d is %s@%d", i, e.Stream, e.Revision)
			}
		}
	}},
	{"json is the content type unless one is given", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "A", Data: []byte("{}")})
		if got := everything(ctx, t, log)[0].ContentType; got != "application/json" {
			t.Errorf("got %q", got)
		}
	}},
	{"a writer may use its slices again", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		data := []byte(`"before"`)
		mustAppend(ctx, t, log, "s", eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "A", Data: data})
		copy(data, `"after!"`)
		sub := subscribe(ctx, t, log, eventstore.Subscribe{})
		if got := sub.take(1)[0].Data; string(got) != `"before"` {
			t.Errorf("got %s", got)
		}
	}},
	{"dates are UTC, and never run backwards", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		began := time.Now().Add(-time.Minute)
		for range 20 {
			mustAppend(ctx, t, log, "s", eventstore.Any, events(3)...)
		}
		last := began
		for _, e := range everything(ctx, t, log) {
			if e.Created.Before(last) || e.Created.Location() != time.UTC || e.Created.After(time.Now().Add(time.Minute)) {
				t.Fatalf("revision %d was created at %s, after one of %s", e.Revision, e.Created, last)
			}
			last = e.Created
		}
	}},
	{"an event that is too large is refused, alone or in a batch, and nothing is lost", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		large := event("Large", "")
		large.Data = make([]byte, 5<<20)
		_, err := log.Append(ctx, "s", eventstore.NoStream, large)
		wantErr(t, err, eventstore.ErrTooLarge)
		_, err = log.Append(ctx, "s", eventstore.NoStream, event("Small", ""), large)
		wantErr(t, err, eventstore.ErrTooLarge)
		mustAppend(ctx, t, log, "s", eventstore.NoStream, event("Small", ""))
	}},
	{"a cancelled append says so and changes nothing", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		_, err := log.Append(cancelled, "s", eventstore.NoStream, event("A", ""))
		wantErr(t, err, context.Canceled)
		mustAppend(ctx, t, log, "s", eventstore.NoStream, event("A", ""))
	}},
	{"positions increase strictly, and the head is the last of them", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		if head, err := log.Head(ctx); err != nil || head != 0 {
			t.Fatalf("head of an empty log: got %d, %v", head, err)
		}
		var last eventstore.Position
		for i := range 20 {
			a := mustAppend(ctx, t, log, fmt.Sprintf("s-%d", i%3), eventstore.Any, events(1+i%4)...)
			if a.Position <= last {
				t.Fatalf("position %d after %d", a.Position, last)
			}
			last = a.Position
			if head, err := log.Head(ctx); err != nil || head != last {
				t.Fatalf("head: got %d, %v, want %d", head, err, last)
			}
		}
		last = 0
		for _, e := range everything(ctx, t, log) {
			if e.Position <= last {
				t.Fatalf("position %d after %d", e.Position, last)
			}
			last = e.Position
		}
	}},
	{"a closed log says so", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, event("A", ""))
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := log.Append(ctx, "s", eventstore.Any, event("A", ""))
		wantErr(t, err, eventstore.ErrClosed)
		_, err = collect(log.ReadStream(ctx, "s", eventstore.ReadStream{}))
		wantErr(t, err, eventstore.ErrClosed)
		_, err = collect(log.ReadAll(ctx, eventstore.ReadAll{}))
		wantErr(t, err, eventstore.ErrClosed)
		if err := log.Close(); err != nil {
			t.Errorf("closing twice: %v", err)
		}
	}},
}

var idempotenceTests = []test{
	{"repeating an append gives its first result", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		first, second := events(3), events(2)
		a := mustAppend(ctx, t, log, "s", eventstore.NoStream, first...)
		b := mustAppend(ctx, t, log, "s", eventstore.Exact(2), second...)
		mustAppend(ctx, t, log, "s", eventstore.Exact(4), events(2)...)
		for range 2 {
			if got := mustAppend(ctx, t, log, "s", eventstore.NoStream, first...); got != a {
				t.Errorf("repeating the first append: got %+v, want %+v", got, a)
			}
			if got := mustAppend(ctx, t, log, "s", eventstore.Exact(2), second...); got != b {
				t.Errorf("repeating the second append: got %+v, want %+v", got, b)
			}
		}
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})), upTo(0, 7)...)
	}},
	{"repeating an append that expects nothing gives its first result", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(2)...)
		batch := events(3)
		a := mustAppend(ctx, t, log, "s", eventstore.Any, batch...)
		for _, expected := range []eventstore.Expected{eventstore.Any, eventstore.StreamExists} {
			if got := mustAppend(ctx, t, log, "s", expected, batch...); got != a {
				t.Errorf("expecting %d: got %+v, want %+v", expected, got, a)
			}
		}
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})), upTo(0, 5)...)
	}},
	{"other ids, fewer or more of them are no repetition", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		batch := events(3)
		mustAppend(ctx, t, log, "s", eventstore.NoStream, batch...)
		_, err := log.Append(ctx, "s", eventstore.NoStream, events(3)...)
		wantConflict(t, err, "s", eventstore.NoStream, 2)
		_, err = log.Append(ctx, "s", eventstore.NoStream, append(batch[:3:3], event("More", ""))...)
		wantConflict(t, err, "s", eventstore.NoStream, 2)
		_, err = log.Append(ctx, "s", eventstore.NoStream, batch[1], batch[0], batch[2])
		wantConflict(t, err, "s", eventstore.NoStream, 2)
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})), 0, 1, 2)
	}},
	{"the same ids in another stream are other events", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		batch := events(2)
		a := mustAppend(ctx, t, log, "s", eventstore.Any, batch...)
		if b := mustAppend(ctx, t, log, "t", eventstore.Any, batch...); b.Position <= a.Position {
			t.Errorf("got %+v after %+v", b, a)
		}
	}},
	{"repetitions at the same time are one append", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		for round := range 5 {
			stream, batch := fmt.Sprintf("s-%d", round), events(2)
			results := make([]eventstore.Appended, 8)
			var group errgroup.Group
			for i := range results {
				group.Go(func() (err error) {
					results[i], err = log.Append(ctx, stream, eventstore.NoStream, batch...)
					return err
				})
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
			for _, r := range results {
				if r != results[0] {
					t.Fatalf("got %+v", results)
				}
			}
			wantRevisions(t, mustCollect(t, log.ReadStream(ctx, stream, eventstore.ReadStream{})), 0, 1)
		}
	}},
}
