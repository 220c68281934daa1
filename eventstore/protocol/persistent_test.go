package protocol_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	pb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/protocol"
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

// A consumer gets no more than it has room for, until it answers.
func TestConsumersGetWhatTheyHaveRoomFor(t *testing.T) {
	for name, answer := range map[string]func(*esdb.PersistentSubscription, *esdb.ResolvedEvent) error{
		"ack": func(s *esdb.PersistentSubscription, e *esdb.ResolvedEvent) error { return s.Ack(e) },
		"park": func(s *esdb.PersistentSubscription, e *esdb.ResolvedEvent) error {
			return s.Nack("why", esdb.NackActionPark, e)
		},
		"skip": func(s *esdb.PersistentSubscription, e *esdb.ResolvedEvent) error {
			return s.Nack("why", esdb.NackActionSkip, e)
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := patient(t)
			log, address := serve(t)
			client := official(t, address)
			fill(ctx, t, log, "s", 3)
			createGroup(ctx, t, client, "s", esdb.Start{}, nil)
			sub := join(ctx, t, client, "s", 2)
			first := next(t, sub)
			next(t, sub)
			i := info(ctx, t, client, "s", "all is read", func(i *esdb.PersistentSubscriptionInfo) bool { return i.Stats.ReadBufferCount == 1 })
			if i.Stats.TotalInFlightMessages != 2 || len(i.Connections) != 1 || i.Connections[0].AvailableSlots != 0 {
				t.Errorf("two of three are out: %+v", i.Stats)
			}
			if err := answer(sub, first.Event); err != nil {
				t.Fatal(err)
			}
			if got := next(t, sub).Event.OriginalEvent().EventNumber; got != 2 {
				t.Errorf("after an answer: revision %d", got)
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

func TestManagingGroups(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	client := official(t, address)
	fill(ctx, t, log, "s", 1)
	opts := esdb.PersistentStreamSubscriptionOptions{}
	noTimeout := esdb.SubscriptionSettingsDefault()
	noTimeout.MessageTimeout = 0
	changed := esdb.SubscriptionSettingsDefault()
	for _, n := range []*int32{
		&changed.HistoryBufferSize, &changed.ReadBatchSize, &changed.CheckpointAfter, &changed.CheckpointUpperBound, &changed.CheckpointLowerBound,
		&changed.LiveBufferSize, &changed.MaxRetryCount, &changed.MessageTimeout, &changed.MaxSubscriberCount,
	} {
		*n++
	}
	changed.ConsumerStrategyName, changed.ExtraStatistics, changed.ResolveLinkTos = esdb.ConsumerStrategyDispatchToSingle, true, true
	negative := esdb.SubscriptionSettingsDefault()
	negative.MaxRetryCount = -1
	all := esdb.PersistentAllSubscriptionOptions{}
	for _, step := range []struct {
		what string
		do   func() error
		want string
	}{
		{"create", func() error { return client.CreatePersistentSubscription(ctx, "s", "g", opts) }, ""},
		{"create again", func() error { return client.CreatePersistentSubscription(ctx, "s", "g", opts) }, "exists"},
		{"create on a stream to come", func() error { return client.CreatePersistentSubscription(ctx, "t", "g", opts) }, ""},
		{"create without a timeout", func() error {
			return client.CreatePersistentSubscription(ctx, "s", "h", esdb.PersistentStreamSubscriptionOptions{Settings: &noTimeout})
		}, ""},
		{"create with odd names", func() error { return client.CreatePersistentSubscription(ctx, "/s/foo", "/g/foo", opts) }, ""},
		{"create what cannot be", func() error {
			return client.CreatePersistentSubscription(ctx, "s", "n", esdb.PersistentStreamSubscriptionOptions{Settings: &negative})
		}, "other"},
		{"update", func() error {
			return client.UpdatePersistentSubscription(ctx, "s", "g", esdb.PersistentStreamSubscriptionOptions{Settings: &changed})
		}, ""},
		{"update what is not there", func() error { return client.UpdatePersistentSubscription(ctx, "s", "x", opts) }, "not found"},
		{"delete", func() error {
			return client.DeletePersistentSubscription(ctx, "s", "h", esdb.DeletePersistentSubscriptionOptions{})
		}, ""},
		{"delete again", func() error {
			return client.DeletePersistentSubscription(ctx, "s", "h", esdb.DeletePersistentSubscriptionOptions{})
		}, "not found"},
		{"create after deleting", func() error { return client.CreatePersistentSubscription(ctx, "s", "h", opts) }, ""},
		{"create for all", func() error { return client.CreatePersistentSubscriptionToAll(ctx, "g", all) }, ""},
		{"update for all", func() error {
			return client.UpdatePersistentSubscriptionToAll(ctx, "g", esdb.PersistentAllSubscriptionOptions{Settings: &changed})
		}, ""},
		{"create and delete for all", func() error {
			if err := client.CreatePersistentSubscriptionToAll(ctx, "h", all); err != nil {
				return err
			}
			return client.DeletePersistentSubscriptionToAll(ctx, "h", esdb.DeletePersistentSubscriptionOptions{})
		}, ""},
		{"delete for all what is not there", func() error {
			return client.DeletePersistentSubscriptionToAll(ctx, "h", esdb.DeletePersistentSubscriptionOptions{})
		}, "not found"},
		{"subscribe to what is not there", func() error {
			_, err := client.SubscribeToPersistentSubscription(ctx, "s", "x", esdb.SubscribeToPersistentSubscriptionOptions{})
			return err
		}, "not found"},
		{"ask about what is not there", func() error {
			_, err := client.GetPersistentSubscriptionInfo(ctx, "s", "x", esdb.GetPersistentSubscriptionOptions{})
			return err
		}, "not found"},
		{"list those of a stream without", func() error {
			_, err := client.ListPersistentSubscriptionsForStream(ctx, "x", esdb.ListPersistentSubscriptionsOptions{})
			return err
		}, "not found"},
		{"replay what is not there", func() error {
			return client.ReplayParkedMessages(ctx, "s", "x", esdb.ReplayParkedMessagesOptions{})
		}, "not found"},
		{"restart", func() error {
			return client.RestartPersistentSubscriptionSubsystem(ctx, esdb.RestartPersistentSubscriptionSubsystemOptions{})
		}, ""},
	} {
		if got := kindOf(step.do()); got != step.want && !strings.HasPrefix(got, step.want+":") {
			t.Errorf("%s: got %q, want %q", step.what, got, step.want)
		}
	}
	names := func(infos []esdb.PersistentSubscriptionInfo, err error) []string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, i := range infos {
			out = append(out, i.EventSource+" "+i.GroupName)
		}
		return out
	}
	list := esdb.ListPersistentSubscriptionsOptions{}
	for what, c := range map[string]struct{ got, want []string }{
		"all":         {names(client.ListAllPersistentSubscriptions(ctx, list)), []string{"$all g", "/s/foo /g/foo", "s g", "s h", "t g"}},
		"of a stream": {names(client.ListPersistentSubscriptionsForStream(ctx, "s", list)), []string{"s g", "s h"}},
		"of all":      {names(client.ListPersistentSubscriptionsToAll(ctx, list)), []string{"$all g"}},
	} {
		slices.Sort(c.got)
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	i, err := client.GetPersistentSubscriptionInfo(ctx, "/s/foo", "/g/foo", esdb.GetPersistentSubscriptionOptions{})
	if err != nil || i.EventSource != "/s/foo" || i.GroupName != "/g/foo" {
		t.Errorf("got %+v, %v", i, err)
	}
	// What was changed is told as it was said.
	for _, stream := range []string{"s", "$all"} {
		i := info(ctx, t, client, stream, "it is there", func(*esdb.PersistentSubscriptionInfo) bool { return true })
		changed.StartFrom = esdb.Start{} // the client says so when it updates, whatever it is told
		if diff := cmp.Diff(&changed, i.Settings); diff != "" {
			t.Errorf("%s (-set +told):\n%s", stream, diff)
		}
	}
}

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

// A group goes on where it was, whatever happens to the server and the consumers.
func TestGroupsSurviveARestart(t *testing.T) {
	ctx := patient(t)
	log := openLog(t)
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

// Consumers share what there is, and the rest goes on when one of them leaves.
func TestConsumersShare(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	client := official(t, address)
	settings := esdb.SubscriptionSettingsDefault()
	settings.MaxSubscriberCount, settings.ExtraStatistics = 2, true
	createGroup(ctx, t, client, "s", esdb.Start{}, &settings)
	a, b := join(ctx, t, client, "s", 3), join(ctx, t, client, "s", 3)
	if _, err := client.SubscribeToPersistentSubscription(ctx, "s", "g", esdb.SubscribeToPersistentSubscriptionOptions{}); !strings.Contains(fmt.Sprint(err), "Maximum subscriptions reached") {
		t.Errorf("a third of two subscribers got %v", err)
	}
	fill(ctx, t, log, "s", 6)
	held := map[uint64]bool{}
	for range 3 {
		held[next(t, a).Event.OriginalEvent().EventNumber] = true
		e := next(t, b).Event
		if err := b.Ack(e); err != nil {
			t.Fatal(err)
		}
	}
	i := info(ctx, t, client, "s", "b answered", func(i *esdb.PersistentSubscriptionInfo) bool { return i.Stats.OutstandingMessagesCount == 3 })
	if len(i.Connections) != 2 || i.Connections[0].TotalItemsProcessed != 3 || i.Connections[0].Username != "anonymous" || i.Status != "Live" {
		t.Errorf("got %+v", i)
	}
	if m := slices.Concat(i.Connections[0].ExtraStatistics, i.Connections[1].ExtraStatistics); len(m) == 0 || m[0].Key != "Mean" {
		t.Errorf("measured %v", m)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		e := next(t, b)
		if n := e.Event.OriginalEvent().EventNumber; !held[n] || e.RetryCount != 1 {
			t.Errorf("b got revision %d, tried again %d times", n, e.RetryCount)
		}
	}
	// A retry comes at once; a consumer that stops is dropped.
	first := esdb.ResolvedEvent{}
	fill(ctx, t, log, "s", 1)
	c := join(ctx, t, client, "s", 3)
	first = *next(t, c).Event
	if err := c.Nack("once more", esdb.NackActionRetry, &first); err != nil {
		t.Fatal(err)
	}
	if e := next(t, c); e.Event.OriginalEvent().EventID != first.OriginalEvent().EventID || e.RetryCount != 1 {
		t.Errorf("a retry got %+v", e)
	}
	if err := c.Nack("enough", esdb.NackActionStop, &first); err != nil {
		t.Fatal(err)
	}
	if e := c.Recv(); e.SubscriptionDropped == nil || status.Code(e.SubscriptionDropped.Error) != codes.Canceled {
		t.Errorf("a consumer that stopped got %+v", e)
	}
}

// Changing, restarting and deleting a group drops its consumers, each with its reason.
func TestConsumersAreDropped(t *testing.T) {
	ctx := patient(t)
	_, address := serve(t)
	client := official(t, address)
	createGroup(ctx, t, client, "s", esdb.Start{}, nil)
	for _, c := range []struct {
		what string
		do   func() error
		want codes.Code
	}{
		{"update", func() error {
			return client.UpdatePersistentSubscription(ctx, "s", "g", esdb.PersistentStreamSubscriptionOptions{})
		}, codes.Canceled},
		{"restart", func() error {
			return client.RestartPersistentSubscriptionSubsystem(ctx, esdb.RestartPersistentSubscriptionSubsystemOptions{})
		}, codes.Canceled},
		{"delete", func() error {
			return client.DeletePersistentSubscription(ctx, "s", "g", esdb.DeletePersistentSubscriptionOptions{})
		}, codes.NotFound},
	} {
		sub := join(ctx, t, client, "s", 1)
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if e := sub.Recv(); e.SubscriptionDropped == nil || status.Code(e.SubscriptionDropped.Error) != c.want {
			t.Errorf("%s: got %+v", c.what, e)
		}
	}
}

// Who may do what with groups.
func TestAccessToGroups(t *testing.T) {
	ctx := patient(t)
	s := serveSecured(t, nil)
	fill(ctx, t, s.log, "s", 1)
	if _, err := s.log.Append(ctx, "$$private", eventstore.Any, eventstore.Proposed{Type: "$metadata", Data: []byte(`{"$acl":{"$r":"bob"}}`)}); err != nil {
		t.Fatal(err)
	}
	admin := s.client(t, "admin")
	createGroup(ctx, t, admin, "s", esdb.Start{}, nil)
	createGroup(ctx, t, admin, "private", esdb.Start{}, nil)
	if err := admin.CreatePersistentSubscriptionToAll(ctx, "g", esdb.PersistentAllSubscriptionOptions{}); err != nil {
		t.Fatal(err)
	}
	reads := func(stream string) func(*esdb.Client, *esdb.Credentials) error {
		return func(c *esdb.Client, as *esdb.Credentials) error {
			opts := esdb.SubscribeToPersistentSubscriptionOptions{Authenticated: as}
			sub, err := c.SubscribeToPersistentSubscription(ctx, stream, "g", opts)
			if stream == "$all" {
				sub, err = c.SubscribeToPersistentSubscriptionToAll(ctx, "g", opts)
			}
			if err == nil {
				err = sub.Close()
			}
			return err
		}
	}
	operations := map[string]struct {
		do  func(*esdb.Client, *esdb.Credentials) error
		may string
	}{
		"create": {func(c *esdb.Client, as *esdb.Credentials) error {
			err := c.CreatePersistentSubscription(ctx, "s", "g", esdb.PersistentStreamSubscriptionOptions{Authenticated: as})
			if kindOf(err) == "exists" {
				return nil
			}
			return err
		}, "admin ops"},
		"update": {func(c *esdb.Client, as *esdb.Credentials) error {
			return c.UpdatePersistentSubscription(ctx, "s", "g", esdb.PersistentStreamSubscriptionOptions{Authenticated: as})
		}, "admin ops"},
		"delete": {func(c *esdb.Client, as *esdb.Credentials) error {
			err := c.DeletePersistentSubscription(ctx, "s", "none", esdb.DeletePersistentSubscriptionOptions{Authenticated: as})
			if kindOf(err) == "not found" {
				return nil
			}
			return err
		}, "admin ops"},
		"replay": {func(c *esdb.Client, as *esdb.Credentials) error {
			return c.ReplayParkedMessages(ctx, "s", "g", esdb.ReplayParkedMessagesOptions{Authenticated: as})
		}, "admin ops"},
		"restart": {func(c *esdb.Client, as *esdb.Credentials) error {
			return c.RestartPersistentSubscriptionSubsystem(ctx, esdb.RestartPersistentSubscriptionSubsystemOptions{Authenticated: as})
		}, "admin ops"},
		"info": {func(c *esdb.Client, as *esdb.Credentials) error {
			_, err := c.GetPersistentSubscriptionInfo(ctx, "s", "g", esdb.GetPersistentSubscriptionOptions{Authenticated: as})
			return err
		}, "admin ops ann bob"},
		"list": {func(c *esdb.Client, as *esdb.Credentials) error {
			_, err := c.ListAllPersistentSubscriptions(ctx, esdb.ListPersistentSubscriptionsOptions{Authenticated: as})
			return err
		}, "admin ops ann bob"},
		"read":                  {reads("s"), "admin ops ann bob"},
		"read a private stream": {reads("private"), "admin bob"},
		"read all":              {reads("$all"), "admin"},
	}
	anonymous := s.client(t, "")
	for name, o := range operations {
		for _, user := range []string{"admin", "ops", "ann", "bob", ""} {
			want := "denied"
			if user != "" && slices.Contains(strings.Fields(o.may), user) {
				want = ""
			}
			var as *esdb.Credentials
			if user != "" {
				as = &esdb.Credentials{Login: user, Password: user}
			}
			if got := kindOf(o.do(anonymous, as)); got != want {
				t.Errorf("%q wants to %s: got %q, want %q", user, name, got, want)
			}
		}
		if got := kindOf(o.do(admin, &esdb.Credentials{Login: "admin", Password: "wrong"})); got != "unauthenticated" {
			t.Errorf("%s with a wrong password: got %q", name, got)
		}
	}
}

// What a consumer cannot mean ends its call.
func TestBadConsumers(t *testing.T) {
	ctx := patient(t)
	_, address := serve(t)
	createGroup(ctx, t, official(t, address), "s", esdb.Start{}, nil)
	groups := pb.NewPersistentSubscriptionsClient(dial(t, address))
	options := func(slots int32) *pb.ReadReq {
		return &pb.ReadReq{Content: &pb.ReadReq_Options_{Options: &pb.ReadReq_Options{
			StreamOption: &pb.ReadReq_Options_StreamIdentifier{StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte("s")}}, GroupName: "g", BufferSize: slots,
		}}}
	}
	ack := &pb.ReadReq{Content: &pb.ReadReq_Ack_{Ack: &pb.ReadReq_Ack{Ids: []*shared.UUID{{}}}}}
	for name, c := range map[string]struct {
		send []*pb.ReadReq
		want codes.Code
	}{
		"an answer first":        {[]*pb.ReadReq{ack}, codes.InvalidArgument},
		"no room":                {[]*pb.ReadReq{options(0)}, codes.Internal},
		"options twice":          {[]*pb.ReadReq{options(1), options(1)}, codes.InvalidArgument},
		"an answer to no event":  {[]*pb.ReadReq{options(1), ack}, codes.InvalidArgument},
		"no stream":              {[]*pb.ReadReq{{Content: &pb.ReadReq_Options_{Options: &pb.ReadReq_Options{BufferSize: 1}}}}, codes.InvalidArgument},
		"a message with nothing": {[]*pb.ReadReq{options(1), {}}, codes.InvalidArgument},
	} {
		call, err := groups.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.send {
			if err := call.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		for err == nil {
			_, err = call.Recv()
		}
		if status.Code(err) != c.want {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
