package contract

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shiplog/shiplog/eventstore"
)

func mustSetMetadata(ctx context.Context, t *testing.T, log eventstore.Log, stream string, m eventstore.Metadata) {
	t.Helper()
	if err := log.SetMetadata(ctx, stream, eventstore.Any, m); err != nil {
		t.Fatalf("setting the metadata of %s: %v", stream, err)
	}
}

var metadataTests = []test{
	{"there is none at first", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, event("A", ""))
		for _, stream := range []string{"s", "none"} {
			m, revision, err := log.Metadata(ctx, stream)
			if err != nil || revision != eventstore.NoStream || !cmp.Equal(m, eventstore.Metadata{}) {
				t.Errorf("%s: got %+v at %d, %v", stream, m, revision, err)
			}
		}
	}},
	{"what was set is read back, and is an event that others find", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		want := eventstore.Metadata{
			MaxCount: 5, MaxAge: 90 * time.Second, TruncateBefore: 2,
			Custom: map[string]any{"owner": "me", "$acl": map[string]any{"$r": "admins"}},
		}
		if err := log.SetMetadata(ctx, "s", eventstore.NoStream, eventstore.Metadata{MaxCount: 3}); err != nil {
			t.Fatal(err)
		}
		if err := log.SetMetadata(ctx, "s", eventstore.Exact(0), want); err != nil {
			t.Fatal(err)
		}
		got, revision, err := log.Metadata(ctx, "s")
		if err != nil || revision != 1 {
			t.Fatalf("got revision %d, %v", revision, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("metadata differs (-set +read):\n%s", diff)
		}
		stored := mustCollect(t, log.ReadStream(ctx, "$$s", eventstore.ReadStream{}))
		if len(stored) != 1 || stored[0].Type != "$metadata" || stored[0].Revision != 1 {
			t.Errorf("the stream $$s holds %+v, want its last event only", stored)
		}
	}},
	{"it has revisions of its own", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustSetMetadata(ctx, t, log, "s", eventstore.Metadata{MaxCount: 1})
		err := log.SetMetadata(ctx, "s", eventstore.NoStream, eventstore.Metadata{MaxCount: 2})
		wantConflict(t, err, "$$s", eventstore.NoStream, 0)
		err = log.SetMetadata(ctx, "s", eventstore.Exact(4), eventstore.Metadata{MaxCount: 2})
		wantConflict(t, err, "$$s", eventstore.Exact(4), 0)
		if m, _, err := log.Metadata(ctx, "s"); err != nil || m.MaxCount != 1 {
			t.Errorf("got %+v, %v", m, err)
		}
	}},
	{"a maximum count keeps the last events", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(10)...)
		mustSetMetadata(ctx, t, log, "s", eventstore.Metadata{MaxCount: 3})
		read := func(opts eventstore.ReadStream) []eventstore.Recorded {
			return mustCollect(t, log.ReadStream(ctx, "s", opts))
		}
		wantRevisions(t, read(eventstore.ReadStream{}), 7, 8, 9)
		mustAppend(ctx, t, log, "s", eventstore.Exact(9), events(2)...)
		wantRevisions(t, read(eventstore.ReadStream{}), 9, 10, 11)
		wantRevisions(t, read(eventstore.ReadStream{From: 10}), 10, 11)
		wantRevisions(t, read(eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true}), 11, 10, 9)
		wantRevisions(t, read(eventstore.ReadStream{Direction: eventstore.Backwards, From: 8}))
		wantRevisions(t, mustCollect(t, log.ReadAll(ctx, eventstore.ReadAll{})), 9, 10, 11)
		wantRevisions(t, subscribe(ctx, t, log, eventstore.Subscribe{}).take(3), 9, 10, 11)
		mustSetMetadata(ctx, t, log, "s", eventstore.Metadata{MaxCount: 1})
		wantRevisions(t, read(eventstore.ReadStream{}), 11)
	}},
	{"truncation hides what comes before", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(5)...)
		mustAppend(ctx, t, log, "other", eventstore.Any, events(2)...)
		mustSetMetadata(ctx, t, log, "s", eventstore.Metadata{TruncateBefore: 3})
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})), 3, 4)
		wantRevisions(t, mustCollect(t, log.ReadAll(ctx, eventstore.ReadAll{})), 3, 4, 0, 1)
		mustSetMetadata(ctx, t, log, "s", eventstore.Metadata{TruncateBefore: 100})
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})))
		if a := mustAppend(ctx, t, log, "s", eventstore.Exact(4), event("A", "")); a.Revision != 5 {
			t.Errorf("got %+v", a)
		}
	}},
	{"a maximum age that nothing has reached hides nothing", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(3)...)
		mustSetMetadata(ctx, t, log, "s", eventstore.Metadata{MaxAge: time.Hour})
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})), 0, 1, 2)
	}},
	{"a maximum age takes events away when they have reached it", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustSetMetadata(ctx, t, log, "s", eventstore.Metadata{MaxAge: time.Second})
		mustAppend(ctx, t, log, "s", eventstore.Any, events(3)...)
		mustAppend(ctx, t, log, "other", eventstore.Any, events(1)...)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for len(mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{}))) > 0 {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatal("they are still there")
			}
		}
		if all := mustCollect(t, log.ReadAll(ctx, eventstore.ReadAll{})); len(all) != 1 || all[0].Stream != "other" {
			t.Errorf("everything is still %+v", all)
		}
		if a := mustAppend(ctx, t, log, "s", eventstore.Exact(2), event("A", "")); a.Revision != 3 {
			t.Errorf("got %+v, want revision 3", a)
		}
	}},
	{"subscriptions leave out what was truncated", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(5)...)
		mustSetMetadata(ctx, t, log, "s", eventstore.Metadata{TruncateBefore: 3})
		wantRevisions(t, subscribe(ctx, t, log, eventstore.Subscribe{}).take(2), 3, 4)
		wantRevisions(t, subscribe(ctx, t, log, eventstore.Subscribe{Stream: "s"}).take(2), 3, 4)
	}},
	{"it can be set before there is a stream", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustSetMetadata(ctx, t, log, "s", eventstore.Metadata{MaxCount: 2})
		_, err := collect(log.ReadStream(ctx, "s", eventstore.ReadStream{}))
		wantErr(t, err, eventstore.ErrStreamNotFound)
		mustAppend(ctx, t, log, "s", eventstore.NoStream, events(3)...)
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})), 1, 2)
	}},
}

var deleteTests = []test{
	{"a deleted stream is gone, and goes on where it ended", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(3)...)
		mustAppend(ctx, t, log, "other", eventstore.Any, events(1)...)
		if err := log.Delete(ctx, "s", eventstore.Exact(2)); err != nil {
			t.Fatal(err)
		}
		_, err := collect(log.ReadStream(ctx, "s", eventstore.ReadStream{}))
		wantErr(t, err, eventstore.ErrStreamNotFound)
		if all := mustCollect(t, log.ReadAll(ctx, eventstore.ReadAll{})); len(all) != 1 || all[0].Stream != "other" {
			t.Errorf("everything is still %+v", all)
		}
		_, err = log.Append(ctx, "s", eventstore.StreamExists, event("A", ""))
		wantConflict(t, err, "s", eventstore.StreamExists, eventstore.NoStream)
		if a := mustAppend(ctx, t, log, "s", eventstore.NoStream, events(2)...); a.Revision != 4 {
			t.Errorf("got %+v, want revision 4", a)
		}
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})), 3, 4)
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true})), 4, 3)
	}},
	{"a deleted stream goes on with its last revision, or any", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		for _, expected := range []eventstore.Expected{eventstore.Exact(1), eventstore.Any} {
			stream := map[eventstore.Expected]string{eventstore.Exact(1): "exact", eventstore.Any: "any"}[expected]
			mustAppend(ctx, t, log, stream, eventstore.Any, events(2)...)
			if err := log.Delete(ctx, stream, eventstore.StreamExists); err != nil {
				t.Fatal(err)
			}
			mustAppend(ctx, t, log, stream, expected, event("A", ""))
			wantRevisions(t, mustCollect(t, log.ReadStream(ctx, stream, eventstore.ReadStream{})), 2)
		}
	}},
	{"a stream that was deleted keeps its other metadata", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustSetMetadata(ctx, t, log, "s", eventstore.Metadata{MaxCount: 2, Custom: map[string]any{"owner": "me"}})
		mustAppend(ctx, t, log, "s", eventstore.Any, events(4)...)
		if err := log.Delete(ctx, "s", eventstore.Any); err != nil {
			t.Fatal(err)
		}
		mustAppend(ctx, t, log, "s", eventstore.Any, events(1)...)
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})), 4)
		mustAppend(ctx, t, log, "s", eventstore.Any, events(4)...)
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})), 7, 8)
		if m, _, err := log.Metadata(ctx, "s"); err != nil || m.MaxCount != 2 || m.Custom["owner"] != "me" || m.TruncateBefore != 4 {
			t.Errorf("got %+v, %v", m, err)
		}
	}},
	{"deleting expects a revision like appending", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(3)...)
		for name, remove := range map[string]func(context.Context, string, eventstore.Expected) error{"delete": log.Delete, "tombstone": log.Tombstone} {
			t.Run(name, func(t *testing.T) {
				wantConflict(t, remove(ctx, "s", eventstore.Exact(1)), "s", eventstore.Exact(1), 2)
				wantConflict(t, remove(ctx, "s", eventstore.NoStream), "s", eventstore.NoStream, 2)
				wantConflict(t, remove(ctx, "none", eventstore.Exact(0)), "none", eventstore.Exact(0), eventstore.NoStream)
			})
		}
		wantRevisions(t, mustCollect(t, log.ReadStream(ctx, "s", eventstore.ReadStream{})), 0, 1, 2)
	}},
	{"a tombstoned stream is deleted for good", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(3)...)
		if err := log.Tombstone(ctx, "s", eventstore.Exact(2)); err != nil {
			t.Fatal(err)
		}
		_, err := collect(log.ReadStream(ctx, "s", eventstore.ReadStream{}))
		wantErr(t, err, eventstore.ErrStreamDeleted)
		for _, expected := range []eventstore.Expected{eventstore.Any, eventstore.NoStream, eventstore.Exact(2), eventstore.StreamExists} {
			_, err = log.Append(ctx, "s", expected, event("A", ""))
			wantErr(t, err, eventstore.ErrStreamDeleted)
		}
		wantErr(t, log.Delete(ctx, "s", eventstore.Any), eventstore.ErrStreamDeleted)
		wantErr(t, log.Tombstone(ctx, "s", eventstore.Any), eventstore.ErrStreamDeleted)
		wantErr(t, log.SetMetadata(ctx, "s", eventstore.Any, eventstore.Metadata{MaxCount: 1}), eventstore.ErrStreamDeleted)
		if all := mustCollect(t, log.ReadAll(ctx, eventstore.ReadAll{})); len(all) != 0 {
			t.Errorf("everything is still %+v", all)
		}
		all := everything(ctx, t, log)
		if last := all[len(all)-1]; last.Type != eventstore.TombstoneType || last.Stream != "s" {
			t.Errorf("the log ends with %+v, want the tombstone", last)
		}
	}},
}
