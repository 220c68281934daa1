package embedded_test

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// After a sync has failed its events are in Pebble's memory, but nobody may see them: they may be gone after a restart.
func TestWhatWasNotSyncedIsNotSeen(t *testing.T) {
	disk := vfs.NewCrashableMem()
	fault := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if isSync(op) {
			return errInjected
		}
		return nil
	})
	toggle := &errorfs.Toggle{Injector: fault}
	log := open(t, "log", embedded.Options{FS: errorfs.Wrap(disk, toggle), Logger: quiet()})
	mustAppend(t, log, "before", 3)
	sub, err := log.Subscribe(t.Context(), eventstore.Subscribe{})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := sub.Next(t.Context()); err != nil || len(b.Events) != 3 || !b.CaughtUp {
		t.Fatalf("got %+v, %v", b, err)
	}
	toggle.On()
	for _, stream := range []string{"before", "new"} {
		if _, err := log.Append(t.Context(), stream, eventstore.Any, eventstore.Proposed{Type: "Lost"}); !errors.Is(err, eventstore.ErrUnavailable) {
			t.Fatalf("appending to %s: got %v, want ErrUnavailable", stream, err)
		}
	}
	toggle.Off()
	if _, err := log.Append(t.Context(), "before", eventstore.Any, eventstore.Proposed{Type: "Late"}); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Fatalf("the disk works again, and the log wrote: got %v, want ErrUnavailable", err)
	}
	if got := len(readAll(t, log)); got != 3 {
		t.Errorf("read %d events, want 3", got)
	}
	if got := revisions(t, log, "before", eventstore.ReadStream{}); got != "[0 1 2]" {
		t.Errorf("the stream holds %s", got)
	}
	back := eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true}
	if got := revisions(t, log, "before", back); got != "[2 1 0]" {
		t.Errorf("backwards the stream holds %s", got)
	}
	if got := revisions(t, log, "new", eventstore.ReadStream{}); got != "not found" {
		t.Errorf("the new stream holds %s", got)
	}
	if head, err := log.Head(t.Context()); err != nil || head != 3 {
		t.Errorf("head: got %d, %v", head, err)
	}
}
