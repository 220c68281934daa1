package contract

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// call is one of a log's calls.
type call struct {
	name string
	make func(ctx context.Context, log eventstore.Log) error
}

// calls are all of them, each such that it succeeds on a log whose stream "s" holds something.
var calls = []call{
	{"append", func(ctx context.Context, log eventstore.Log) error {
		_, err := log.Append(ctx, "s", eventstore.Any, event("A", ""))
		return err
	}},
	{"read a stream", func(ctx context.Context, log eventstore.Log) error {
		_, err := collect(log.ReadStream(ctx, "s", eventstore.ReadStream{}))
		return err
	}},
	{"read a stream backwards", func(ctx context.Context, log eventstore.Log) error {
		_, err := collect(log.ReadStream(ctx, "s", eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true}))
		return err
	}},
	{"read everything", func(ctx context.Context, log eventstore.Log) error {
		_, err := collect(log.ReadAll(ctx, eventstore.ReadAll{}))
		return err
	}},
	{"read everything backwards", func(ctx context.Context, log eventstore.Log) error {
		_, err := collect(log.ReadAll(ctx, eventstore.ReadAll{Direction: eventstore.Backwards, FromEnd: true}))
		return err
	}},
	{"subscribe", func(ctx context.Context, log eventstore.Log) error {
		sub, err := log.Subscribe(ctx, eventstore.Subscribe{})
		if err != nil {
			return err
		}
		_, err = sub.Next(ctx)
		return errors.Join(err, sub.Close())
	}},
	{"set metadata", func(ctx context.Context, log eventstore.Log) error {
		return log.SetMetadata(ctx, "s", eventstore.Any, eventstore.Metadata{MaxCount: 100})
	}},
	{"metadata", func(ctx context.Context, log eventstore.Log) error {
		_, _, err := log.Metadata(ctx, "s")
		return err
	}},
	{"head", func(ctx context.Context, log eventstore.Log) error {
		_, err := log.Head(ctx)
		return err
	}},
	{"position at a time", func(ctx context.Context, log eventstore.Log) error {
		_, err := eventstore.PositionAt(ctx, log, time.Now())
		return err
	}},
	{"delete", func(ctx context.Context, log eventstore.Log) error { return log.Delete(ctx, "s", eventstore.Any) }},
	{"tombstone", func(ctx context.Context, log eventstore.Log) error { return log.Tombstone(ctx, "t", eventstore.Any) }},
}

func eachCall(t *testing.T, log eventstore.Log, within func(*testing.T) context.Context, want error) {
	for _, c := range calls {
		t.Run(c.name, func(t *testing.T) { wantErr(t, c.make(within(t), log), want) })
	}
}

var endTests = []test{
	{"every call succeeds, to begin with", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(2)...)
		for _, c := range calls {
			if err := c.make(ctx, log); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}},
	{"every call ends with its context, and changes nothing then", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		a := mustAppend(ctx, t, log, "s", eventstore.Any, events(2)...)
		eachCall(t, log, func(*testing.T) context.Context {
			cancelled, cancel := context.WithCancel(ctx)
			cancel()
			return cancelled
		}, context.Canceled)
		eachCall(t, log, func(t *testing.T) context.Context {
			late, cancel := context.WithDeadline(ctx, time.Now().Add(-time.Second))
			t.Cleanup(cancel)
			return late
		}, context.DeadlineExceeded)
		if head, err := log.Head(ctx); err != nil || head != a.Position {
			t.Errorf("the head is %d, %v; it was %d", head, err, a.Position)
		}
	}},
	{"a reader that waits in the middle of a read learns that it is over", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, events(long)...)
		for name, read := range map[string]func(ctx context.Context, yield func(eventstore.Recorded, error) bool){
			"everything": func(ctx context.Context, yield func(eventstore.Recorded, error) bool) {
				log.ReadAll(ctx, eventstore.ReadAll{})(yield)
			},
			"everything backwards": func(ctx context.Context, yield func(eventstore.Recorded, error) bool) {
				log.ReadAll(ctx, eventstore.ReadAll{Direction: eventstore.Backwards, FromEnd: true})(yield)
			},
			"a stream": func(ctx context.Context, yield func(eventstore.Recorded, error) bool) {
				log.ReadStream(ctx, "s", eventstore.ReadStream{})(yield)
			},
		} {
			t.Run(name, func(t *testing.T) {
				reading, cancel := context.WithCancel(ctx)
				defer cancel()
				var last error
				n := 0
				read(reading, func(_ eventstore.Recorded, err error) bool {
					if last = err; n == 3 {
						cancel()
					}
					n++
					return true
				})
				wantErr(t, last, context.Canceled)
				if n > 10 {
					t.Errorf("%d events came after the context had ended", n-4)
				}
			})
		}
	}},
	{"a wait for the next batch ends with its deadline", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		for _, opts := range []eventstore.Subscribe{{}, {Filter: eventstore.Filter{TypePrefixes: []string{"none"}}}, {Stream: "s"}} {
			f := subscribe(ctx, t, log, opts)
			f.catchUp()
			waiting, cancel := context.WithTimeout(ctx, time.Millisecond)
			_, err := f.sub.Next(waiting)
			cancel()
			wantErr(t, err, context.DeadlineExceeded)
		}
	}},
	{"every call of a closed log says so", func(ctx context.Context, t *testing.T, log eventstore.Log) {
		mustAppend(ctx, t, log, "s", eventstore.Any, event("A", ""))
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		eachCall(t, log, func(*testing.T) context.Context { return ctx }, eventstore.ErrClosed)
	}},
}
