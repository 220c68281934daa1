package contract

import (
	"context"
	"testing"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

var timeTests = []test{
	{"a moment has the position of the last event that was recorded by then", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		at := func(when time.Time) eventstore.Position {
			t.Helper()
			p, err := eventstore.PositionAt(ctx, log, when)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		if p := at(time.Now()); p != 0 {
			t.Errorf("an empty log: got %d", p)
		}
		for range 30 {
			mustAppend(ctx, t, log, "s", eventstore.Any, events(20)...)
		}
		all := everything(ctx, t, log)
		last := func(when time.Time) (p eventstore.Position) {
			for _, e := range all {
				if !e.Created.After(when) {
					p = e.Position
				}
			}
			return p
		}
		head := all[len(all)-1].Position
		if p := at(all[0].Created.Add(-time.Second)); p != 0 {
			t.Errorf("before the first event: got %d", p)
		}
		if p := at(time.Now().Add(time.Hour)); p != head {
			t.Errorf("in an hour: got %d, want %d", p, head)
		}
		for i := 0; i < len(all); i += 37 {
			for _, when := range []time.Time{all[i].Created, all[i].Created.Add(-time.Nanosecond), all[i].Created.Add(time.Microsecond)} {
				if got, want := at(when), last(when); got != want {
					t.Errorf("at %s: got %d, want %d", when, got, want)
				}
			}
		}
	}},
}
