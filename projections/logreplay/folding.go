package logreplay

import (
	"context"
	"fmt"
	"hash/maphash"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/memory"
)

// A stream's events have to be folded one after the other, those of different streams have not: each of several goroutines folds
// some of the streams, while one reads on.
const (
	maxFolds      = 8 // one reader does not feed more
	recordsAtOnce = 128
	bytesAtOnce   = 128 << 10
	batchesAhead  = 4
)

// folding is the fold of a log up to a position.
type folding struct {
	kinds    *domain.Set
	position uint64
	events   uint64
	folds    []*fold
	seed     maphash.Seed
}

// newFolding begins before the first event, or with the objects that base knows (see fold).
func newFolding(kinds *domain.Set, base func(stream string) *folded) *folding {
	f := &folding{kinds: kinds, seed: maphash.MakeSeed()}
	for range min(max(1, runtime.GOMAXPROCS(0)-1), maxFolds) {
		f.folds = append(f.folds, newFold(base))
	}
	return f
}

// advance folds the events up to a position.
func (f *folding) advance(ctx context.Context, log eventstore.Log, to uint64) error {
	head, err := log.Head(ctx)
	if err != nil {
		return err
	}
	if to > uint64(head) {
		return fmt.Errorf("%w: the log ends at position %d", projections.ErrFuture, head)
	}
	workers := make([]worker, len(f.folds))
	var stop atomic.Bool
	var working sync.WaitGroup
	for i := range workers {
		workers[i] = worker{
			fold: f.folds[i], stop: &stop, collected: newBatch(),
			batches: make(chan batch, batchesAhead), done: make(chan batch, batchesAhead+2),
		}
		working.Go(workers[i].work)
	}
	err = f.distribute(ctx, log, to, workers, &stop)
	for i := range workers {
		workers[i].flush()
		close(workers[i].batches)
	}
	working.Wait()
	// What lies before the first record that does not fold has been folded, whoever found one.
	var first *worker
	for i := range workers {
		if w := &workers[i]; w.err != nil && (first == nil || w.failedAt < first.failedAt) {
			first = w
		}
	}
	if first != nil {
		return first.err
	}
	if err != nil {
		return err
	}
	f.position = to
	return nil
}

// distribute reads the records up to a position and gives each to the worker of its stream, until one says stop.
func (f *folding) distribute(ctx context.Context, log eventstore.Log, to uint64, workers []worker, stop *atomic.Bool) error {
	for r, err := range log.ReadAll(ctx, eventstore.ReadAll{From: eventstore.Position(f.position) + 1, Lend: true}) {
		if err != nil {
			return err
		}
		if uint64(r.Position) > to || stop.Load() {
			break
		}
		w := &workers[0]
		if len(workers) > 1 {
			w = &workers[maphash.String(f.seed, r.Stream)%uint64(len(workers))]
		}
		w.collect(r)
		f.position = uint64(r.Position)
		f.events++
	}
	return nil
}

// batch is some records, with their data and metadata in memory of its own, which is used again when they are folded: a log is so
// much bigger than what becomes of it that new memory for all of it would cost more than anything else.
type batch struct {
	records []eventstore.Recorded
	memory  []byte
}

func newBatch() batch {
	return batch{records: make([]eventstore.Recorded, 0, recordsAtOnce), memory: make([]byte, 0, bytesAtOnce)}
}

// holds says whether there is room for one more record. A batch that is empty takes any.
func (b *batch) holds(r *eventstore.Recorded) bool {
	return len(b.records) == 0 || len(b.records) < cap(b.records) && len(b.memory)+len(r.Metadata)+len(r.Data) <= cap(b.memory)
}

func (b *batch) add(r eventstore.Recorded) {
	start := len(b.memory)
	b.memory = append(append(b.memory, r.Metadata...), r.Data...)
	split, end := start+len(r.Metadata), len(b.memory)
	r.Metadata, r.Data = b.memory[start:split:split], b.memory[split:end:end]
	b.records = append(b.records, r)
}

// worker folds the records of its streams.
type worker struct {
	fold      *fold
	collected batch // by the reader, for the next
	batches   chan batch
	done      chan batch   // to be filled again
	stop      *atomic.Bool // set by the worker that fails

	err      error
	failedAt eventstore.Position
}

func (w *worker) collect(r eventstore.Recorded) {
	if !w.collected.holds(&r) {
		w.flush()
	}
	w.collected.add(r)
}

func (w *worker) flush() {
	if len(w.collected.records) == 0 {
		return
	}
	w.batches <- w.collected
	select {
	case w.collected = <-w.done:
	default:
		w.collected = newBatch()
	}
}

func (w *worker) work() {
	for b := range w.batches {
		for i := range b.records {
			if w.err != nil {
				break // and let the reader go on to see that it is over
			}
			if w.err = w.fold.take(&b.records[i]); w.err != nil {
				w.failedAt = b.records[i].Position
				w.stop.Store(true)
			}
		}
		w.done <- batch{records: b.records[:0], memory: b.memory[:0]} // there are no more batches than it has room for
	}
}

// changed yields what is known of each stream; nil: its object is not there.
func (f *folding) changed() iter.Seq2[string, *folded] {
	return func(yield func(string, *folded) bool) {
		for _, part := range f.folds {
			for stream, o := range part.objects {
				if !yield(stream, o) {
					return
				}
			}
		}
	}
}

func (f *folding) view(position uint64) *memory.Snapshot {
	var objects []*projections.Object
	for _, o := range f.changed() {
		objects = append(objects, o.object(f.kinds))
	}
	s := memory.NewStore()
	s.PutAll(objects)
	return s.Snapshot(position)
}
