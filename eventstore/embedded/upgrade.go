package embedded

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/shiplog/shiplog/eventstore"
)

const (
	// What is rewritten in one batch.
	upgradeEvents = 4096
	upgradeBytes  = 1 << 20
	// How often an operator is told about it, in events.
	upgradeTold = 100_000
)

// upgrade gives the events of a log of format 1 their links of the hash chain. FORMAT is written afterwards, so a crash at any point
// has it run again; batches reach the disk in their order, so that it then finds some events done and goes on behind them.
func (l *Log) upgrade() error {
	l.log.Info("upgrading the log", "from", l.format, "to", format, "head", l.tail.head)
	u := upgrader{l: l}
	for from := eventstore.Position(1); from > 0; {
		var err error
		if from, err = u.some(from); err != nil {
			return err
		}
	}
	// What the scavenger removed from a log of format 1 left no trace.
	batch := l.db.NewBatch()
	if err := batch.Set([]byte{untracedKey}, varints(uint64(l.tail.head)), nil); err != nil {
		return err
	}
	if err := l.apply(batch, pebble.Sync); err != nil {
		return err
	}
	l.digest = u.digest
	l.log.Info("upgraded the log", "to", format, "events", u.done, "head", l.tail.head, "digest", u.digest)
	return nil
}

type upgrader struct {
	l       *Log
	digest  eventstore.Digest // of the last event done
	done    int
	scratch []byte
}

// some upgrades the next events from a position on, and returns where to go on, 0 at the end.
func (u *upgrader) some(from eventstore.Position) (next eventstore.Position, err error) {
	it, err := database{u.l.db}.iter(keyOf(eventKey, uint64(from)), []byte{eventKey + 1})
	if err != nil {
		return 0, err
	}
	batch := u.l.db.NewBatch()
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		position := eventstore.Position(numberIn(it.Key(), 0))
		if n == upgradeEvents || batch.Len() >= upgradeBytes {
			next = position
			break
		}
		n++
		value, err := it.ValueAndErr()
		if err == nil {
			err = u.one(batch, position, value)
		}
		if err != nil {
			_ = it.Close() // what went wrong first is what matters
			return 0, err
		}
	}
	if err := closeIter(it); err != nil {
		return 0, err
	}
	// Not synced: the last batch is.
	return next, u.l.apply(batch, pebble.NoSync)
}

func (u *upgrader) one(batch *pebble.Batch, position eventstore.Position, value []byte) error {
	e, err := openEnvelope(value, position)
	if err != nil {
		return err
	}
	if u.done++; u.done%upgradeTold == 0 {
		u.l.log.Info("upgrading the log", "position", position, "head", u.l.tail.head)
	}
	if e.version == envelopeVersion {
		u.digest = e.digest // done before a crash
		return nil
	}
	name, err := u.l.streams.nameOf(database{u.l.db}, e.stream)
	if err != nil {
		return fmt.Errorf("the event at position %d: %w", position, err)
	}
	p := propose(e.proposed())
	u.digest = eventstore.Link(u.digest, &eventstore.Entry{
		Recorded: eventstore.Recorded{Stream: name, Revision: e.revision, Position: position, Created: timeOf(e.ticks)},
		Content:  p.content,
	})
	u.scratch = appendEnvelope(u.scratch[:0], &p, e.head, u.digest, position)
	return batch.Set(keyOf(eventKey, uint64(position)), u.scratch, nil)
}
