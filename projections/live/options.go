package live

import (
	"context"
	"log/slog"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections/memory"
)

// Options of a view. The zero value starts at the log's beginning.
type Options struct {
	// Base, when set, returns what is known of the cluster at a position, so that only the log's tail has to be read; nil when nothing
	// is known. An error, or a position beyond the log's head, makes the view start from the beginning instead: it is a short cut,
	// nothing more.
	Base func(ctx context.Context) (*Base, error)
	// Offer, when set, is now and then given the state as it was some thousand events ago: what to keep for Base to return. It is called
	// by Run and must not block.
	Offer func(State)

	// MaxChanges and MaxChangeBytes bound the buffer of recent changes. Defaults: 65,536 and 32 MiB. The buffer grows as needed.
	MaxChanges     int
	MaxChangeBytes int
	// Progress is how often a follower for whom nothing has changed is told the position. Default: 1 s.
	Progress time.Duration
	Logger   *slog.Logger // default: nowhere
}

// Base is the state of the cluster at a position. It becomes the view's.
type Base struct {
	Objects  *memory.Store
	Broken   map[domain.Ref]struct{} // those of the objects, by name, whose events do not fold: see memory.Broken
	Position uint64
}

// State is the state of the cluster at a position, for others to keep. It never changes.
type State struct {
	Objects *memory.Snapshot
	broken  map[domain.Ref]struct{}
	Events  uint64 // that led to it from the view's base on
}

// IsBroken says of an object whether its events do not fold.
func (s State) IsBroken(ref domain.Ref) bool {
	_, broken := s.broken[nameOf(ref)]
	return broken
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
