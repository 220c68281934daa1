package logcopy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/esdb"
	"github.com/shiplog/shiplog/eventstore/protocol"
	"github.com/shiplog/shiplog/ops/backup/logcopy"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func theDay() *clock { return &clock{time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)} }

func newLog(t testing.TB, c *clock) *embedded.Log {
	t.Helper()
	log, err := embedded.Open("log", embedded.Options{FS: vfs.NewMem(), Now: c.Now, Logger: quiet(), ScavengeEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return log
}

// server is a log that takes appends only, as one in another process.
type server struct{ eventstore.Log }

// happen writes a random history of every kind of change to a few streams. stricter says that retention is never relaxed.
func happen(t testing.TB, log *embedded.Log, c *clock, random *rand.Rand, n int, stricter bool) {
	t.Helper()
	ctx := context.Background()
	for range n {
		c.now = c.now.Add(time.Duration(random.IntN(2000)) * time.Millisecond)
		stream := fmt.Sprintf("configmaps-default/c%d", random.IntN(10))
		op := random.IntN(20)
		if stricter && op < 3 {
			op = 20
		}
		var err error
		switch op {
		case 0:
			err = log.SetMetadata(ctx, stream, eventstore.Any, eventstore.Metadata{MaxCount: uint64(random.IntN(4)), Custom: map[string]any{"owner": "ada"}})
		case 1:
			err = log.SetMetadata(ctx, stream, eventstore.Any, eventstore.Metadata{MaxAge: time.Duration(1+random.IntN(3)) * 10 * time.Second, MaxCount: uint64(random.IntN(4))})
		case 2:
			err = log.SetMetadata(ctx, stream, eventstore.Any, eventstore.Metadata{TruncateBefore: uint64(random.IntN(8))})
		case 3:
			err = log.Delete(ctx, stream, eventstore.Any)
		case 4:
			if random.IntN(6) == 0 {
				err = log.Tombstone(ctx, stream, eventstore.Any)
			}
		case 5:
			_, err = log.Scavenge(ctx)
		case 20:
			var m eventstore.Metadata
			if m, _, err = log.Metadata(ctx, stream); err == nil && m.TruncateBefore < 1<<60 {
				m.TruncateBefore += uint64(random.IntN(4))
				err = log.SetMetadata(ctx, stream, eventstore.Any, m)
			}
		default:
			events := make([]eventstore.Proposed, 1+random.IntN(4))
			for i := range events {
				events[i] = eventstore.Proposed{ID: uuid.New(), Type: "ConfigMapChanged", Data: fmt.Appendf(nil, `{"n":%d}`, random.Int64()), Metadata: []byte(`{"actor":"ada"}`)}
			}
			_, err = log.Append(ctx, stream, eventstore.Any, events...)
		}
		if err != nil && !errors.Is(err, eventstore.ErrStreamDeleted) {
			t.Fatal(err)
		}
	}
}

func mustCopy(t testing.TB, from, to eventstore.Log) logcopy.Result {
	t.Helper()
	r, err := logcopy.Copy(context.Background(), from, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// shown is what readers of a stream see, where it ends, and what its metadata says.
type shown struct {
	Events   []string
	Err      string
	Metadata eventstore.Metadata
	Revision eventstore.Expected // of the metadata
}

func show(t testing.TB, log eventstore.Log, stream string) shown {
	t.Helper()
	var s shown
	for e, err := range log.ReadStream(context.Background(), stream, eventstore.ReadStream{}) {
		switch {
		case errors.Is(err, eventstore.ErrStreamNotFound), errors.Is(err, eventstore.ErrStreamDeleted):
			s.Err = errors.Unwrap(err).Error()
		case err != nil:
			t.Fatal(err)
		default:
			s.Events = append(s.Events, fmt.Sprintf("%d %s %s %s %s", e.Revision, e.ID, e.Type, e.Data, e.Metadata))
		}
	}
	var err error
	if s.Metadata, s.Revision, err = log.Metadata(context.Background(), stream); err != nil && !errors.Is(err, eventstore.ErrStreamDeleted) {
		t.Fatal(err)
	}
	return s
}

func sameStreams(t testing.TB, from, to eventstore.Log) {
	t.Helper()
	for i := range 10 {
		stream := fmt.Sprintf("configmaps-default/c%d", i)
		want, got := show(t, from, stream), show(t, to, stream)
		if want.Metadata.MaxAge > 0 {
			// What expired after its metadata was copied is filled up; the fillers expire in their turn.
			got.Events = slices.DeleteFunc(got.Events, func(e string) bool { return strings.Contains(e, logcopy.FillerType) })
		}
		if got.Metadata.TruncateBefore > want.Metadata.TruncateBefore {
			want.Metadata.TruncateBefore = got.Metadata.TruncateBefore
		}
		if want.Err != got.Err && len(want.Events) == 0 && len(got.Events) == 0 && want.Err == "" {
			got.Err = "" // a stream of which all has expired need not be there
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s differs (-source +target):\n%s", stream, diff)
		}
	}
}

// withSeeds runs a test with many seeds at once. salt tells the tests of a file apart.
func withSeeds(t *testing.T, seeds, salt uint64, test func(t *testing.T, c *clock, random *rand.Rand)) {
	t.Parallel()
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			test(t, theDay(), rand.New(rand.NewPCG(seed, salt)))
		})
	}
}

func TestCopyToAServer(t *testing.T) {
	withSeeds(t, 60, 2, func(t *testing.T, c *clock, random *rand.Rand) {
		from, to := newLog(t, c), newLog(t, c)
		happen(t, from, c, random, 200, false)
		first := mustCopy(t, from, server{to})
		sameStreams(t, from, to)
		// A second copy finds nothing to do, a third what has come since.
		if r := mustCopy(t, from, server{to}); r.Copied != 0 || r.Fillers != 0 || r.Digest != first.Digest {
			t.Errorf("copying again: %+v after %+v", r, first)
		}
		happen(t, from, c, random, 100, true)
		mustCopy(t, from, server{to})
		sameStreams(t, from, to)
	})
}

// throughServer serves a log over the protocol and connects to it with the official client.
func throughServer(t testing.TB, log eventstore.Log) eventstore.Log {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := protocol.NewServer(log, protocol.Options{Logger: quiet()})
	done := make(chan error, 1)
	go func() { done <- s.Serve(listener) }()
	client, err := esdb.Open(t.Context(), "esdb://"+listener.Addr().String()+"?tls=false", esdb.Options{Logger: quiet(), Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return client
}

// There and back: a directory to a server in another process, and from there to a directory.
func TestCopyThroughTheProtocolAndBack(t *testing.T) {
	withSeeds(t, 4, 3, func(t *testing.T, c *clock, random *rand.Rand) {
		from, served, back := newLog(t, c), newLog(t, c), newLog(t, c)
		to := throughServer(t, served)
		for i := range 3 {
			happen(t, from, c, random, 60, i > 0)
			r := mustCopy(t, from, to)
			sameStreams(t, from, to)
			b := mustCopy(t, to, back)
			sameStreams(t, from, back)
			for e, err := range back.ReadAll(t.Context(), eventstore.ReadAll{Filter: eventstore.Filter{System: true}}) {
				if err != nil || e.Type == logcopy.FillerType {
					t.Errorf("back home there is %+v, %v", e, err)
				}
			}
			if !b.SamePositions || r.SamePositions || r.Digest != b.Digest {
				t.Errorf("there %+v, back %+v", r, b)
			}
		}
	})
}

func TestCopyToADirectory(t *testing.T) {
	withSeeds(t, 20, 4, func(t *testing.T, c *clock, random *rand.Rand) {
		from, to := newLog(t, c), newLog(t, c)
		for i := range 3 {
			// Where retention is relaxed, what is still on a disk shows again: each log removes by itself.
			happen(t, from, c, random, 80, i > 0)
			r := mustCopy(t, from, to)
			want, err := from.DigestAt(t.Context(), r.Head)
			if err != nil || !r.SamePositions || r.Digest != want {
				t.Errorf("got %+v, want digest %s, %v", r, want, err)
			}
			sameStreams(t, from, to)
		}
		if r := mustCopy(t, from, to); r.Copied != 0 || r.After != r.Head {
			t.Errorf("copying again: %+v", r)
		}
	})
}

// flaky fails every append after so many, as a server that goes away.
type flaky struct {
	eventstore.Log
	left int
}

func (f *flaky) Append(ctx context.Context, stream string, expected eventstore.Expected, events ...eventstore.Proposed) (eventstore.Appended, error) {
	if f.left--; f.left < 0 {
		return eventstore.Appended{}, fmt.Errorf("a test: %w", eventstore.ErrUnavailable)
	}
	return f.Log.Append(ctx, stream, expected, events...)
}

// A copy that breaks off, wherever it does, is gone on with.
func TestCopyGoesOnWhereItEnded(t *testing.T) {
	withSeeds(t, 20, 5, func(t *testing.T, c *clock, random *rand.Rand) {
		from, to := newLog(t, c), newLog(t, c)
		happen(t, from, c, random, 150, false)
		var r logcopy.Result
		for tries := 1; ; tries++ {
			var err error
			if r, err = logcopy.Copy(t.Context(), from, &flaky{server{to}, random.IntN(20)}, nil); err == nil {
				if tries < 2 {
					t.Error("it never broke off")
				}
				break
			}
			if !errors.Is(err, eventstore.ErrUnavailable) {
				t.Fatal(err)
			}
		}
		sameStreams(t, from, to)
		whole := newLog(t, c)
		if want := mustCopy(t, from, server{whole}); want.Digest != r.Digest || want.Compared != r.Compared {
			t.Errorf("got %+v, and %+v in one go", r, want)
		}
	})
}

func TestCopyRefusesWhatIsNotTheSources(t *testing.T) {
	t.Parallel()
	event := func() eventstore.Proposed {
		return eventstore.Proposed{ID: uuid.New(), Type: "Happened", Data: []byte("{}")}
	}
	put := func(log eventstore.Log, stream string, expected eventstore.Expected) {
		t.Helper()
		if _, err := log.Append(t.Context(), stream, expected, event()); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		before, after func(to eventstore.Log)
	}{
		"another log":                  {before: func(to eventstore.Log) { put(to, "other", eventstore.NoStream) }},
		"the same stream":              {before: func(to eventstore.Log) { put(to, "s", eventstore.NoStream) }},
		"a target that went on":        {after: func(to eventstore.Log) { put(to, "s", eventstore.Exact(1)) }},
		"a target with another stream": {after: func(to eventstore.Log) { put(to, "other", eventstore.NoStream) }},
	} {
		for kind, as := range map[string]func(eventstore.Log) eventstore.Log{
			"server": func(l eventstore.Log) eventstore.Log { return server{l} }, "directory": func(l eventstore.Log) eventstore.Log { return l },
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				c := theDay()
				from, to := newLog(t, c), newLog(t, c)
				put(from, "s", eventstore.NoStream)
				put(from, "s", eventstore.Exact(0))
				if test.before != nil {
					test.before(to)
				} else {
					mustCopy(t, from, as(to))
					test.after(to)
				}
				before, err := to.Head(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := logcopy.Copy(t.Context(), from, as(to), nil); !errors.Is(err, logcopy.ErrForeign) {
					t.Errorf("got %v", err)
				}
				if after, err := to.Head(t.Context()); err != nil || after != before {
					t.Errorf("the target was changed: head %d, then %d, %v", before, after, err)
				}
			})
		}
	}
}

// A difference that came about behind the copy's back is found by its verification.
func TestCopyVerifies(t *testing.T) {
	t.Parallel()
	c := theDay()
	from, to := newLog(t, c), newLog(t, c)
	happen(t, from, c, rand.New(rand.NewPCG(1, 6)), 50, false)
	if _, err := logcopy.Copy(t.Context(), from, &lossy{Log: server{to}}, nil); !errors.Is(err, logcopy.ErrDiffers) {
		t.Errorf("got %v", err)
	}
}

// lossy changes one event that is appended to it.
type lossy struct {
	eventstore.Log
	done bool
}

func (l *lossy) Append(ctx context.Context, stream string, expected eventstore.Expected, events ...eventstore.Proposed) (eventstore.Appended, error) {
	if !l.done && events[0].Type == "ConfigMapChanged" {
		l.done = true
		events = slices.Clone(events)
		events[len(events)-1].Data = []byte(`{}`)
	}
	return l.Log.Append(ctx, stream, expected, events...)
}
