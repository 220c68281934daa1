package backup

import (
	"context"
	"errors"
	"iter"

	"github.com/shiplog/shiplog/eventstore"
)

// Unchained makes a Source of a log that keeps no hash chain: of what can be read of it. Its chain begins with the backup.
func Unchained(log eventstore.Log) Source { return unchained{log} }

var errNoChain = errors.New("the log keeps no hash chain")

type unchained struct{ eventstore.Log }

func (u unchained) DigestAt(_ context.Context, position eventstore.Position) (eventstore.Digest, error) {
	return eventstore.Digest{}, errNoChain
}

func (u unchained) Entries(ctx context.Context, from, to eventstore.Position) iter.Seq2[eventstore.Entry, error] {
	return func(yield func(eventstore.Entry, error) bool) {
		for r, err := range u.ReadAll(ctx, eventstore.ReadAll{From: from, Filter: eventstore.Filter{System: true}}) {
			if err == nil && r.Position > to {
				return
			}
			if !yield(eventstore.Entry{Recorded: r}, err) || err != nil {
				return
			}
		}
	}
}

// SourceOf makes a Source of any log.
func SourceOf(log eventstore.Log) Source {
	if chained, ok := log.(eventstore.Chained); ok {
		return chained
	}
	return Unchained(log)
}
