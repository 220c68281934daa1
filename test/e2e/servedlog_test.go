package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/internal/servetest"
	"github.com/shiplog/shiplog/test/harness"
)

// TestServedLog follows a running cluster with the official EventStoreDB client, as the administrator's connection string says, through
// a persistent subscription that goes on where it was after kill -9.
func TestServedLog(t *testing.T) {
	t.Parallel()
	if os.Getenv(harness.EventStoreEnv) != "" {
		out, err := exec.Command(harness.Binary(t), "up", "--eventstore", "esdb://127.0.0.1:1?tls=false", "--eventstore-listen", "127.0.0.1:0").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "--eventstore-listen") {
			t.Errorf("a log that is elsewhere is served again: %v\n%s", err, out)
		}
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := harness.Start(t, harness.Options{Args: []string{"--no-node", "--eventstore-listen", "127.0.0.1:0", "--eventstore-write", "app-"}})
	connect := func() *esdb.Client {
		t.Helper()
		connection, err := os.ReadFile(filepath.Join(c.Dir, "eventstore.connection"))
		if err != nil {
			t.Fatal(err)
		}
		return servetest.Connect(t, strings.TrimSpace(string(connection)))
	}
	client := connect()
	settings := esdb.SubscriptionSettingsDefault()
	settings.CheckpointLowerBound, settings.CheckpointUpperBound = 1, 1
	err := client.CreatePersistentSubscriptionToAll(ctx, "g", esdb.PersistentAllSubscriptionOptions{
		StartFrom: esdb.Start{}, Settings: &settings, Filter: &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{"configmaps-default/mine-"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(client *esdb.Client, stream string) {
		t.Helper()
		sub, err := client.SubscribeToPersistentSubscriptionToAll(ctx, "g", esdb.SubscribeToPersistentSubscriptionOptions{BufferSize: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		e := sub.Recv()
		if e.EventAppeared == nil || e.EventAppeared.Event.OriginalEvent().StreamID != stream {
			t.Fatalf("got %+v, want an event of %s", e, stream)
		}
		if err := sub.Ack(e.EventAppeared.Event); err != nil {
			t.Fatal(err)
		}
		want := e.EventAppeared.Event.OriginalEvent().Position.Commit
		for {
			info, err := client.GetPersistentSubscriptionInfoToAll(ctx, "g", esdb.GetPersistentSubscriptionOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if p := info.Stats.LastCheckpointedPosition; p != nil && p.Commit >= want {
				return
			}
		}
	}
	c.Kubectl("create", "configmap", "mine-1")
	expect(client, "configmaps-default/mine-1")
	c.Kill()
	c.Launch()
	client = connect()
	c.Kubectl("create", "configmap", "mine-2")
	expect(client, "configmaps-default/mine-2")

	for stream, allowed := range map[string]bool{"configmaps-default/mine-2": false, "app-1": true} {
		_, err := client.AppendToStream(ctx, stream, esdb.AppendToStreamOptions{}, esdb.EventData{EventID: uuid.New(), EventType: "T"})
		if allowed != (err == nil) {
			t.Errorf("writing to %s: %v", stream, err)
		}
	}
	// What others keep in the log beside the cluster does not disturb it.
	if r := c.Shiplog("verify"); r.Code != 0 {
		t.Errorf("verify: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}
