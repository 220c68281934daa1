package snapshot

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/shiplog/shiplog/projections/live"
)

// MinEvents is how many events a Keeper lets pass between snapshots, at least: folding them takes a fraction of a second.
const MinEvents = 20_000

// Keeper writes snapshots in the background of what a live view offers. Its Offer is for live.Options.Offer.
type Keeper struct {
	Dir *Dir
	// MinEvents between snapshots; default MinEvents. It is never less than there are objects, so that what is written grows with what
	// has happened and not with its square.
	MinEvents uint64

	mu      sync.Mutex
	latest  *live.State
	written uint64 // events that had led to the last written, and to what was read at the start
	offered chan struct{}
	once    sync.Once
}

// Offer takes note of a state. It never blocks.
func (k *Keeper) Offer(s live.State) {
	k.mu.Lock()
	k.latest = &s
	k.mu.Unlock()
	select {
	case k.signal() <- struct{}{}:
	default:
	}
}

func (k *Keeper) signal() chan struct{} {
	k.once.Do(func() { k.offered = make(chan struct{}, 1) })
	return k.offered
}

// Run writes snapshots until the context ends, and then one of the last state that was offered, if there is something new in it. What
// goes wrong is said and tried again when more has happened: the cluster does without.
func (k *Keeper) Run(ctx context.Context) {
	writing := context.WithoutCancel(ctx) // what has begun is finished: it takes a second at most
	for {
		select {
		case <-k.signal():
			if s, due := k.due(false); due {
				k.write(writing, s)
			}
		case <-ctx.Done():
			if s, due := k.due(true); due {
				k.write(writing, s)
			}
			return
		}
	}
}

// due returns the state that was last offered and whether to write it.
func (k *Keeper) due(last bool) (live.State, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.latest == nil || k.latest.Events <= k.written {
		return live.State{}, false
	}
	least := k.MinEvents
	if least == 0 {
		least = MinEvents
	}
	enough := k.latest.Events-k.written >= max(least, uint64(k.latest.Objects.Len()))
	return *k.latest, enough || last
}

func (k *Keeper) write(ctx context.Context, s live.State) {
	logger := k.Dir.logger()
	began := k.Dir.now()
	info, err := k.Dir.Write(ctx, s)
	// Whether it went well or not: the next is due when more has happened.
	k.mu.Lock()
	k.written = s.Events
	k.mu.Unlock()
	if err != nil {
		logger.Warn("a snapshot could not be written: starts take longer until one can", "error", err)
		return
	}
	logger.Info("a snapshot was written", "snapshot", info.Path, "position", info.Position, "objects", info.Objects, "bytes", info.Bytes,
		slog.Duration("took", k.Dir.now().Sub(began).Round(time.Millisecond)))
}
