package contract

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shiplog/shiplog/eventstore"
)

// long is a stream longer than what any implementation fetches at a time.
const long = 700

var readTests = []test{
	{"a stream that does not exist is not found", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, event("A", ""))
		for _, opts := range []eventstore.ReadStream{{}, {Direction: eventstore.Backwards, FromEnd: true}, {From: 3, Limit: 1}} {
			_, err := collect(log.ReadStream(ctx, "none", opts))
			wantErr(t, err, eventstore.ErrStreamNotFound)
		}
	}},
	{"a stream is read from any point, both ways, with any limit", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		for i := range 7 {
			mustAppend(ctx, t, log, "s", eventstore.Any, events(long/7)...)
			mustAppend(ctx, t, log, fmt.Sprintf("other-%d", i), eventstore.Any, events(3)...)
		}
		all := upTo(0, long)
		for _, c := range []struct {
			opts eventstore.ReadStream
			want []uint64
		}{
			{eventstore.ReadStream{}, all},
			{eventstore.ReadStream{From: 1}, all[1:]},
			{eventstore.ReadStream{From: 350, Limit: 300}, all[350:650]},
			{eventstore.ReadStream{From: 350, Limit: 1}, all[350:351]},
			{eventstore.ReadStream{From: long - 1}, all[long-1:]},
			{eventstore.ReadStream{From: long}, nil},
			{eventstore.ReadStream{From: long + 1000}, nil},
			{eventstore.ReadStream{Limit: long + 1}, all},
			{eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true}, backwards(all)},
			{eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true, Limit: 2}, []uint64{long - 1, long - 2}},
			{eventstore.ReadStream{Direction: eventstore.Backwards, From: 3}, []uint64{3, 2, 1, 0}},
			{eventstore.ReadStream{Direction: eventstore.Backwards, From: 0}, []uint64{0}},
			{eventstore.ReadStream{Direction: eventstore.Backwards, From: 500, Limit: 400}, backwards(all[101:501])},
			{eventstore.ReadStream{Direction: eventstore.Backwards, From: long + 5, Limit: 1}, []uint64{long - 1}},
		} {
			t.Run(fmt.Sprintf("%+v", c.opts), func(t *testing.T) {
				wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", c.opts)), c.want...)
			})
		}
	}},
	{"what is lent is the reader's until the next event", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		for i := range long / 5 {
			mustAppend(ctx, t, log, fmt.Sprintf("s-%d", i%10), eventstore.Any, events(5)...)
		}
		all := everything(ctx, t, log)
		for _, direction := range []eventstore.Direction{eventstore.Forwards, eventstore.Backwards} {
			n := 0
			opts := eventstore.ReadAll{Direction: direction, FromEnd: direction == eventstore.Backwards, Filter: eventstore.Filter{System: true}, Lend: true}
			for e, err := range log.ReadAll(ctx, opts) {
				if err != nil {
					t.Fatal(err)
				}
				want := all[n]
				if direction == eventstore.Backwards {
					want = all[len(all)-1-n]
				}
				if diff := cmp.Diff(want, e, cmpopts.EquateEmpty()); diff != "" {
					t.Fatalf("event %d, read in direction %v (-want +got):\n%s", n, direction, diff)
				}
				clear(e.Data) // the reader may do with it what it wants
				n++
			}
			if n != len(all) {
				t.Fatalf("read %d events in direction %v, want %d", n, direction, len(all))
			}
		}
		if diff := cmp.Diff(all, everything(ctx, t, log)); diff != "" {
			t.Fatalf("what was lent has changed the log (-before +after):\n%s", diff)
		}
	}},
	{"everything is read from any position, both ways, with any limit", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		if got := everything(ctx, t, log); len(got) != 0 {
			t.Fatalf("an empty log holds %d events", len(got))
		}
		for i := range long / 5 {
			mustAppend(ctx, t, log, fmt.Sprintf("s-%d", i%10), eventstore.Any, events(5)...)
		}
		all := everything(ctx, t, log)
		if len(all) != long {
			t.Fatalf("read %d events, want %d", len(all), long)
		}
		reversed := make([]eventstore.Recorded, len(all))
		for i, e := range all {
			reversed[len(all)-1-i] = e
		}
		for _, c := range []struct {
			name string
			opts eventstore.ReadAll
			want []eventstore.Recorded
		}{
			{"all", eventstore.ReadAll{}, all},
			{"from the first", eventstore.ReadAll{From: all[0].Position}, all},
			{"from the middle", eventstore.ReadAll{From: all[350].Position}, all[350:]},
			{"from the middle, some", eventstore.ReadAll{From: all[350].Position, Limit: 300}, all[350:650]},
			{"from the last", eventstore.ReadAll{From: all[long-1].Position}, all[long-1:]},
			{"the first", eventstore.ReadAll{Limit: 1}, all[:1]},
			{"backwards", eventstore.ReadAll{Direction: eventstore.Backwards, FromEnd: true}, reversed},
			{"backwards, some", eventstore.ReadAll{Direction: eventstore.Backwards, FromEnd: true, Limit: 3}, reversed[:3]},
			{"backwards from the middle", eventstore.ReadAll{Direction: eventstore.Backwards, From: all[350].Position}, reversed[long-351:]},
			{"backwards from the first", eventstore.ReadAll{Direction: eventstore.Backwards, From: all[0].Position}, all[:1]},
			{"backwards from the last", eventstore.ReadAll{Direction: eventstore.Backwards, From: all[long-1].Position, Limit: 2}, reversed[:2]},
		} {
			t.Run(c.name, func(t *testing.T) {
				if diff := cmp.Diff(c.want, mustCollect(t, log.ReadAll(ctx, c.opts))); diff != "" {
					t.Fatalf("events differ (-want +got):\n%s", diff)
				}
			})
		}
	}},
	{"a filter admits by stream and by type, and a limit counts what it admits", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		for i := range 200 {
			mustAppend(ctx, t, log, []string{"pods-a/x", "pods-b/y", "services-a/x", "$system"}[i%4], eventstore.Any,
				event([]string{"PodCreated", "PodChanged", "Other"}[i%3], fmt.Sprint(i)))
		}
		all := everything(ctx, t, log)
		for _, f := range []eventstore.Filter{
			{},
			{System: true},
			{StreamPrefixes: []string{"pods-"}},
			{StreamPrefixes: []string{"pods-a", "services-"}},
			{StreamPrefixes: []string{"$"}, System: true},
			{StreamPrefixes: []string{"$"}},
			{TypePrefixes: []string{"Pod"}},
			{TypePrefixes: []string{"PodCreated", "Oth"}},
			{StreamPrefixes: []string{"pods-"}, TypePrefixes: []string{"PodChanged"}},
			{StreamPrefixes: []string{"none"}},
		} {
			t.Run(fmt.Sprintf("%+v", f), func(t *testing.T) {
				want := admitted(all, f)
				if diff := cmp.Diff(want, mustCollect(t, log.ReadAll(ctx, eventstore.ReadAll{Filter: f}))); diff != "" {
					t.Errorf("events differ (-want +got):\n%s", diff)
				}
				limit := min(len(want), 5)
				if diff := cmp.Diff(want[:limit], mustCollect(t, log.ReadAll(ctx, eventstore.ReadAll{Filter: f, Limit: 5}))); diff != "" {
					t.Errorf("the first 5 events differ (-want +got):\n%s", diff)
				}
				got := mustCollect(t, log.ReadAll(ctx, eventstore.ReadAll{Filter: f, Limit: 5, Direction: eventstore.Backwards, FromEnd: true}))
				for i, e := range got {
					if w := want[len(want)-1-i]; e.Position != w.Position {
						t.Errorf("backwards, event %d is at %d, want %d", i, e.Position, w.Position)
					}
				}
				if len(got) != limit {
					t.Errorf("backwards: got %d events, want %d", len(got), limit)
				}
				middle := all[len(all)/2].Position
				var before, after []eventstore.Recorded
				for _, e := range want {
					if e.Position <= middle {
						before = append([]eventstore.Recorded{e}, before...)
					}
					if e.Position >= middle {
						after = append(after, e)
					}
				}
				for _, limit := range []int{0, 1, 7, 1000} {
					wantSame(t, upToLimit(after, limit), mustCollect(t, log.ReadAll(ctx, eventstore.ReadAll{Filter: f, From: middle, Limit: limit})))
					wantSame(t, upToLimit(before, limit),
						mustCollect(t, log.ReadAll(ctx, eventstore.ReadAll{Filter: f, From: middle, Limit: limit, Direction: eventstore.Backwards})))
				}
				sub := subscribe(ctx, t, log, eventstore.Subscribe{After: middle - 1, Filter: f})
				sub.until(all[len(all)-1].Position)
				wantSame(t, after, sub.Events())
				sub.check(log)
			})
		}
	}},
	{"a reader may stop at any event", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(long)...)
		for _, stop := range []int{1, 2, 255, 256, 257, 600} {
			n := 0
			for _, err := range log.ReadAll(ctx, eventstore.ReadAll{}) {
				if err != nil {
					t.Fatal(err)
				}
				if n++; n == stop {
					break
				}
			}
			if n != stop {
				t.Errorf("read %d events, want %d", n, stop)
			}
		}
	}},
	{"a cancelled read ends with an error", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(long)...)
		cancelled, cancel := context.WithCancel(ctx)
		defer cancel()
		n := 0
		var last error
		for _, err := range log.ReadAll(cancelled, eventstore.ReadAll{}) {
			if last = err; err == nil {
				n++
			}
			if n == 10 {
				cancel()
			}
		}
		wantErr(t, last, context.Canceled)
		if n >= long {
			t.Errorf("read %d events after the context had ended", n)
		}
	}},
	{"a write is seen by every later read", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		for i := range 50 {
			a := mustAppend(ctx, t, log, "s", eventstore.Any, event("A", fmt.Sprint(i)))
			last := mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true, Limit: 1}))
			if len(last) != 1 || last[0].Revision != a.Revision || last[0].Position != a.Position {
				t.Fatalf("after %+v the stream ends with %+v", a, last)
			}
		}
	}},
}

func upToLimit(events []eventstore.Recorded, limit int) []eventstore.Recorded {
	if limit == 0 {
		return events
	}
	return events[:min(limit, len(events))]
}

func wantSame(t *testing.T, want, got []eventstore.Recorded) {
	t.Helper()
	if len(want) == 0 && len(got) == 0 {
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events differ (-want +got):\n%s", diff)
	}
}

func admitted(events []eventstore.Recorded, f eventstore.Filter) []eventstore.Recorded {
	var out []eventstore.Recorded
	for _, e := range events {
		if f.Admits(e.Stream, e.Type) {
			out = append(out, e)
		}
	}
	return out
}
