package live

import (
	"context"
	"log/slog"
	"time"

	"github.com/shiplog/shiplog/projections"
)

// Options of a view. The zero value starts at the log's beginning.
type Options struct {
	// Start, when set, returns the objects as of a position, so that only the log's tail has to be read. An error, or a position
	// beyond the log's head, makes the view start from the beginning instead: it is a short cut, nothing more.
	Start func(ctx context.Context) (objects []*projections.Object, position uint64, err error)

	// MaxChanges and MaxChangeBytes bound the buffer of recent changes. Defaults: 65,536 and 32 MiB. The buffer grows as needed.
	MaxChanges     int
	MaxChangeBytes int
	// Progress is how often a follower for whom nothing has changed is told the position. Default: 1 s.
	Progress time.Duration
	Logger   *slog.Logger // default: nowhere
}

func (o *Options) complete() {
	if o.MaxChanges <= 0 {
		o.MaxChanges = 65536
	}
	if o.MaxChangeBytes <= 0 {
		o.MaxChangeBytes = 32 << 20
	}
	if o.Progress <= 0 {
		o.Progress = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Stats are figures for metrics.
type Stats struct {
	Ready       bool
	Position    uint64 // of the last event applied
	Lag         uint64 // positions between that and the log's head
	Objects     int
	Unreadable  int    // objects whose events do not fold; they are kept as they last were
	Applied     uint64 // events since the start
	Changes     int    // in the buffer of recent changes
	ChangeBytes int    // estimated
	Followers   int
	Restarts    uint64 // how often the subscription had to be made again
}
