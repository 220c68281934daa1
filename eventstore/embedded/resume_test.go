package embedded

import (
	"log/slog"
	"math"
	"os"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/shiplog/shiplog/eventstore"
)

// An upgrade that a crash has ended after any number of events goes on behind them.
func TestResumedUpgrade(t *testing.T) {
	var want []eventstore.Entry
	for done := 0; ; done++ {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS("testdata/format1")); err != nil {
			t.Fatal(err)
		}
		more := upgradeFirst(t, dir+"/db", done)
		log, err := Open(dir, Options{Logger: slog.New(slog.DiscardHandler), ScavengeEvery: -1})
		if err != nil {
			t.Fatal(err)
		}
		var got []eventstore.Entry
		for e, err := range log.Entries(t.Context(), 0, math.MaxUint64) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%d events had been upgraded: the chain differs (-want +got):\n%s", done, diff)
		}
		if !more {
			if done < 20 {
				t.Fatalf("only %d events in a log of format 1", done)
			}
			return
		}
	}
}

// upgradeFirst does the beginning of an upgrade, and says whether there is more to do.
func upgradeFirst(t *testing.T, dir string, n int) (more bool) {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{ErrorIfNotExists: true, Logger: pebbleLogger{&Log{log: slog.New(slog.DiscardHandler)}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	streams, err := newStreams(100, nil)
	if err != nil {
		t.Fatal(err)
	}
	u := upgrader{l: &Log{db: db, streams: streams}}
	batch := db.NewBatch()
	it, err := database{db}.iter([]byte{eventKey}, []byte{eventKey + 1})
	if err != nil {
		t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if n--; n < 0 {
			more = true
			break
		}
		if err := u.one(batch, eventstore.Position(numberIn(it.Key(), 0)), it.Value()); err != nil {
			t.Fatal(err)
		}
	}
	if err := closeIter(it); err != nil {
		t.Fatal(err)
	}
	if err := batch.Commit(pebble.Sync); err != nil {
		t.Fatal(err)
	}
	return more
}
