package protocol_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/go-cmp/cmp"
)

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
