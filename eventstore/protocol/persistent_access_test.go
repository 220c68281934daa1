package protocol_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"github.com/shiplog/shiplog/eventstore"
)

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
