package esdb_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// BenchmarkAppend makes durable appends through the official client, a socket and our server.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{256, 10 << 10} {
		for _, writers := range []int{1, 256} {
			b.Run(fmt.Sprintf("%dB/%dwriters", size, writers), func(b *testing.B) {
				log, err := embedded.Open(b.TempDir(), embedded.Options{Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					b.Fatal(err)
				}
				defer log.Close()
				address, stop := serve(b, log, "127.0.0.1:0", nil)
				defer stop()
				client := connect(b, "esdb://"+address+"?tls=false")
				data := make([]byte, size)
				b.SetBytes(int64(size))
				b.ResetTimer()
				var left atomic.Int64
				left.Store(int64(b.N))
				var group sync.WaitGroup
				for w := range writers {
					group.Go(func() {
						stream, expected := fmt.Sprintf("pods-default/web-%d", w), eventstore.NoStream
						for left.Add(-1) >= 0 {
							a, err := client.Append(context.Background(), stream, expected, eventstore.Proposed{ID: uuid.New(), Type: "PodChanged", Data: data})
							if err != nil {
								b.Error(err)
								return
							}
							expected = eventstore.Exact(a.Revision)
						}
					})
				}
				group.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			})
		}
	}
}
