package projectiontest

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// Log is an eventstore.Log in memory. Positions are not dense, so that nobody relies on it. It knows no retention.
type Log struct {
	mu      sync.Mutex
	events  []eventstore.Recorded
	streams map[string]uint64 // revision of the last event
	grown   chan struct{}     // closed when there is more
	drops   int               // how many of the next batches are replaced by ErrDropped
	batch   int
	closed  bool
	Clock   func() time.Time // default: time.Now
	// OnAppend, when set, is called with the id of each event before it is in the log.
	OnAppend func(id string)
}

var _ eventstore.Log = (*Log)(nil)

// NewLog returns an empty log.
func NewLog() *Log {
	return &Log{streams: map[string]uint64{}, grown: make(chan struct{}), batch: 512, Clock: time.Now}
}

// Clone returns a log that holds the same events: a backup.
func (l *Log) Clone() *Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := NewLog()
	c.events, c.streams, c.Clock = slices.Clone(l.events), maps.Clone(l.streams), l.Clock
	return c
}

// Drop makes the next n deliveries of subscriptions fail with ErrDropped.
func (l *Log) Drop(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drops += n
}

// BatchSize sets how many events a subscription delivers at once at most.
func (l *Log) BatchSize(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batch = n
}

// Append implements eventstore.Log.
func (l *Log) Append(ctx context.Context, stream string, expected eventstore.Expected, events ...eventstore.Proposed) (eventstore.Appended, error) {
	if err := ctx.Err(); err != nil {
		return eventstore.Appended{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	actual := eventstore.NoStream
	if r, ok := l.streams[stream]; ok {
		actual = eventstore.Exact(r)
	}
	if expected != eventstore.Any && expected != actual && !(expected == eventstore.StreamExists && actual >= 0) {
		return eventstore.Appended{}, &eventstore.WrongExpectedRevisionError{Stream: stream, Expected: expected, Actual: actual}
	}
	for _, p := range events {
		if l.OnAppend != nil {
			l.OnAppend(p.ID.String())
		}
		revision := uint64(actual + 1)
		actual++
		position := eventstore.Position(1)
		if n := len(l.events); n > 0 {
			position = l.events[n-1].Position + 1 + eventstore.Position(n%3)
		}
		l.events = append(l.events, eventstore.Recorded{Proposed: p, Stream: stream, Revision: revision, Position: position, Created: l.Clock().UTC()})
		l.streams[stream] = revision
	}
	if len(events) > 0 {
		close(l.grown)
		l.grown = make(chan struct{})
	}
	return eventstore.Appended{Position: l.head(), Revision: uint64(actual)}, nil
}

func (l *Log) head() eventstore.Position {
	if len(l.events) == 0 {
		return 0
	}
	return l.events[len(l.events)-1].Position
}

// ReadStream implements eventstore.Log.
func (l *Log) ReadStream(ctx context.Context, stream string, opts eventstore.ReadStream) iter.Seq2[eventstore.Recorded, error] {
	return func(yield func(eventstore.Recorded, error) bool) {
		var of []eventstore.Recorded
		for _, r := range l.all() {
			if r.Stream == stream {
				of = append(of, r)
			}
		}
		if len(of) == 0 {
			yield(eventstore.Recorded{}, fmt.Errorf("reading %s: %w", stream, eventstore.ErrStreamNotFound))
			return
		}
		if opts.Direction == eventstore.Backwards {
			slices.Reverse(of)
		}
		n := 0
		for _, r := range of {
			if opts.Direction == eventstore.Forwards && r.Revision < opts.From || opts.Direction == eventstore.Backwards && !opts.FromEnd && r.Revision > opts.From {
				continue
			}
			if n++; opts.Limit > 0 && n > opts.Limit || !yield(r, ctx.Err()) {
				return
			}
		}
	}
}

// ReadAll implements eventstore.Log.
func (l *Log) ReadAll(ctx context.Context, opts eventstore.ReadAll) iter.Seq2[eventstore.Recorded, error] {
	return func(yield func(eventstore.Recorded, error) bool) {
		all := slices.Clone(l.all())
		if opts.Direction == eventstore.Backwards {
			slices.Reverse(all)
		}
		n := 0
		for _, r := range all {
			if opts.Direction == eventstore.Forwards && r.Position < opts.From || opts.Direction == eventstore.Backwards && !opts.FromEnd && r.Position > opts.From || !admits(opts.Filter, r) {
				continue
			}
			if n++; opts.Limit > 0 && n > opts.Limit || !yield(r, ctx.Err()) {
				return
			}
		}
	}
}

func (l *Log) all() []eventstore.Recorded {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events[:len(l.events):len(l.events)]
}

func admits(f eventstore.Filter, r eventstore.Recorded) bool {
	if strings.HasPrefix(r.Stream, "$") && !f.System {
		return false
	}
	any := func(list []string, s string) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(p string) bool { return strings.HasPrefix(s, p) })
	}
	return any(f.StreamPrefixes, r.Stream) && any(f.TypePrefixes, r.Type)
}

// Subscribe implements eventstore.Log.
func (l *Log) Subscribe(ctx context.Context, opts eventstore.Subscribe) (eventstore.Subscription, error) {
	return &subscription{log: l, opts: opts, after: opts.After}, ctx.Err()
}

type subscription struct {
	log   *Log
	opts  eventstore.Subscribe
	after eventstore.Position
	told  bool // that it has caught up
	over  bool
}

func (s *subscription) Next(ctx context.Context) (eventstore.Batch, error) {
	for {
		s.log.mu.Lock()
		switch {
		case s.over, s.log.closed:
			s.log.mu.Unlock()
			return eventstore.Batch{}, eventstore.ErrClosed
		case s.log.drops > 0:
			s.log.drops--
			s.over = true
			s.log.mu.Unlock()
			return eventstore.Batch{}, fmt.Errorf("a test drops the subscription: %w", eventstore.ErrDropped)
		}
		var b eventstore.Batch
		b.Checkpoint = s.after
		first, _ := slices.BinarySearchFunc(s.log.events, s.after+1, func(r eventstore.Recorded, p eventstore.Position) int {
			return int(int64(r.Position) - int64(p))
		})
		for _, r := range s.log.events[first:] {
			if len(b.Events) == s.log.batch {
				break
			}
			b.Checkpoint = r.Position
			if admits(s.opts.Filter, r) && (s.opts.Stream == "" || r.Stream == s.opts.Stream) {
				b.Events = append(b.Events, r)
			}
		}
		s.after = b.Checkpoint
		b.CaughtUp = s.after == s.log.head() && !s.told
		grown := s.log.grown
		s.log.mu.Unlock()
		if len(b.Events) > 0 || b.CaughtUp {
			s.told = s.told || b.CaughtUp
			return b, ctx.Err()
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return eventstore.Batch{}, ctx.Err()
		}
	}
}

func (s *subscription) Close() error {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.over = true
	return nil
}

// Head implements eventstore.Log.
func (l *Log) Head(ctx context.Context) (eventstore.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head(), ctx.Err()
}

// Close implements eventstore.Log.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.grown)
		l.grown = make(chan struct{})
	}
	return nil
}

// SetMetadata implements eventstore.Log: this log keeps everything.
func (l *Log) SetMetadata(context.Context, string, eventstore.Expected, eventstore.Metadata) error {
	return eventstore.ErrReadOnly
}

// Metadata implements eventstore.Log.
func (l *Log) Metadata(context.Context, string) (eventstore.Metadata, eventstore.Expected, error) {
	return eventstore.Metadata{}, eventstore.NoStream, nil
}

// Delete implements eventstore.Log: streams of this log stay.
func (l *Log) Delete(context.Context, string, eventstore.Expected) error {
	return eventstore.ErrReadOnly
}

// Tombstone implements eventstore.Log: streams of this log stay.
func (l *Log) Tombstone(context.Context, string, eventstore.Expected) error {
	return eventstore.ErrReadOnly
}
