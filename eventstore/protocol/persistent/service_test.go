package persistent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// brittle is a log that refuses appends to some streams, and subscriptions, while it is told to.
type brittle struct {
	eventstore.Log
	mu      sync.Mutex
	refuses string // a part of a stream's name; "subscribe"
	refused int
}

func (b *brittle) refuse(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuses, b.refused = what, 0
}

func (b *brittle) check(what string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuses == "" || !strings.Contains(what, b.refuses) {
		return nil
	}
	b.refused++
	return fmt.Errorf("%w: as the test wants it", eventstore.ErrUnavailable)
}

func (b *brittle) Append(ctx context.Context, stream string, expected eventstore.Expected, events ...eventstore.Proposed) (eventstore.Appended, error) {
	if err := b.check(stream); err != nil {
		return eventstore.Appended{}, err
	}
	return b.Log.Append(ctx, stream, expected, events...)
}

func (b *brittle) Subscribe(ctx context.Context, opts eventstore.Subscribe) (eventstore.Subscription, error) {
	if err := b.check("subscribe"); err != nil {
		return nil, err
	}
	return b.Log.Subscribe(ctx, opts)
}

// bubble is a log and a service on a clock of their own.
type bubble struct {
	t   *testing.T
	ctx context.Context
	log *brittle
	*Service
	begun time.Time
}

func inBubble(t *testing.T, test func(*bubble)) {
	synctest.Test(t, func(t *testing.T) {
		quiet := slog.New(slog.DiscardHandler)
		log, err := embedded.Open("log", embedded.Options{FS: vfs.NewMem(), Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		b := &bubble{t: t, ctx: t.Context(), log: &brittle{Log: log}, begun: time.Now()}
		b.Service = New(b.log, quiet)
		test(b)
		if err := errors.Join(b.Close(context.WithoutCancel(b.ctx)), log.Close()); err != nil {
			t.Error(err)
		}
	})
}

func (b *bubble) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bubble) fill(stream string, n int) {
	b.t.Helper()
	for range n {
		_, err := b.log.Append(b.ctx, stream, eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "T"})
		b.must(err)
	}
}

func (b *bubble) create(change func(*Definition)) {
	b.t.Helper()
	d := Definition{Stream: "s", Group: "g", Settings: Settings{
		MessageTimeout: 30 * time.Second, MaxRetries: 2, CheckpointAfter: 2 * time.Second, MinCheckpoint: 1, MaxCheckpoint: 1000,
	}}
	if change != nil {
		change(&d)
	}
	b.must(b.Create(b.ctx, d, "me"))
}

func (b *bubble) join(slots int) *Consumer {
	b.t.Helper()
	c, err := b.Connect(b.ctx, "s", "g", Client{Slots: slots})
	b.must(err)
	return c
}

// get returns the next event, for which it waits an hour at most.
func (b *bubble) get(c *Consumer) Delivery {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Hour)
	defer cancel()
	d, err := c.Next(ctx)
	b.must(err)
	return d
}

// next returns an event with the time at which it came.
func (b *bubble) next(c *Consumer) (Delivery, string) {
	b.t.Helper()
	d := b.get(c)
	return d, fmt.Sprintf("%d r%d at %s", d.Event.Revision, d.Retries, time.Since(b.begun))
}

func (b *bubble) expect(c *Consumer, want string) Delivery {
	b.t.Helper()
	d, got := b.next(c)
	if got != want {
		b.t.Fatalf("got %s, want %s", got, want)
	}
	return d
}

// checkpoints are what was remembered, in order.
func (b *bubble) checkpoint() string {
	b.t.Helper()
	last, err := lastOf(b.ctx, b.log, "$persistentsubscription-s::g-checkpoint")
	b.must(err)
	if last == nil {
		return "none"
	}
	return fmt.Sprintf("%s at %s", last.Data, last.Created.Sub(b.begun).Round(time.Second))
}

func (b *bubble) parked() int64 {
	b.t.Helper()
	i, err := b.Info(b.ctx, "s", "g")
	b.must(err)
	return i.Parked
}

// An event that nobody answers for is handed out again when its time is up, to the same consumer or another, and parked in the end.
func TestMessageTimeouts(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.create(nil)
		b.fill("s", 2)
		one := b.join(1)
		b.expect(one, "0 r0 at 0s")
		b.expect(one, "0 r1 at 30s")
		two := b.join(1)
		b.expect(two, "1 r0 at 30s")
		two.Ack(b.id("s", 1))
		b.expect(one, "0 r2 at 1m0s")
		synctest.Wait()
		if n := b.parked(); n != 0 {
			t.Errorf("%d are parked", n)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := b.parked(); n != 1 {
			t.Errorf("%d are parked after three times", n)
		}
	})
}

func (b *bubble) id(stream string, revision uint64) uuid.UUID {
	b.t.Helper()
	for e, err := range b.log.ReadStream(b.ctx, stream, eventstore.ReadStream{From: revision, Limit: 1}) {
		b.must(err)
		return e.ID
	}
	b.t.Fatalf("no event %d", revision)
	return uuid.Nil
}

// What a consumer has not even fetched is taken back from it.
func TestEventsAreTakenBackFromThoseWhoDoNotFetchThem(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.create(func(d *Definition) { d.MaxRetries = 1000 })
		b.fill("s", 3)
		lazy := b.join(3)
		time.Sleep(100 * time.Minute)
		synctest.Wait()
		lazy.group.mu.Lock()
		queued := len(lazy.queue)
		lazy.group.mu.Unlock()
		if queued != 3 {
			t.Errorf("%d events wait for a consumer with three slots", queued)
		}
		if d, _ := b.next(lazy); d.Retries != 200 {
			t.Errorf("tried again %d times", d.Retries)
		}
	})
}

// Checkpoints are written in time, each once, and the last one when the service closes.
func TestCheckpoints(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.create(func(d *Definition) { d.MinCheckpoint, d.MaxCheckpoint = 2, 5 })
		b.fill("s", 20)
		c := b.join(20)
		ack := func(from, to uint64) {
			t.Helper()
			for n := from; n <= to; n++ {
				d := b.get(c)
				c.Ack(d.Event.ID)
			}
			synctest.Wait()
		}
		check := func(what, want string) {
			t.Helper()
			if got := b.checkpoint(); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		ack(0, 0)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		check("one is too little", "none")
		ack(1, 1)
		check("two, and time has passed", `"1" at 10s`)
		ack(2, 4)
		check("three more, too early", `"1" at 10s`)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		check("three more", `"4" at 12s`)
		ack(5, 9)
		check("five more, early", `"9" at 12s`)
		ack(10, 10)
		check("and one", `"9" at 12s`)
		b.must(b.Close(b.ctx))
		check("at the end", `"10" at 12s`)
		if n := len(collect(b, "$persistentsubscription-s::g-checkpoint")); n != 2 {
			t.Errorf("%d checkpoints are kept", n)
		}
	})
}

func collect(b *bubble, stream string) []eventstore.Recorded {
	b.t.Helper()
	var out []eventstore.Recorded
	for e, err := range b.log.ReadStream(b.ctx, stream, eventstore.ReadStream{}) {
		if gone(err) {
			return nil
		}
		b.must(err)
		out = append(out, e)
	}
	return out
}

// While the log refuses, nothing is lost and nothing is said to be finished; it is tried again until it works.
func TestALogThatRefuses(t *testing.T) {
	for what, part := range map[string]string{"parking": "-parked", "checkpoints": "-checkpoint", "subscriptions": "subscribe"} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				b.log.refuse(part)
				b.create(nil)
				b.fill("s", 3)
				c := b.join(3)
				if part == "subscribe" {
					time.Sleep(time.Minute)
					b.log.refuse("")
				}
				for n := range 3 {
					d := b.get(c)
					if n == 1 {
						c.Nack(Park, "why", d.Event.ID)
					} else {
						c.Ack(d.Event.ID)
					}
				}
				if part != "subscribe" {
					time.Sleep(time.Minute)
					synctest.Wait()
					b.log.mu.Lock()
					if b.log.refused < 5 || b.log.refused > 50 {
						t.Errorf("it was tried %d times in a minute", b.log.refused)
					}
					b.log.mu.Unlock()
					if got, _, _ := strings.Cut(b.checkpoint(), " "); part == "-parked" && got != `"0"` || part == "-checkpoint" && got != "none" {
						t.Errorf("the checkpoint is %s", got)
					}
					b.log.refuse("")
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if got, _, _ := strings.Cut(b.checkpoint(), " "); got != `"2"` || b.parked() != 1 {
					t.Errorf("in the end the checkpoint is %s, and %d are parked", got, b.parked())
				}
			})
		})
	}
}

// A group that was deleted and made again knows nothing of the old one, not even what it parked.
func TestGroupsMadeAgain(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.fill("s", 3)
		for range 3 {
			b.create(nil)
			c := b.join(3)
			d := b.expect(c, "0 r0 at 0s")
			c.Nack(Park, "why", d.Event.ID)
			d = b.expect(c, "1 r0 at 0s")
			c.Ack(d.Event.ID)
			synctest.Wait()
			if n := b.parked(); n != 1 {
				t.Errorf("%d are parked", n)
			}
			b.must(b.Delete(b.ctx, "s", "g", "me"))
			if _, err := c.Next(b.ctx); !errors.Is(err, ErrDropped) || !errors.Is(err, ErrNotFound) {
				t.Errorf("a consumer of a deleted group got %v", err)
			}
			if n := len(collect(b, "$persistentsubscription-s::g-parked")) + len(collect(b, "$persistentsubscription-s::g-checkpoint")); n != 0 {
				t.Errorf("a deleted group left %d events", n)
			}
		}
	})
}

// Parked events that are not finished when the server stops are still parked when it comes back.
func TestReplayedEventsAreParkedUntilTheyAreFinished(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.create(nil)
		b.fill("s", 3)
		c := b.join(3)
		for range 3 {
			d := b.get(c)
			c.Nack(Park, "why", d.Event.ID)
		}
		synctest.Wait()
		b.must(b.Replay(b.ctx, "s", "g", nil))
		b.must(b.Replay(b.ctx, "s", "g", nil)) // while the first goes on
		var ids []uuid.UUID
		for range 3 {
			d := b.get(c)
			ids = append(ids, d.Link.ID)
		}
		synctest.Wait()
		b.must(b.Replay(b.ctx, "s", "g", nil)) // there is nothing more
		synctest.Wait()
		if i, err := b.Info(b.ctx, "s", "g"); err != nil || i.Parked != 0 || i.Outstanding != 3 {
			t.Errorf("got %+v, %v", i, err)
		}
		c.Ack(ids[0], ids[2])
		synctest.Wait()
		b.must(b.Restart(b.ctx))
		if n := b.parked(); n != 2 {
			t.Errorf("%d are parked after the restart, want the second and what stands behind it", n)
		}
	})
}

// An event that is gone when its link is followed is passed over.
func TestLinksToNothing(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.create(nil)
		b.fill("s", 3)
		c := b.join(3)
		for range 3 {
			d := b.get(c)
			c.Nack(Park, "why", d.Event.ID)
		}
		synctest.Wait()
		b.must(b.log.SetMetadata(b.ctx, "s", eventstore.Any, eventstore.Metadata{TruncateBefore: 2}))
		b.must(b.Replay(b.ctx, "s", "g", nil))
		d := b.expect(c, "2 r0 at 0s")
		c.Ack(d.Link.ID)
		synctest.Wait()
		if left := collect(b, "$persistentsubscription-s::g-parked"); len(left) != 0 {
			t.Errorf("still parked: %v", left)
		}
	})
}

// Two servers of one log: the second to change something finds out.
func TestTwoServices(t *testing.T) {
	inBubble(t, func(b *bubble) {
		other := New(b.log, slog.New(slog.DiscardHandler))
		b.must(other.Load(b.ctx))
		b.create(nil)
		d := Definition{Stream: "s", Group: "h"}
		if err := other.Create(b.ctx, d, ""); !errors.Is(err, eventstore.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		b.must(other.Create(b.ctx, d, ""))
		infos, err := other.List(b.ctx, "")
		if err != nil || len(infos) != 2 {
			t.Errorf("got %v, %v", infos, err)
		}
		b.must(other.Close(b.ctx))
	})
}

// A stream that is deleted for good ends in peace.
func TestTombstonedStreams(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.create(nil)
		b.fill("s", 1)
		c := b.join(3)
		b.expect(c, "0 r0 at 0s")
		b.must(b.log.Tombstone(b.ctx, "s", eventstore.Any))
		time.Sleep(time.Hour)
		short, cancel := context.WithTimeout(b.ctx, time.Hour)
		defer cancel()
		if d, err := c.Next(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, %v", d.Event, err)
		}
	})
}

// Everything that is closed says so.
func TestClosed(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.create(nil)
		c := b.join(1)
		b.must(b.Close(b.ctx))
		if _, err := c.Next(b.ctx); !errors.Is(err, ErrDropped) {
			t.Errorf("a consumer got %v", err)
		}
		c.Ack(uuid.New())
		c.Nack(Park, "", uuid.New())
		c.Close()
		if _, err := b.Connect(b.ctx, "s", "g", Client{Slots: 1}); !errors.Is(err, ErrClosed) {
			t.Errorf("connecting got %v", err)
		}
	})
}
