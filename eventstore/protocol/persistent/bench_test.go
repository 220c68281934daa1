package persistent

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

// BenchmarkCore is what deciding costs an event: read, handed out, acknowledged, counted towards a checkpoint.
func BenchmarkCore(b *testing.B) {
	for _, strategy := range []string{RoundRobin, Pinned} {
		b.Run(strategy, func(b *testing.B) {
			now := time.Unix(0, 0)
			c := newCore(Settings{HistoryBuffer: 500, Strategy: strategy, MessageTimeout: time.Minute, MaxCheckpoint: 1000, MinCheckpoint: 10}, now)
			for range 4 {
				if _, err := c.connect(10); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			id := make([]uuid.UUID, 1)
			for place := range b.N {
				m := &message{place: uint64(place)}
				m.event.ID = uuid.UUID{byte(place), byte(place >> 8), byte(place >> 16), byte(place >> 24)}
				m.event.Stream = "s"
				c.add(m)
				c.handOut(now)
				for _, d := range c.take().deliver {
					id[0] = d.id()
					c.ack(id, now)
				}
				c.expire(now)
				c.checkpoint(now)
			}
		})
	}
}
