package persistent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// How long to wait before trying again what the log refused.
const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 30 * time.Second
)

// group carries out what its core decides. A reader fills the core with events, a writer writes checkpoints and parked events, and
// a timer looks after what takes too long; all of them take the lock for a moment and never while they wait.
type group struct {
	Definition
	state  *state
	log    eventstore.Log
	logger *slog.Logger
	regex  *regexp.Regexp
	ctx    context.Context
	stop   context.CancelFunc
	ended  sync.WaitGroup
	timer  *time.Timer

	mu        sync.Mutex
	core      *core
	members   map[*consumer]*Consumer
	toPark    []parking
	toWrite   *uint64 // a checkpoint
	writing   bool
	roomy     chan struct{} // has something when there may be room again
	work      chan struct{} // has something when the writer has something to do
	known     *uint64       // the last place that was read
	written   *uint64       // the last checkpoint
	live      bool
	replaying bool
	unparked  uint64 // the parked events before this revision were replayed
	forgotten uint64 // and those before this one are finished, which the log knows
	measured  measured
	// run tells this run of the group from others, in the ids of what it parks.
	run uuid.UUID
}

func startGroup(log eventstore.Log, d Definition, logger *slog.Logger) *group {
	now := now()
	g := &group{
		Definition: d, state: newState(log, &d), log: log, logger: logger.With("stream", d.Stream, "group", d.Group),
		core: newCore(d.Settings, now), members: make(map[*consumer]*Consumer),
		roomy: make(chan struct{}, 1), work: make(chan struct{}, 1), measured: measured{at: now}, run: uuid.New(),
	}
	if d.Filter != nil && d.Filter.Regex != "" {
		g.regex = regexp.MustCompile(d.Filter.Regex) // the definition was checked
	}
	g.ctx, g.stop = context.WithCancel(context.Background())
	g.timer = time.AfterFunc(time.Hour, g.tick)
	g.timer.Stop()
	g.ended.Go(g.read)
	g.ended.Go(g.write)
	return g
}

// end stops the group, drops its consumers with a reason, and remembers how far it has come.
func (g *group) end(ctx context.Context, reason error) error {
	g.stop()
	g.mu.Lock()
	for c, m := range g.members {
		g.dropLocked(c, m, reason)
	}
	g.timer.Stop()
	g.mu.Unlock()
	g.ended.Wait()
	g.mu.Lock()
	done := g.core.source
	unsaid := done.anything && (g.written == nil || done.reached > *g.written) && (done.since() > 0 || g.toWrite != nil)
	g.mu.Unlock()
	if !unsaid || errors.Is(reason, ErrNotFound) {
		return nil
	}
	return g.state.write(ctx, done.reached)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// settleLocked hands out what can be, and sees to it that everything that was decided is done.
func (g *group) settleLocked() {
	now := now()
	g.core.expire(now)
	g.core.handOut(now)
	todo := g.core.take()
	for _, d := range todo.withdraw {
		if m := g.members[d.to]; m != nil {
			m.withdrawLocked(d.message)
		}
	}
	for _, d := range todo.deliver {
		m := g.members[d.to]
		m.queue = append(m.queue, d.message)
		signal(m.wake)
	}
	for _, c := range todo.drop {
		if m := g.members[c]; m != nil {
			g.dropLocked(c, m, ErrDropped)
		}
	}
	g.toPark = append(g.toPark, todo.park...)
	if g.toWrite == nil && !g.writing {
		if place, due := g.core.checkpoint(now); due {
			g.toWrite = &place
		}
	}
	if len(g.toPark) > 0 || g.toWrite != nil || g.core.parked.anything && g.core.parked.reached+1 > g.forgotten {
		signal(g.work)
	}
	if g.core.room() {
		signal(g.roomy)
	}
	if at, ok := g.core.wake(g.writing || g.toWrite != nil); ok && g.ctx.Err() == nil {
		g.timer.Reset(max(at.Sub(now), 0))
	}
}

func (g *group) tick() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.settleLocked()
}

// pause waits before something is tried again, and returns how long to wait the next time; false: the group has ended.
func (g *group) pause(backoff time.Duration) (time.Duration, bool) {
	select {
	case <-time.After(backoff):
		return min(2*backoff, maxBackoff), true
	case <-g.ctx.Done():
		return 0, false
	}
}

// read fills the core, from the last checkpoint on, until the group ends.
func (g *group) read() {
	backoff := firstBackoff
	var after *uint64
	begun := false
	for {
		var err error
		if !begun {
			if after, err = g.begin(); err == nil {
				begun = true
			}
		}
		if begun {
			before := after
			if err = g.follow(&after); after != before {
				backoff = firstBackoff
			}
		}
		if g.ctx.Err() != nil {
			return
		}
		if errors.Is(err, eventstore.ErrStreamDeleted) {
			g.logger.Warn("a persistent subscription reads no more: its stream was deleted for good")
			return
		}
		g.logger.Warn("a persistent subscription reads again in a moment", "in", backoff, "error", err)
		var ok bool
		if backoff, ok = g.pause(backoff); !ok {
			return
		}
	}
}

// begin returns the place after which the group goes on, nil from the beginning.
func (g *group) begin() (*uint64, error) {
	reached, err := g.state.reached(g.ctx)
	if err != nil {
		return nil, err
	}
	if reached == nil {
		return g.Definition.after, nil
	}
	g.mu.Lock()
	g.written = reached
	g.mu.Unlock()
	return reached, nil
}

// follow reads from a place on, which it moves forward.
func (g *group) follow(after **uint64) error {
	opts := eventstore.Subscribe{Filter: eventstore.Filter{System: true}}
	if g.Stream == All {
		if *after != nil {
			opts.After = eventstore.Position(**after)
		}
		if f := g.Filter; f != nil && f.ByType {
			opts.Filter.TypePrefixes = f.Prefixes
		} else if f != nil {
			opts.Filter.StreamPrefixes = f.Prefixes
		}
	} else {
		opts.Stream, opts.AfterRevision = g.Stream, *after
	}
	sub, err := g.log.Subscribe(g.ctx, opts)
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		if err := g.waitForRoom(); err != nil {
			return err
		}
		batch, err := sub.Next(g.ctx)
		if err != nil {
			return err
		}
		links, err := g.resolved(batch.Events)
		if err != nil {
			return err
		}
		if place := g.took(batch, links); place != nil {
			*after = place
		}
	}
}

func (g *group) waitForRoom() error {
	for {
		g.mu.Lock()
		room := g.core.room()
		if !room {
			g.live = false
		}
		g.mu.Unlock()
		if room {
			return nil
		}
		select {
		case <-g.roomy:
		case <-g.ctx.Done():
			return g.ctx.Err()
		}
	}
}

// took puts a batch into the core, links with what they lead to, and returns the last place of it.
func (g *group) took(batch eventstore.Batch, links map[int]*eventstore.Recorded) (last *uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range batch.Events {
		e := &batch.Events[i]
		place := e.Revision
		if g.Stream == All {
			place = uint64(e.Position)
		}
		last = &place
		if e.Revision == eventstore.TombstoneRevision && e.Type == eventstore.TombstoneType && g.Stream != All {
			continue // the end of the stream is not an event of it
		}
		m := &message{event: *e, place: place}
		to, isLink := links[i]
		if !g.admits(e) || isLink && to == nil {
			g.core.source.pass(place) // it is not for the group, or leads to nothing
			continue
		}
		if isLink {
			m.event, m.link = *to, e
		}
		g.core.add(m)
		g.known = last
	}
	if p := uint64(batch.Checkpoint); g.Stream == All && p > 0 && (last == nil || p > *last) {
		g.core.source.pass(p)
		last = &p
	}
	g.live = g.live || batch.CaughtUp
	g.settleLocked()
	return last
}

func (g *group) admits(e *eventstore.Recorded) bool {
	switch {
	case g.Stream == All && isOwn(e.Stream):
		return false
	case g.regex == nil:
		return true
	case g.Filter.ByType:
		return g.regex.MatchString(e.Type)
	default:
		return g.regex.MatchString(e.Stream)
	}
}

// write writes what is to be written, until the group ends.
func (g *group) write() {
	for {
		select {
		case <-g.work:
		case <-g.ctx.Done():
			return
		}
		backoff := firstBackoff
		for {
			err := g.writeWhatThereIs()
			if err == nil {
				break
			}
			if g.ctx.Err() != nil {
				return
			}
			g.logger.Warn("a persistent subscription writes again in a moment what it must remember", "in", backoff, "error", err)
			var ok bool
			if backoff, ok = g.pause(backoff); !ok {
				return
			}
		}
	}
}

func (g *group) writeWhatThereIs() error {
	g.mu.Lock()
	toPark, place := g.toPark, g.toWrite
	unparked, unpark := g.core.parked.reached+1, g.core.parked.anything && g.core.parked.reached+1 > g.forgotten
	g.writing = true
	g.mu.Unlock()
	parked, parkErr := g.parkAll(toPark)
	var placeErr, unparkErr error
	if place != nil {
		placeErr = g.state.write(g.ctx, *place)
	}
	if unpark {
		unparkErr = g.state.unpark(g.ctx, unparked)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.writing = false
	for _, p := range toPark[:parked] {
		g.core.isParked(p.message)
	}
	g.toPark = g.toPark[parked:]
	if place != nil && placeErr == nil {
		g.written, g.toWrite = place, nil
	}
	if unpark && unparkErr == nil {
		g.forgotten = unparked
	}
	g.settleLocked()
	return errors.Join(parkErr, placeErr, unparkErr)
}

// parkAll puts events aside, and returns how many it could.
func (g *group) parkAll(events []parking) (int, error) {
	for i, p := range events {
		// The id comes from what is parked, so that trying again parks it once.
		id := p.id()
		if err := g.state.park(g.ctx, uuid.NewSHA1(g.run, fmt.Appendf(id[:], "%d", p.place)), p, now()); err != nil {
			return i, err
		}
	}
	return len(events), nil
}

// replay hands out parked events again, those before stopAt if that is given. It returns when it has begun.
func (g *group) replay(stopAt *uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil {
		return ErrClosed
	}
	if g.replaying {
		return nil
	}
	g.replaying = true
	g.ended.Go(func() {
		if err := g.replayFromLog(stopAt); err != nil && g.ctx.Err() == nil {
			g.logger.Error("not all parked events were replayed: replay them again", "error", err)
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.replaying = false
	})
	return nil
}

func (g *group) replayFromLog(stopAt *uint64) error {
	_, end, err := g.state.parkedRange(g.ctx)
	if err != nil {
		return err
	}
	if stopAt != nil {
		end = min(end, *stopAt)
	}
	g.mu.Lock()
	from := g.unparked
	g.mu.Unlock()
	for link, err := range g.log.ReadStream(g.ctx, g.state.parked, eventstore.ReadStream{From: from}) {
		if gone(err) || err == nil && link.Revision >= end {
			return nil
		}
		if err != nil {
			return err
		}
		e, err := Resolve(g.ctx, g.log, &link, nil)
		if err != nil {
			return err
		}
		if err := g.waitForRoom(); err != nil {
			return err
		}
		g.mu.Lock()
		if e == nil {
			g.core.parked.pass(link.Revision)
		} else {
			g.core.replay(&message{event: *e, link: &link, place: link.Revision, replayed: true})
		}
		g.unparked = link.Revision + 1
		g.settleLocked()
		g.mu.Unlock()
	}
	return nil
}
