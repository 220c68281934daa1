package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shiplog/shiplog/eventstore"
)

func TestVerify(t *testing.T) {
	first := keyOf(eventKey, 1)
	for name, c := range map[string]struct {
		damage func(t *testing.T, l *Log)
		want   string
	}{
		"sound":               {func(*testing.T, *Log) {}, ""},
		"an event is missing": {func(t *testing.T, l *Log) { remove(t, l, keyOf(eventKey, 7)) }, `should be at position 7`},
		"an index entry is missing": {
			func(t *testing.T, l *Log) { remove(t, l, keyOf(indexKey, 1, 0)) }, `position 1, revision 0 of "s-0"`,
		},
		"two events have changed places": {func(t *testing.T, l *Log) {
			a, b := value(t, l, first), value(t, l, keyOf(eventKey, 2))
			put(t, l, first, b)
			put(t, l, keyOf(eventKey, 2), a)
		}, "position 1: its checksum"},
		"a byte has changed": {func(t *testing.T, l *Log) {
			v := value(t, l, first)
			v[len(v)-1]++
			put(t, l, first, v)
		}, "position 1: its checksum"},
		"an index entry points elsewhere": {
			func(t *testing.T, l *Log) { put(t, l, keyOf(indexKey, 1, 0), varints(2)) }, "position 1, revision 0",
		},
		"an index entry too many": {
			func(t *testing.T, l *Log) { put(t, l, keyOf(indexKey, 1, 500), varints(2)) }, "revision 500",
		},
		"a stream has two ids": {func(t *testing.T, l *Log) { put(t, l, keyOf(nameKey, 1), []byte("s-1")) }, "s-1"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Open("log", Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler), ScavengeEvery: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			for i := range 20 {
				if _, err := l.Append(t.Context(), fmt.Sprintf("s-%d", i%3), eventstore.Any, eventstore.Proposed{Type: "T", Data: []byte("data")}); err != nil {
					t.Fatal(err)
				}
			}
			c.damage(t, l)
			got, err := l.Verify(t.Context(), nil)
			if c.want == "" {
				if err != nil || got != (Verified{Events: 20, Streams: 3, Head: 20}) {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			if !errors.Is(err, eventstore.ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ErrCorrupt that says %q", err, c.want)
			}
		})
	}
}

func remove(t *testing.T, l *Log, key []byte) {
	t.Helper()
	if err := l.db.Delete(key, pebble.Sync); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, l *Log, key, value []byte) {
	t.Helper()
	if err := l.db.Set(key, value, pebble.Sync); err != nil {
		t.Fatal(err)
	}
}

func value(t *testing.T, l *Log, key []byte) []byte {
	t.Helper()
	v, found, err := database{l.db}.get(key)
	if err != nil || !found {
		t.Fatalf("key %x: %v", key, err)
	}
	return v
}
