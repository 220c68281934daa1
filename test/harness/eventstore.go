package harness

import (
	"os"
	"testing"
)

// EventStoreEnv, when it is set, makes every cluster keep its log in an event store in another process, and reach it through
// the official EventStoreDB client: the same suite is run once without and once with it.
const EventStoreEnv = "SHIPLOG_E2E_EVENTSTORE"

// OnEventStore leaves out a test that brings an event store of its own where the suite runs without: it would be the same test
// twice.
func OnEventStore(t testing.TB) {
	t.Helper()
	if os.Getenv(EventStoreEnv) == "" {
		t.Skip("this test brings an event store of its own: it runs with " + EventStoreEnv + "=esdb, as `make test` and `make e2e` do after this run")
	}
}

// EventStore is a running `shiplog eventstore serve`.
type EventStore struct {
	*process
	dir   string
	netns string
	at    string
}

// StartEventStore starts an event store on an empty directory. It is stopped when the test ends.
func StartEventStore(t testing.TB) *EventStore { return startEventStore(t, "") }

func startEventStore(t testing.TB, netns string) *EventStore {
	t.Helper()
	e := &EventStore{process: newProcess(t, "event store"), dir: TempDir(t), netns: netns, at: "127.0.0.1:0"}
	t.Cleanup(func() {
		if e.launched() {
			e.Stop()
		}
	})
	e.Launch()
	return e
}

// Launch starts the process (again), on the same directory and at the same address.
func (e *EventStore) Launch() {
	e.t.Helper()
	at, err := e.launch(inNetNS(e.netns, Binary(e.t), "eventstore", "serve", "--dir", e.dir, "--listen", e.at, "--insecure"))
	if err != nil {
		e.t.Fatal(err)
	}
	e.at = at
}

// Address is what `shiplog up --eventstore` takes.
func (e *EventStore) Address() string { return "esdb://" + e.at + "?tls=false" }
