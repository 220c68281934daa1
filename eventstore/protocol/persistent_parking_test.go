package protocol_test

import (
	"strings"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
)

// Parked events are kept with their reason, counted, handed out again when asked for, and forgotten when they are done with.
func TestParking(t *testing.T) {
	for _, stream := range []string{"s", "$all"} {
		t.Run(stream, func(t *testing.T) {
			ctx := patient(t)
			log, address := serve(t)
			client := official(t, address)
			if stream == "s" {
				createGroup(ctx, t, client, "s", esdb.Start{}, nil)
			} else if err := client.CreatePersistentSubscriptionToAll(ctx, "g", esdb.PersistentAllSubscriptionOptions{StartFrom: esdb.End{}}); err != nil {
				t.Fatal(err)
			}
			sub := join(ctx, t, client, stream, 0)
			fill(ctx, t, log, "s", 4)
			for range 3 {
				if err := sub.Nack("because reasons", esdb.NackActionPark, next(t, sub).Event); err != nil {
					t.Fatal(err)
				}
			}
			if err := sub.Ack(next(t, sub).Event); err != nil {
				t.Fatal(err)
			}
			parked := func(n int64) func(*esdb.PersistentSubscriptionInfo) bool {
				return func(i *esdb.PersistentSubscriptionInfo) bool { return i.Stats.ParkedMessagesCount == n }
			}
			info(ctx, t, client, stream, "three are parked", parked(3))
			links := readAll(ctx, t, log, "$persistentsubscription-"+stream+"::g-parked")
			if len(links) != 3 || links[1].Type != "$>" || string(links[1].Data) != "1@s" || !strings.Contains(string(links[1].Metadata), "because reasons") {
				t.Fatalf("parked are %v", links)
			}
			replay := func(stopAt int) {
				t.Helper()
				opts := esdb.ReplayParkedMessagesOptions{StopAt: stopAt}
				var err error
				if stream == "$all" {
					err = client.ReplayParkedMessagesToAll(ctx, "g", opts)
				} else {
					err = client.ReplayParkedMessages(ctx, stream, "g", opts)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			replay(1)
			again := next(t, sub)
			if e := again.Event; e.Event.StreamID != "s" || e.Event.EventNumber != 0 || e.Link == nil || e.Link.EventNumber != 0 || again.RetryCount != 0 {
				t.Errorf("replayed %+v %+v", e.Event, e.Link)
			}
			if err := sub.Ack(again.Event); err != nil {
				t.Fatal(err)
			}
			info(ctx, t, client, stream, "two are parked", parked(2))
			replay(0)
			for n := range uint64(2) {
				e := next(t, sub).Event
				if e.Event.EventNumber != n+1 {
					t.Errorf("replayed %d, want %d", e.Event.EventNumber, n+1)
				}
				if n == 1 {
					if err := sub.Nack("again", esdb.NackActionPark, e); err != nil {
						t.Fatal(err)
					}
				} else if err := sub.Ack(e); err != nil {
					t.Fatal(err)
				}
			}
			info(ctx, t, client, stream, "one is parked again", parked(1))
			for {
				left := readAll(ctx, t, log, "$persistentsubscription-"+stream+"::g-parked")
				if len(left) == 1 {
					if string(left[0].Data) != "2@s" || left[0].Revision != 3 {
						t.Errorf("parked is %v", left)
					}
					return
				}
				select {
				case <-ctx.Done():
					t.Fatalf("still parked: %v", left)
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
}
