package persistent

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// Info is what there is to know of a group.
type Info struct {
	Definition
	Status      string
	Connections []Connection
	// Since the last time that somebody asked.
	Measured int64
	// PerSecond is the average since then.
	PerSecond int64
	Total     int64
	// Checkpoint and Known are places, as clients read them; "" for none.
	Checkpoint, Known, StartFrom string
	ReadBuffer, RetryBuffer      int
	InFlight, Outstanding        int
	Parked                       int64
}

// Connection is what there is to know of a consumer.
type Connection struct {
	Client
	Total, Measured, PerSecond int64
	InFlight, Available        int
	Measurements               []Measurement
}

// measured is what was counted when somebody asked.
type measured struct {
	at    time.Time
	total int64
}

func (g *group) info(ctx context.Context) (Info, error) {
	first, next, err := g.state.parkedRange(ctx)
	if err != nil {
		return Info{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	at := now()
	elapsed := at.Sub(g.measured.at)
	rate := func(n int64) int64 {
		if elapsed <= 0 {
			return 0
		}
		return int64(float64(n) / elapsed.Seconds())
	}
	i := Info{
		Definition: g.Definition, Status: g.statusLocked(), Total: g.core.total, Measured: g.core.total - g.measured.total,
		ReadBuffer: len(g.core.fresh), RetryBuffer: len(g.core.again), Outstanding: len(g.core.out), Parked: int64(next - min(next, max(first, g.unparked))),
		StartFrom: g.startFrom(),
	}
	i.PerSecond = rate(i.Measured)
	g.measured = measured{at, i.Total}
	if g.written != nil {
		i.Checkpoint = g.state.place(*g.written)
	}
	if g.known != nil {
		i.Known = g.state.place(*g.known)
	}
	for inner, c := range g.members {
		conn := Connection{
			Client: c.Client, Total: inner.total, Measured: inner.total - c.counted, InFlight: len(inner.held), Available: inner.free(),
			Measurements: inner.delays.measurements(),
		}
		conn.PerSecond = rate(conn.Measured)
		c.counted = inner.total
		i.InFlight += conn.InFlight
		i.Connections = append(i.Connections, conn)
	}
	slices.SortFunc(i.Connections, func(a, b Connection) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.Name, b.Name)) })
	return i, nil
}

func (g *group) statusLocked() string {
	status := "Behind"
	if g.live {
		status = "Live"
	}
	if g.replaying {
		status += ", ReplayingParkedMessages"
	}
	return status
}

// startFrom writes where the group was made to begin, as clients read it.
func (d *Definition) startFrom() string {
	switch {
	case d.Start.FromEnd && d.Stream == All:
		return "C:-1/P:-1"
	case d.Start.FromEnd:
		return "-1"
	default:
		return formatPlace(d.Stream == All, d.Start.At)
	}
}

// now is where the clock is read.
func now() time.Time { return time.Now() }
