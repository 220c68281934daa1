package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/shiplog/shiplog/eventstore"
)

// scavengeBatch is how many events are removed at a time, so that writers are hardly held up.
const scavengeBatch = 512

func (l *Log) scavengeLoop() {
	ticker := time.NewTicker(l.opts.ScavengeEvery)
	defer ticker.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-l.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		select {
		case <-ticker.C:
		case <-l.crowded:
		case <-l.closing:
			return
		}
		remove := l.Scavenge
		if l.full.Load() {
			remove = l.makeRoom
		}
		removed, err := remove(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			l.log.Error("removing expired events failed; it is tried again later", "error", err)
		case removed > 0:
			l.log.Info("removed expired events", "events", removed)
		}
	}
}

// Scavenge removes from disk what retention made expire, and returns how many events that were. Of each it leaves a trace, which holds
// the hash chain together. Reads do not see these events anyway; positions and revisions are never given again. It runs beside reads and appends.
func (l *Log) Scavenge(ctx context.Context) (removed int, err error) {
	if l.opts.ReadOnly {
		return 0, eventstore.ErrReadOnly
	}
	var after uint64
	for {
		if err := errors.Join(ctx.Err(), l.fuse.blown()); err != nil {
			return removed, err
		}
		ids, err := l.retainedStreams(after)
		if err != nil {
			return removed, fmt.Errorf("scavenging: %w", err)
		}
		if len(ids) == 0 {
			return removed, nil
		}
		for _, id := range ids {
			n, err := l.scavengeStream(ctx, id)
			if removed += n; err != nil {
				return removed, fmt.Errorf("scavenging stream %d: %w", id, err)
			}
		}
		after = ids[len(ids)-1]
	}
}

// retainedStreams returns the next streams of which something may have expired: those with a retention, and the metadata
// streams.
func (l *Log) retainedStreams(after uint64) (ids []uint64, err error) {
	release, err := l.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	it, err := database{l.db}.iter(keyOf(nameKey, after+1), []byte{nameKey + 1})
	if err != nil {
		return nil, err
	}
	for ok := it.First(); ok && len(ids) < chunkEvents; ok = it.Next() {
		id := numberIn(it.Key(), 0)
		if _, isMeta := eventstore.MetadataOf(string(it.Value())); isMeta {
			ids = append(ids, id)
			continue
		}
		if l.streams.isLimited(id) {
			ids = append(ids, id)
		}
	}
	return ids, closeIter(it)
}

func (l *Log) scavengeStream(ctx context.Context, id uint64) (removed int, err error) {
	for {
		if err := errors.Join(ctx.Err(), l.fuse.blown()); err != nil {
			return removed, err
		}
		n, err := l.scavengeSome(id)
		removed += n
		switch {
		case errors.Is(err, errRetained): // so again, by what is to be retained now
		case err != nil || n < scavengeBatch:
			return removed, err
		}
	}
}

// errRetained says that a stream's retention was changed after it had been decided what to remove.
var errRetained = errors.New("the retention has changed")

func (l *Log) scavengeSome(id uint64) (removed int, err error) {
	release, err := l.acquire()
	if err != nil {
		return 0, err
	}
	defer release()
	db := database{l.db}
	head := l.tail.current()
	name, err := l.streams.nameOf(db, id)
	if err != nil {
		return 0, err
	}
	_, isMeta := eventstore.MetadataOf(name)
	st, err := l.streams.stateOf(db, id, isMeta)
	if err != nil {
		return 0, err
	}
	now := l.opts.Now()
	var last eventstore.Position // of those removed
	batch := l.db.NewBatch()
	it, err := db.iter(keyOf(indexKey, id), keyOf(indexKey, id+1))
	if err != nil {
		return 0, err
	}
	for ok := it.First(); ok && removed < scavengeBatch; ok = it.Next() {
		revision := numberIn(it.Key(), 1)
		var position uint64
		if !readVarints(it.Value(), &position) {
			return 0, errors.Join(fmt.Errorf("%w: the index of stream %s does not parse", eventstore.ErrCorrupt, name), it.Close())
		}
		if eventstore.Position(position) > head {
			break
		}
		value, found, err := db.get(keyOf(eventKey, position))
		if err == nil && !found {
			err = fmt.Errorf("%w: revision %d of %s is in the index only; restore the directory from a backup", eventstore.ErrCorrupt, revision, name)
		}
		if err != nil {
			return 0, errors.Join(err, it.Close())
		}
		e, err := openEnvelope(value, eventstore.Position(position))
		if err != nil {
			return 0, errors.Join(err, it.Close())
		}
		if st.visible(revision, e.ticks, now) {
			break
		}
		left := traceOf(&e, isMeta)
		err = errors.Join(
			batch.Set(keyOf(traceKey, position), left.value(eventstore.Position(position)), nil),
			batch.Delete(keyOf(eventKey, position), nil),
			batch.Delete(keyOf(indexKey, id, revision), nil),
		)
		if int64(revision) == st.last {
			err = errors.Join(err, batch.Set(keyOf(floorKey, id), varints(revision, position), nil))
		}
		if err != nil {
			return 0, errors.Join(err, it.Close())
		}
		removed++
		last = max(last, eventstore.Position(position))
	}
	if err := closeIter(it); err != nil || removed == 0 {
		return 0, err
	}
	if err := noteScavenged(db, batch, now); err != nil {
		return 0, err
	}
	// Between here and the end no retention changes: an event that a longer one brings back is not removed after somebody has seen it.
	l.retaining.Lock()
	defer l.retaining.Unlock()
	is, err := l.streams.stateOf(db, id, isMeta)
	if err == nil && is.keep != st.keep {
		err = errRetained
	}
	if err != nil {
		return 0, errors.Join(err, batch.Close())
	}
	// Not synced: what a crash brings back expires again.
	l.scavenging.Add(1)
	err = l.apply(batch, pebble.NoSync)
	l.scavenged.Add(1) // ahead of the end, so that a reader notices one of the two (see found.overtaken)
	l.scavenging.Add(-1)
	if err != nil {
		return 0, err
	}
	l.tail.forget(last)
	return removed, nil
}

// noteScavenged remembers the latest moment by which something was removed: a clock that goes back later must not make a removal look
// as if nothing had allowed it.
func noteScavenged(db database, batch *pebble.Batch, now time.Time) error {
	latest, err := lastScavenged(db)
	if err != nil || !now.After(latest) {
		return err
	}
	return batch.Set([]byte{scavengedKey}, varints(ticksOf(now)), nil)
}

// lastScavenged is the latest moment by which something was removed; long ago when nothing was.
func lastScavenged(db database) (time.Time, error) {
	value, found, err := db.get([]byte{scavengedKey})
	if err != nil || !found {
		return time.Time{}, err
	}
	var ticks uint64
	if !readVarints(value, &ticks) {
		return time.Time{}, fmt.Errorf("%w: the moment of the last scavenging does not parse; restore the directory from a backup", eventstore.ErrCorrupt)
	}
	return timeOf(ticks).Add(tick), nil // it was cut off to ticks
}

func closeIter(it *pebble.Iterator) error {
	err := it.Error()
	if cerr := it.Close(); err == nil {
		err = cerr
	}
	return readError(err)
}
