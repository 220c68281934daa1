package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"weak"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/contract"
)

// A thousand subscribers, of which ten stall: the writer and the others are through without them, nothing is held for them in the
// meantime, and when they come back they get everything, in order, once.
func TestStalledSubscribers(t *testing.T) {
	const subscribers, stalled, events = 1000, 10, 1500
	l, err := Open("log", Options{
		FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler), ScavengeEvery: -1, TailEvents: 64, TailBytes: 128 << 10, MemTableBytes: 256 << 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx := t.Context()
	appendOne := func(i int) eventstore.Position {
		a, err := l.Append(ctx, fmt.Sprintf("s-%d", i%7), eventstore.Any, eventstore.Proposed{Type: "Counted", Data: make([]byte, 1000)})
		if err != nil {
			t.Fatal(err)
		}
		return a.Position
	}
	appendOne(0)
	deliveries := make([]contract.Delivery, stalled)
	var subs []eventstore.Subscription
	for range subscribers {
		sub, err := l.Subscribe(ctx, eventstore.Subscribe{})
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		subs = append(subs, sub)
	}
	// Those that will stall have had the first event, and are live.
	var first [stalled]weak.Pointer[byte]
	for i := range stalled {
		first[i], deliveries[i].Subscribed.After = firstEvent(ctx, t, subs[i])
	}
	var others errgroup.Group
	for _, sub := range subs[stalled:] {
		others.Go(func() error {
			for last := eventstore.Position(0); last < events; {
				b, err := sub.Next(ctx)
				if err != nil {
					return err
				}
				for _, e := range b.Events {
					if e.Position != last+1 {
						return fmt.Errorf("position %d after %d", e.Position, last)
					}
					last = e.Position
				}
			}
			return nil
		})
	}
	for i := 1; i < events; i++ {
		appendOne(i)
	}
	if err := others.Wait(); err != nil {
		t.Fatal(err)
	}
	// The tail holds what it may and no more, and the first event is held by nobody.
	l.tail.mu.RLock()
	held, bytes, room := len(l.tail.events), l.tail.bytes, cap(l.tail.events)
	l.tail.mu.RUnlock()
	if held > l.opts.TailEvents || bytes > l.opts.TailBytes || room > 8*l.opts.TailEvents+256 {
		t.Errorf("the tail holds %d events of %d bytes, with room for %d", held, bytes, room)
	}
	runtime.GC()
	for i := range first {
		if first[i].Value() != nil {
			t.Errorf("the first event is still in memory, %d events later", events)
			break
		}
	}
	log := everything(ctx, t, l)
	for i := range stalled {
		d := &deliveries[i]
		for d.Checkpoint() < events {
			b, err := subs[i].Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			d.Batches = append(d.Batches, b)
		}
		if err := d.Check(log); err != nil {
			t.Fatalf("a subscriber that had stalled: %v", err)
		}
	}
}

// firstEvent gets one event and keeps nothing of it but a pointer that does not hold it.
func firstEvent(ctx context.Context, t *testing.T, sub eventstore.Subscription) (weak.Pointer[byte], eventstore.Position) {
	t.Helper()
	b, err := sub.Next(ctx)
	if err != nil || len(b.Events) != 1 || !b.CaughtUp {
		t.Fatalf("got %+v, %v", b, err)
	}
	return weak.Make(&b.Events[0].Data[0]), b.Checkpoint
}

func everything(ctx context.Context, t *testing.T, l *Log) (out []eventstore.Recorded) {
	t.Helper()
	for e, err := range l.ReadAll(ctx, eventstore.ReadAll{}) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}
