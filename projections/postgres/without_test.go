package postgres_test

import (
	"context"
	"iter"
	"strings"

	"github.com/shiplog/shiplog/eventstore"
)

// without is a log that has lost the events of a revision.
type without struct {
	eventstore.Log
	revision uint64
}

func (l *without) ReadAll(ctx context.Context, opts eventstore.ReadAll) iter.Seq2[eventstore.Recorded, error] {
	return func(yield func(eventstore.Recorded, error) bool) {
		for r, err := range l.Log.ReadAll(ctx, opts) {
			if strings.HasPrefix(r.Stream, "configmaps-") && r.Revision == l.revision {
				continue
			}
			if !yield(r, err) {
				return
			}
		}
	}
}
