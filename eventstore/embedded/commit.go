package embedded

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

const (
	// What one batch takes at most, so that the first of many writers does not wait for the last.
	groupRequests = 1024
	groupBytes    = 4 << 20
)

// operation is what a writer wants.
type operation int

const (
	opAppend operation = iota
	opDelete
	opTombstone
	opImport
)

// request is one writer's wish.
type request struct {
	op       operation
	stream   string
	expected eventstore.Expected
	events   []proposal
	places   []imported // of an import: where the events stand
	bytes    int

	taken  atomic.Bool // by the committer, or by the writer who gave up
	done   chan struct{}
	result eventstore.Appended
	err    error
}

func (r *request) finish(err error) {
	r.err = err
	close(r.done)
}

// submit hands a request to the committer and waits for the answer. When the context ends before the committer has begun,
// nothing was changed; when it ends afterwards, the outcome is open, and the same append with the same ids settles it.
func (l *Log) submit(ctx context.Context, r *request) (eventstore.Appended, error) {
	if l.opts.ReadOnly {
		return eventstore.Appended{}, fmt.Errorf("%w: it was opened for reading", eventstore.ErrReadOnly)
	}
	if err := ctx.Err(); err != nil {
		return eventstore.Appended{}, err
	}
	r.done = make(chan struct{})
	if err := l.queue.put(r); err != nil {
		return eventstore.Appended{}, err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if r.taken.CompareAndSwap(false, true) {
			return eventstore.Appended{}, ctx.Err()
		}
		select {
		case <-r.done: // it was too late to give up, so tell how it ended
		default:
			return eventstore.Appended{}, fmt.Errorf("waiting for the disk, the outcome is open: %w", ctx.Err())
		}
	}
	return r.result, r.err
}

// Append adds events to the end of a stream.
func (l *Log) Append(ctx context.Context, stream string, expected eventstore.Expected, events ...eventstore.Proposed) (eventstore.Appended, error) {
	r := &request{op: opAppend, stream: stream, expected: expected, events: make([]proposal, 0, len(events))}
	for _, e := range events {
		if e.ID == uuid.Nil {
			e.ID = uuid.New()
		}
		if size := len(e.Data) + len(e.Metadata) + len(e.Type); size > l.opts.MaxEventBytes {
			return eventstore.Appended{}, fmt.Errorf("appending to %s: %w: event %s (%s) has %d bytes, at most %d are taken",
				stream, eventstore.ErrTooLarge, e.ID, e.Type, size, l.opts.MaxEventBytes)
		}
		p := propose(e)
		r.events, r.bytes = append(r.events, p), r.bytes+len(p.body)
	}
	if r.bytes > l.opts.MaxAppendBytes {
		return eventstore.Appended{}, fmt.Errorf("appending to %s: %w: the events have %d bytes together, at most %d are taken",
			stream, eventstore.ErrTooLarge, r.bytes, l.opts.MaxAppendBytes)
	}
	result, err := l.submit(ctx, r)
	if err != nil {
		return result, appendError(stream, err)
	}
	return result, nil
}

func appendError(stream string, err error) error {
	var wrong *eventstore.WrongExpectedRevisionError
	if errors.As(err, &wrong) {
		return err // it names the stream itself
	}
	return fmt.Errorf("appending to %s: %w", stream, err)
}

// commitLoop is the committer.
func (l *Log) commitLoop() {
	for {
		requests := l.queue.take()
		if requests == nil {
			return
		}
		l.commit(requests)
	}
}

// commit answers a group of requests, with one sync for all of them.
func (l *Log) commit(requests []*request) {
	blown, now := l.fuse.blown(), l.opts.Now()
	if blown == nil {
		blown = l.flushRefusal()
	}
	g := l.newGroup()
	var accepted []*request
	for _, r := range requests {
		if !r.taken.CompareAndSwap(false, true) {
			continue // its writer gave up
		}
		refusal := blown
		if refusal == nil {
			refusal = l.disk.refuses(r, now)
		}
		if refusal != nil {
			r.finish(refusal)
			continue
		}
		before := g.batch.Count()
		result, durable, err := g.decide(r)
		if err != nil && g.batch.Count() != before {
			// Half of the request is in the batch, and a batch cannot forget. Reading failed, so this is rare.
			err = fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
			r.finish(err)
			for _, r := range accepted {
				r.finish(err)
			}
			for _, r := range requests {
				if r.taken.CompareAndSwap(false, true) {
					r.finish(err)
				}
			}
			return
		}
		r.result, r.err = result, err
		// A refusal tells of the stream's end, which this batch may have moved: it waits for the disk as well.
		if durable || err != nil && g.head == l.tail.current() {
			r.finish(err)
			continue
		}
		accepted = append(accepted, r)
	}
	if g.head == l.tail.current() {
		for _, r := range accepted {
			r.finish(r.err)
		}
		return
	}
	if g.changesRetention() {
		l.retaining.Lock()
		defer l.retaining.Unlock()
	}
	l.streams.pin(g.before)
	l.disk.wrote(g.batch.Len())
	if err := l.apply(g.batch, pebble.Sync); err != nil {
		for _, r := range accepted {
			r.finish(err)
		}
		return
	}
	if err := l.mark.set(g.head); err != nil {
		l.log.Warn("marking the head failed; damage at the end of the write-ahead log may go unnoticed", "error", err)
	}
	l.recent.add(g.events, g.ids)
	l.disk.removeSoon()
	l.nextStream, l.lastTicks, l.unsampled = g.nextStream, g.ticks, g.unsampled
	l.digest, l.importedTo = g.digest, g.importedTo
	var wake chan struct{}
	l.streams.committed(g, func() { wake = l.tail.push(g.events, g.head) })
	for _, r := range accepted {
		r.finish(r.err)
	}
	if wake != nil {
		l.wakeSoon(wake)
	}
}

// apply makes a batch visible in Pebble, and durable if opts say so. Whatever goes wrong, the log takes no more writes
// afterwards: what reached the disk is known only after recovery. The batch is not used again.
func (l *Log) apply(batch *pebble.Batch, opts *pebble.WriteOptions) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				l.fuse.blow(fmt.Errorf("committing: %v", r))
			}
		}()
		if err := errors.Join(l.db.Apply(batch, opts), batch.Close()); err != nil {
			l.fuse.blow(fmt.Errorf("committing: %w", err))
		}
	}()
	select {
	case <-done:
	case <-l.fuse.gone: // Pebble may wait for ever for a memtable that is not written any more
	}
	return l.fuse.blown()
}

// wakeSoon has the subscribers woken by a goroutine of its own: with a thousand of them it takes longer than a sync.
func (l *Log) wakeSoon(wake chan struct{}) {
	l.wakes.Lock()
	l.pendingWakes = append(l.pendingWakes, wake)
	l.wakes.Unlock()
	select {
	case l.notify <- struct{}{}:
	default:
	}
}

func (l *Log) wakeLoop() {
	for {
		select {
		case <-l.notify:
		case <-l.closing:
			return
		}
		l.wakes.Lock()
		wakes := l.pendingWakes
		l.pendingWakes = nil
		l.wakes.Unlock()
		for _, wake := range wakes {
			close(wake)
		}
	}
}

// pause waits a little, or until the log is closed.
func (l *Log) pause() {
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.closing:
	}
}
