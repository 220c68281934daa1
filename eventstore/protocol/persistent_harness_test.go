package protocol_test

import (
	"context"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"github.com/shiplog/shiplog/eventstore"
)

// prompt are settings that leave a mark for each event.
func prompt() *esdb.PersistentSubscriptionSettings {
	s := esdb.SubscriptionSettingsDefault()
	s.CheckpointLowerBound, s.CheckpointUpperBound = 1, 1
	return &s
}

func createGroup(ctx context.Context, t *testing.T, c *esdb.Client, stream string, from esdb.StreamPosition, settings *esdb.PersistentSubscriptionSettings) {
	t.Helper()
	if err := c.CreatePersistentSubscription(ctx, stream, "g", esdb.PersistentStreamSubscriptionOptions{StartFrom: from, Settings: settings}); err != nil {
		t.Fatal(err)
	}
}

func join(ctx context.Context, t *testing.T, c *esdb.Client, stream string, slots uint32) *esdb.PersistentSubscription {
	t.Helper()
	opts := esdb.SubscribeToPersistentSubscriptionOptions{BufferSize: slots}
	var sub *esdb.PersistentSubscription
	var err error
	if stream == "$all" {
		sub, err = c.SubscribeToPersistentSubscriptionToAll(ctx, "g", opts)
	} else {
		sub, err = c.SubscribeToPersistentSubscription(ctx, stream, "g", opts)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Close() })
	return sub
}

func next(t *testing.T, sub *esdb.PersistentSubscription) *esdb.EventAppeared {
	t.Helper()
	e := sub.Recv()
	if e.EventAppeared == nil {
		t.Fatalf("dropped: %v", e.SubscriptionDropped.Error)
	}
	return e.EventAppeared
}

// info waits until what there is to know of a group meets a condition.
func info(ctx context.Context, t *testing.T, c *esdb.Client, stream, what string, met func(*esdb.PersistentSubscriptionInfo) bool) *esdb.PersistentSubscriptionInfo {
	t.Helper()
	for {
		var i *esdb.PersistentSubscriptionInfo
		var err error
		if stream == "$all" {
			i, err = c.GetPersistentSubscriptionInfoToAll(ctx, "g", esdb.GetPersistentSubscriptionOptions{})
		} else {
			i, err = c.GetPersistentSubscriptionInfo(ctx, stream, "g", esdb.GetPersistentSubscriptionOptions{})
		}
		if err != nil {
			t.Fatalf("waiting until %s: %v", what, err)
		}
		if met(i) {
			return i
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting until %s: %+v", what, i)
		case <-time.After(time.Millisecond):
		}
	}
}

func readAll(ctx context.Context, t *testing.T, log eventstore.Log, stream string) []eventstore.Recorded {
	t.Helper()
	var out []eventstore.Recorded
	for e, err := range log.ReadStream(ctx, stream, eventstore.ReadStream{}) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}
