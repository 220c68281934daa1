package contract

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/eventstore"
)

// follower records what a subscription delivers.
type follower struct {
	ctx context.Context
	t   *testing.T
	sub eventstore.Subscription
	Delivery
}

func subscribe(ctx context.Context, t *testing.T, log eventstore.Log, opts eventstore.Subscribe) *follower {
	t.Helper()
	sub, err := log.Subscribe(ctx, opts)
	if err != nil {
		t.Fatalf("subscribing: %v", err)
	}
	t.Cleanup(func() { _ = sub.Close() })
	return &follower{ctx: ctx, t: t, sub: sub, Delivery: Delivery{Subscribed: opts}}
}

// next receives a batch, and fails the test if there is none.
func (f *follower) next() eventstore.Batch {
	f.t.Helper()
	b, err := f.sub.Next(f.ctx)
	if err != nil {
		f.t.Fatalf("after %d batches with %d events: %v", len(f.Batches), len(f.Events()), err)
	}
	f.Batches = append(f.Batches, b)
	return b
}

// take receives until there are n events in all.
func (f *follower) take(n int) []eventstore.Recorded {
	f.t.Helper()
	for len(f.Events()) < n {
		f.next()
	}
	return f.Events()
}

// catchUp receives until the subscription says that it has caught up.
func (f *follower) catchUp() eventstore.Batch {
	f.t.Helper()
	for {
		if b := f.next(); b.CaughtUp {
			return b
		}
	}
}

// until receives until everything up to a position has been delivered.
func (f *follower) until(position eventstore.Position) {
	f.t.Helper()
	for f.Checkpoint() < position {
		f.next()
	}
}

func (f *follower) check(log eventstore.Log) {
	f.t.Helper()
	if err := f.Check(everything(f.ctx, f.t, log)); err != nil {
		f.t.Fatal(err)
	}
}

func write(ctx context.Context, log eventstore.Log, streams, appends int) *errgroup.Group {
	group, ctx := errgroup.WithContext(ctx)
	for s := range streams {
		group.Go(func() error {
			for i := range appends {
				typ := []string{"PodCreated", "PodChanged", "Other"}[i%3]
				if _, err := log.Append(ctx, fmt.Sprintf("s%d-x/y", s), eventstore.Any, event(typ, fmt.Sprint(i)), event(typ, "second")); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group
}

var subscribeTests = []test{
	{"an empty log is caught up with at once", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		if b := subscribe(ctx, t, log, eventstore.Subscribe{}).catchUp(); len(b.Events) != 0 || b.Checkpoint != 0 {
			t.Errorf("got %+v", b)
		}
	}},
	{"what there is comes first, then what comes", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(long)...)
		f := subscribe(ctx, t, log, eventstore.Subscribe{})
		f.catchUp()
		if n := len(f.Events()); n != long {
			t.Fatalf("caught up after %d events, want %d", n, long)
		}
		for i := range 20 {
			a := mustAppend(ctx, t, log, "s", eventstore.Any, event("A", fmt.Sprint(i)))
			f.until(a.Position)
		}
		f.check(log)
	}},
	{"from the beginning, the middle and the head, while others write", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(100)...)
		all := everything(ctx, t, log)
		group := write(ctx, log, 4, 50)
		var followers []*follower
		for _, after := range []eventstore.Position{0, all[0].Position, all[50].Position, all[99].Position} {
			followers = append(followers, subscribe(ctx, t, log, eventstore.Subscribe{After: after}))
			followers = append(followers, subscribe(ctx, t, log, eventstore.Subscribe{After: after, Filter: eventstore.Filter{TypePrefixes: []string{"Pod"}}}))
			followers = append(followers, subscribe(ctx, t, log, eventstore.Subscribe{After: after, Filter: eventstore.Filter{StreamPrefixes: []string{"s1-", "s3-"}}}))
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		last := mustAppend(ctx, t, log, "s1-x/y", eventstore.Any, event("PodDeleted", "the end")) // every filter admits it
		for _, f := range followers {
			f.until(last.Position)
			f.check(log)
		}
	}},
	{"it resumes from any checkpoint", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		filter := eventstore.Filter{TypePrefixes: []string{"Pod"}}
		group := write(ctx, log, 4, 40)
		whole := Delivery{Subscribed: eventstore.Subscribe{Filter: filter}}
		for range 10 {
			f := subscribe(ctx, t, log, eventstore.Subscribe{After: whole.Checkpoint(), Filter: filter})
			f.next()
			if err := f.sub.Close(); err != nil {
				t.Fatal(err)
			}
			whole.Batches = append(whole.Batches, f.Batches...)
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		last := mustAppend(ctx, t, log, "s", eventstore.Any, event("PodDeleted", "the end"))
		f := subscribe(ctx, t, log, eventstore.Subscribe{After: whole.Checkpoint(), Filter: filter})
		f.until(last.Position)
		whole.Batches = append(whole.Batches, f.Batches...)
		if err := whole.Check(everything(ctx, t, log)); err != nil {
			t.Fatal(err)
		}
	}},
	{"a filter that admits nothing still moves the checkpoint", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		a := mustAppend(ctx, t, log, "s", eventstore.Any, events(long)...)
		f := subscribe(ctx, t, log, eventstore.Subscribe{Filter: eventstore.Filter{StreamPrefixes: []string{"none"}}})
		f.until(a.Position)
		f.check(log)
	}},
	{"a filter that admits nothing of what comes still moves the checkpoint", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		for _, filter := range []eventstore.Filter{
			{StreamPrefixes: []string{"none"}},
			{TypePrefixes: []string{"None"}},
			{StreamPrefixes: []string{"s"}, TypePrefixes: []string{"None"}},
		} {
			f := subscribe(ctx, t, log, eventstore.Subscribe{Filter: filter})
			f.catchUp()
			for range 3 {
				a := mustAppend(ctx, t, log, "s", eventstore.Any, events(2)...)
				f.until(a.Position)
			}
			if n := len(f.Events()); n != 0 {
				t.Errorf("%+v admitted %d events", filter, n)
			}
			f.check(log)
		}
	}},
	{"every subscription says that it has caught up, once it has everything", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		a := mustAppend(ctx, t, log, "s", eventstore.Any, events(long)...)
		last := uint64(long - 1)
		for _, c := range []struct {
			name string
			opts eventstore.Subscribe
			want int
		}{
			{"everything", eventstore.Subscribe{}, long},
			{"from the head", eventstore.Subscribe{After: a.Position}, 0},
			{"filtered", eventstore.Subscribe{Filter: eventstore.Filter{TypePrefixes: []string{"Count"}}}, long},
			{"filtered out", eventstore.Subscribe{Filter: eventstore.Filter{TypePrefixes: []string{"None"}}}, 0},
			{"one stream", eventstore.Subscribe{Stream: "s"}, long},
			{"one stream from its end", eventstore.Subscribe{Stream: "s", AfterRevision: &last}, 0},
			{"a stream that is not there", eventstore.Subscribe{Stream: "none"}, 0},
		} {
			t.Run(c.name, func(t *testing.T) {
				f := subscribe(ctx, t, log, c.opts)
				f.catchUp()
				if n := len(f.Events()); n != c.want {
					t.Errorf("it said so after %d events, want %d", n, c.want)
				}
			})
		}
	}},
	{"one stream is followed by type", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		f := subscribe(ctx, t, log, eventstore.Subscribe{Stream: "s", Filter: eventstore.Filter{TypePrefixes: []string{"Even"}}})
		for i := range 10 {
			mustAppend(ctx, t, log, "s", eventstore.Any, event([]string{"Even", "Odd"}[i%2], ""))
		}
		wantRevisions(t, f.take(5), 0, 2, 4, 6, 8)
	}},
	{"one stream is resumed from any revision", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		var got []eventstore.Recorded
		var after *uint64
		for round := range 6 {
			mustAppend(ctx, t, log, "s", eventstore.Any, events(7)...)
			mustAppend(ctx, t, log, "other", eventstore.Any, events(7)...)
			f := subscribe(ctx, t, log, eventstore.Subscribe{Stream: "s", AfterRevision: after})
			if round%2 == 0 {
				f.take(1)
			} else {
				f.catchUp()
			}
			if err := f.sub.Close(); err != nil {
				t.Fatal(err)
			}
			got = append(got, f.Events()...)
			after = &got[len(got)-1].Revision
		}
		wantRevisions(t, got, upTo(0, uint64(len(got)))...)
	}},
	{"system events come only when they are asked for", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustSetMetadata(ctx, t, log, "s", eventstore.Metadata{MaxCount: 100})
		a := mustAppend(ctx, t, log, "s", eventstore.Any, events(2)...)
		for _, system := range []bool{true, false} {
			f := subscribe(ctx, t, log, eventstore.Subscribe{Filter: eventstore.Filter{System: system}})
			f.until(a.Position)
			f.check(log)
		}
	}},
	{"a subscriber that stalls holds up nobody, and misses nothing", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		stalled := subscribe(ctx, t, log, eventstore.Subscribe{})
		stalled.catchUp()
		quick := subscribe(ctx, t, log, eventstore.Subscribe{})
		quick.catchUp()
		large := event("Large", "")
		large.Data = make([]byte, 256<<10)
		var last eventstore.Appended
		for range 40 { // more than any buffer on the way takes
			large.ID = event("", "").ID
			last = mustAppend(ctx, t, log, "s", eventstore.Any, large)
			quick.until(last.Position)
		}
		stalled.until(last.Position)
		stalled.check(log)
		quick.check(log)
	}},
	{"one stream is followed from any revision", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		middle := uint64(40)
		early := subscribe(ctx, t, log, eventstore.Subscribe{Stream: "s"})
		for range 10 {
			mustAppend(ctx, t, log, "s", eventstore.Any, events(10)...)
			mustAppend(ctx, t, log, "other", eventstore.Any, events(10)...)
		}
		late := subscribe(ctx, t, log, eventstore.Subscribe{Stream: "s", AfterRevision: &middle})
		late.catchUp()
		mustAppend(ctx, t, log, "other", eventstore.Any, events(10)...)
		mustAppend(ctx, t, log, "s", eventstore.Any, events(5)...)
		wantRevisions(t, early.take(105), upTo(0, 105)...)
		wantRevisions(t, late.take(64), upTo(41, 105)...)
	}},
	{"a tombstoned stream cannot be followed", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(1)...)
		if err := log.Tombstone(ctx, "s", eventstore.Any); err != nil {
			t.Fatal(err)
		}
		sub, err := log.Subscribe(ctx, eventstore.Subscribe{Stream: "s"})
		if err == nil { // an implementation may learn it only with the first batch
			_, err = sub.Next(ctx)
		}
		wantErr(t, err, eventstore.ErrStreamDeleted)
	}},
	{"waiting ends with the context, and the subscription with its own", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		own, end := context.WithCancel(ctx)
		sub, err := log.Subscribe(own, eventstore.Subscribe{})
		if err != nil {
			t.Fatal(err)
		}
		f := &follower{ctx: ctx, t: t, sub: sub}
		f.catchUp()
		waiting, stop := context.WithCancel(ctx)
		got := make(chan error, 1)
		go func() {
			_, err := sub.Next(waiting)
			got <- err
		}()
		stop()
		wantErr(t, <-got, context.Canceled)
		end()
		for err = nil; err == nil; {
			_, err = sub.Next(ctx)
		}
		if !errors.Is(err, eventstore.ErrDropped) && !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}},
	{"a closed subscription, and one of a closed log, is over", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		f := subscribe(ctx, t, log, eventstore.Subscribe{})
		f.catchUp()
		got := make(chan error, 1)
		g := subscribe(ctx, t, log, eventstore.Subscribe{})
		g.catchUp()
		go func() {
			_, err := g.sub.Next(ctx)
			got <- err
		}()
		if err := f.sub.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.sub.Next(ctx); !errors.Is(err, eventstore.ErrDropped) {
			t.Errorf("closed subscription: got %v", err)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-got; !errors.Is(err, eventstore.ErrDropped) {
			t.Errorf("closed log: got %v", err)
		}
	}},
	{"batches hold something, and checkpoints fit", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(long)...)
		f := subscribe(ctx, t, log, eventstore.Subscribe{})
		f.catchUp()
		for i, b := range f.Batches {
			if n := len(b.Events); n > 0 && b.Checkpoint < b.Events[n-1].Position {
				t.Errorf("batch %d ends at %d, its checkpoint is %d", i, b.Events[n-1].Position, b.Checkpoint)
			}
		}
		if diff := cmp.Diff(everything(ctx, t, log), f.Events()); diff != "" {
			t.Errorf("events differ from those read (-read +delivered):\n%s", diff)
		}
	}},
}
