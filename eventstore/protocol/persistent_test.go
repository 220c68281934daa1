package protocol_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/go-cmp/cmp"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/protocol"
	"github.com/shiplog/shiplog/internal/servetest"
)

// Where a group begins, whatever is there when it is made and whatever comes.
func TestGroupsStartWhereTheyAreToldTo(t *testing.T) {
	for name, c := range map[string]struct {
		from          esdb.StreamPosition
		before, after int
		want          uint64
	}{
		"the beginning, of a stream with events":       {esdb.Start{}, 10, 0, 0},
		"the beginning, of a stream to come":           {esdb.Start{}, 0, 10, 0},
		"the end, of a stream with events":             {esdb.End{}, 10, 1, 10},
		"the end, of a stream to come":                 {esdb.End{}, 0, 1, 0},
		"a revision to come":                           {esdb.Revision(2), 0, 4, 2},
		"a revision that is there":                     {esdb.Revision(4), 10, 1, 4},
		"the next revision":                            {esdb.Revision(10), 10, 1, 10},
		"a revision beyond the next":                   {esdb.Revision(11), 10, 2, 11},
		"the first revision":                           {esdb.Revision(0), 3, 0, 0},
		"the end, where nobody says where (a default)": {nil, 3, 1, 3},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := patient(t)
			log, address := serve(t)
			client := official(t, address)
			fill(ctx, t, log, "s", c.before)
			createGroup(ctx, t, client, "s", c.from, nil)
			sub := join(ctx, t, client, "s", 0)
			fill(ctx, t, log, "s", c.after)
			if got := next(t, sub).Event.OriginalEvent().EventNumber; got != c.want {
				t.Errorf("got revision %d, want %d", got, c.want)
			}
		})
	}
}

// Events of all streams, through each kind of filter; the groups' own bookkeeping is none of them.
func TestGroupsOfAllStreams(t *testing.T) {
	for name, c := range map[string]struct {
		filter *esdb.SubscriptionFilter
		from   esdb.AllPosition
		want   string
	}{
		"everything":      {nil, esdb.Start{}, "a0 b0 a1 b1 $x0 a2 b2"},
		"from a position": {nil, esdb.Position{Commit: 4, Prepare: 4}, "b1 $x0 a2 b2"},
		"from the end":    {nil, esdb.End{}, "a2 b2"},
		"stream prefix":   {&esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{"b", "$x"}}, esdb.Start{}, "b0 b1 $x0 b2"},
		"type prefix":     {&esdb.SubscriptionFilter{Type: esdb.EventFilterType, Prefixes: []string{"Od"}}, esdb.Start{}, "a1 b1"},
		"stream regex":    {&esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Regex: "^[^$b]"}, esdb.Start{}, "a0 a1 a2"},
		"type regex":      {&esdb.SubscriptionFilter{Type: esdb.EventFilterType, Regex: "dd$"}, esdb.Start{}, "a1 b1"},
		"no system":       {esdb.ExcludeSystemEventsFilter(), esdb.Start{}, "a0 b0 a1 b1 $x0 a2 b2"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := patient(t)
			log, address := serve(t)
			client := official(t, address)
			put := func(stream, typ string) {
				t.Helper()
				if _, err := log.Append(ctx, stream, eventstore.Any, eventstore.Proposed{Type: typ}); err != nil {
					t.Fatal(err)
				}
			}
			for _, typ := range []string{"Even", "Odd"} {
				put("a", typ)
				put("b", typ)
			}
			put("$x", "Even")
			err := client.CreatePersistentSubscriptionToAll(ctx, "g", esdb.PersistentAllSubscriptionOptions{StartFrom: c.from, Filter: c.filter, Settings: prompt()})
			if err != nil {
				t.Fatal(err)
			}
			sub := join(ctx, t, client, "$all", 1)
			put("a", "Even")
			put("b", "Even")
			var got []string
			for range strings.Fields(c.want) {
				e := next(t, sub)
				got = append(got, fmt.Sprint(e.Event.OriginalEvent().StreamID, e.Event.OriginalEvent().EventNumber))
				if err := sub.Ack(e.Event); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			// Checkpoints, which are events too, are written and not handed out.
			i := info(ctx, t, client, "$all", "there is a checkpoint", func(i *esdb.PersistentSubscriptionInfo) bool { return i.Stats.LastCheckpointedPosition != nil })
			if i.EventSource != "$all" || i.Stats.TotalItems != int64(len(got)) || i.Stats.LastKnownPosition == nil {
				t.Errorf("got %+v", i.Stats)
			}
		})
	}
}

// A group goes on where it was, whatever happens to the server and the consumers.
func TestGroupsSurviveARestart(t *testing.T) {
	ctx := patient(t)
	log := servetest.OpenLog(t)
	address, stop := start(t, log, protocol.Options{})
	client := official(t, address)
	fill(ctx, t, log, "s", 10)
	createGroup(ctx, t, client, "s", esdb.Start{}, nil)
	filter := &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Regex: "^s$"}
	if err := client.CreatePersistentSubscriptionToAll(ctx, "g", esdb.PersistentAllSubscriptionOptions{StartFrom: esdb.Start{}, Filter: filter}); err != nil {
		t.Fatal(err)
	}
	createGroup(ctx, t, client, "later", esdb.End{}, nil)
	subs := map[string]*esdb.PersistentSubscription{"s": join(ctx, t, client, "s", 10), "$all": join(ctx, t, client, "$all", 10)}
	for stream, sub := range subs {
		for n := range 6 {
			e := next(t, sub)
			var err error
			switch n {
			case 2:
				err = sub.Nack("later", esdb.NackActionPark, e.Event)
			case 4: // nobody answers for it
			default:
				err = sub.Ack(e.Event)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		info(ctx, t, client, stream, "one is parked and five are out", func(i *esdb.PersistentSubscriptionInfo) bool {
			return i.Stats.ParkedMessagesCount == 1 && i.Stats.OutstandingMessagesCount == 5
		})
	}
	stop()
	fill(ctx, t, log, "later", 1)
	address, _ = start(t, log, protocol.Options{})
	client = official(t, address)
	for stream := range subs {
		i := info(ctx, t, client, stream, "it is there", func(i *esdb.PersistentSubscriptionInfo) bool {
			return i.Stats.LastCheckpointedEventRevision != nil || i.Stats.LastCheckpointedPosition != nil
		})
		if i.Stats.ParkedMessagesCount != 1 {
			t.Errorf("%s: %d are parked", stream, i.Stats.ParkedMessagesCount)
		}
		sub := join(ctx, t, client, stream, 10)
		for want := uint64(4); want < 10; want++ {
			e := next(t, sub)
			if got := e.Event.OriginalEvent().EventNumber; got != want {
				t.Fatalf("%s: after the restart revision %d, want %d", stream, got, want)
			}
		}
	}
	if got := next(t, join(ctx, t, client, "later", 1)).Event.OriginalEvent().EventNumber; got != 0 {
		t.Errorf("a group that was to start at the end got revision %d first", got)
	}
}
