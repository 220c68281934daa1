package protocol_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"github.com/shiplog/shiplog/eventstore"
)

// Links are followed for those who want it, as far as they may read what the links lead to.
func TestLinks(t *testing.T) {
	ctx := patient(t)
	s := serveSecured(t, nil)
	fill(ctx, t, s.log, "s", 3)
	fill(ctx, t, s.log, "secret", 1)
	if _, err := s.log.Append(ctx, "$$secret", eventstore.Any, eventstore.Proposed{Type: "$metadata", Data: []byte(`{"$acl":{"$r":"bob"}}`)}); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"1@s", "0@secret", "7@s", "0@none", "rubbish", "2@s"} {
		if _, err := s.log.Append(ctx, "links", eventstore.Any, eventstore.Proposed{Type: "$>", ContentType: "application/octet-stream", Data: []byte(to)}); err != nil {
			t.Fatal(err)
		}
	}
	describe := func(e *esdb.ResolvedEvent) string {
		what := func(r *esdb.RecordedEvent) string {
			if r == nil {
				return "-"
			}
			return fmt.Sprintf("%d@%s", r.EventNumber, r.StreamID)
		}
		return what(e.Event) + "<" + what(e.Link)
	}
	for name, c := range map[string]struct {
		user    string
		resolve bool
		want    string
	}{
		"not followed":                {"ann", false, "0@links<- 1@links<- 2@links<- 3@links<- 4@links<- 5@links<-"},
		"followed":                    {"bob", true, "1@s<0@links 0@secret<1@links -<2@links -<3@links -<4@links 2@s<5@links"},
		"followed as far as she may":  {"ann", true, "1@s<0@links -<1@links -<2@links -<3@links -<4@links 2@s<5@links"},
		"followed by who may see all": {"admin", true, "1@s<0@links 0@secret<1@links -<2@links -<3@links -<4@links 2@s<5@links"},
	} {
		client := s.client(t, c.user)
		read, err := client.ReadStream(ctx, "links", esdb.ReadStreamOptions{ResolveLinkTos: c.resolve}, 100)
		if err != nil {
			t.Fatal(err)
		}
		got := received(t, read, describe)
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s, read: got %s, want %s", name, g, c.want)
		}
		sub, err := client.SubscribeToStream(ctx, "links", esdb.SubscribeToStreamOptions{From: esdb.Start{}, ResolveLinkTos: c.resolve})
		if err != nil {
			t.Fatal(err)
		}
		got = nil
		for range 6 {
			got = append(got, describe(sub.Recv().EventAppeared))
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s, subscription: got %s, want %s", name, g, c.want)
		}
		sub.Close()
	}
	// A group gets what there is at the other end, answers with the link's id, and passes over the rest.
	admin := s.client(t, "admin")
	settings := prompt()
	settings.ResolveLinkTos = true
	createGroup(ctx, t, admin, "links", esdb.Start{}, settings)
	sub := join(ctx, t, admin, "links", 1)
	for _, want := range []string{"1@s<0@links", "0@secret<1@links", "2@s<5@links"} {
		e := next(t, sub)
		if got := describe(e.Event); got != want {
			t.Errorf("the group got %s, want %s", got, want)
		}
		if err := sub.Ack(e.Event); err != nil {
			t.Fatal(err)
		}
	}
	info(ctx, t, admin, "links", "all is finished", func(i *esdb.PersistentSubscriptionInfo) bool {
		return i.Stats.LastCheckpointedEventRevision != nil && *i.Stats.LastCheckpointedEventRevision == 5
	})
}
