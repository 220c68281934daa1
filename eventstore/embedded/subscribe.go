package embedded

import (
	"context"
	"errors"
	"fmt"

	"github.com/shiplog/shiplog/eventstore"
)

// subscription is a cursor. It waits on the tail for what is new, and reads from disk what the tail has forgotten; there is
// no buffer that could fill up.
type subscription struct {
	l        *Log
	opts     eventstore.Subscribe
	scan     *scan
	cursor   eventstore.Position // everything up to here was delivered
	live     bool                // CaughtUp was said and still holds
	revision uint64              // of a stream: the next one to read from disk
	ended    context.Context
	end      context.CancelFunc
}

// Subscribe follows the log from a position on.
func (l *Log) Subscribe(ctx context.Context, opts eventstore.Subscribe) (eventstore.Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &subscription{l: l, opts: opts, cursor: opts.After}
	if opts.Stream != "" {
		s.opts.Filter.System = true // a system stream is asked for by its name
		s.cursor = 0
		if opts.AfterRevision != nil {
			s.revision = *opts.AfterRevision + 1
		}
		if _, err := l.lookup(opts.Stream); err != nil {
			return nil, fmt.Errorf("subscribing to stream %s: %w", opts.Stream, err)
		}
	}
	s.scan = l.newScan(s.opts.Filter)
	s.ended, s.end = context.WithCancel(ctx)
	return s, nil
}

// Close ends the subscription.
func (s *subscription) Close() error {
	s.end()
	return nil
}

// Next blocks for the next batch.
func (s *subscription) Next(ctx context.Context) (eventstore.Batch, error) {
	for {
		if err := s.over(ctx); err != nil {
			return eventstore.Batch{}, err
		}
		events, head, reaches, wake := s.l.tail.after(s.cursor, chunkEvents)
		var batch eventstore.Batch
		var err error
		switch {
		case len(events) > 0:
			batch, err = s.fromTail(events)
		case !reaches:
			batch, err = s.fromDisk(head)
		case !s.live:
			batch.Checkpoint = s.cursor
		default:
			if err := s.wait(ctx, wake); err != nil {
				return eventstore.Batch{}, err
			}
			continue
		}
		if err != nil {
			return eventstore.Batch{}, fmt.Errorf("%w: %w", eventstore.ErrDropped, err)
		}
		caughtUp := s.cursor >= head
		batch.CaughtUp = caughtUp && !s.live
		if s.live = caughtUp || s.live && reaches; len(batch.Events) > 0 || caughtUp || !reaches {
			return batch, nil
		}
		// Live, nothing for us so far and more to look at: go on without a word.
	}
}

// over says why the subscription or this call has ended, if so.
func (s *subscription) over(ctx context.Context) error {
	select {
	case <-s.l.closing:
		return fmt.Errorf("%w: %w", eventstore.ErrDropped, eventstore.ErrClosed)
	default:
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.ended.Err(); err != nil {
		return fmt.Errorf("%w: %w", eventstore.ErrDropped, err)
	}
	return nil
}

func (s *subscription) wait(ctx context.Context, wake <-chan struct{}) error {
	select {
	case <-wake:
		return nil
	case <-ctx.Done():
	case <-s.ended.Done():
	case <-s.l.closing:
	}
	return s.over(ctx)
}

func (s *subscription) fromTail(events []eventstore.Recorded) (eventstore.Batch, error) {
	s.cursor = events[len(events)-1].Position
	batch := eventstore.Batch{Events: s.admitted(events), Checkpoint: s.cursor}
	if s.live {
		return batch, nil
	}
	// Catching up is reading, and reads see no expired events.
	kept, err := s.l.unexpired(batch.Events)
	batch.Events = kept
	return batch, err
}

// unexpired returns those of the events that have not expired. It leaves the slice as it is.
func (l *Log) unexpired(events []eventstore.Recorded) ([]eventstore.Recorded, error) {
	release, err := l.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	now := l.opts.Now()
	kept := events[:0:0]
	for i := range events {
		e := &events[i]
		id, err := l.streams.idOf(database{l.db}, e.Stream)
		if err != nil {
			return nil, err
		}
		visible, err := l.visible(id, e.Stream, e.Revision, ticksOf(e.Created), now)
		if err != nil {
			return nil, err
		}
		if visible {
			kept = append(kept, *e)
		}
	}
	return kept, nil
}

// admitted returns the events that the subscription is for, and shares the slice when it is for all of them.
func (s *subscription) admitted(events []eventstore.Recorded) []eventstore.Recorded {
	if s.opts.Stream == "" && s.opts.Filter.AdmitsAll() {
		return events
	}
	refused := 0
	for refused < len(events) && s.admits(&events[refused]) {
		refused++
	}
	if refused == len(events) {
		return events
	}
	kept := events[:refused:refused]
	for i := refused + 1; i < len(events); i++ {
		if s.admits(&events[i]) {
			kept = append(kept, events[i])
		}
	}
	return kept
}

func (s *subscription) admits(e *eventstore.Recorded) bool {
	if s.opts.Stream == "" {
		return s.opts.Filter.Admits(e.Stream, e.Type)
	}
	if e.Stream != s.opts.Stream || e.Revision < s.revision || !s.opts.Filter.Admits(e.Stream, e.Type) {
		return false
	}
	s.revision = e.Revision + 1
	return true
}

func (s *subscription) fromDisk(head eventstore.Position) (eventstore.Batch, error) {
	s.scan.now = s.l.opts.Now()
	if s.opts.Stream != "" {
		return s.streamFromDisk(head)
	}
	c, err := s.scan.all(s.cursor+1, eventstore.Forwards, head, chunkEvents)
	if err != nil {
		return eventstore.Batch{}, err
	}
	if s.cursor = head; !c.done {
		s.cursor = eventstore.Position(c.next - 1)
	}
	return eventstore.Batch{Events: c.events, Checkpoint: s.cursor}, nil
}

func (s *subscription) streamFromDisk(head eventstore.Position) (eventstore.Batch, error) {
	c := chunk{done: true}
	for {
		st, err := s.l.lookup(s.opts.Stream)
		if err != nil {
			return eventstore.Batch{}, err
		}
		if st.id == 0 {
			break
		}
		if c, err = s.scan.stream(&st, s.opts.Stream, s.revision, eventstore.Forwards, head, chunkEvents); err == nil {
			break
		}
		if !errors.Is(err, errOvertaken) {
			return eventstore.Batch{}, err
		}
	}
	if n := len(c.events); n > 0 {
		s.revision = c.events[n-1].Revision + 1
		s.cursor = c.events[n-1].Position
	}
	if c.done {
		s.cursor = head
	}
	return eventstore.Batch{Events: c.events, Checkpoint: s.cursor}, nil
}
