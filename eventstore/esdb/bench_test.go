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

// benchmarkLog is a log of events of a size, and a client of its server.
func benchmarkLog(b *testing.B, events, size int) eventstore.Log {
	b.Helper()
	log, err := embedded.Open(b.TempDir(), embedded.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = log.Close() })
	const together = 500
	for i := 0; i < events; i += together {
		batch := make([]eventstore.Proposed, together)
		for j := range batch {
			batch[j] = eventstore.Proposed{ID: uuid.New(), Type: "PodChanged", Data: make([]byte, size)}
		}
		if _, err := log.Append(b.Context(), fmt.Sprintf("pods-default/web-%d", i%20), eventstore.Any, batch...); err != nil {
			b.Fatal(err)
		}
	}
	address, stop := serve(b, log, "127.0.0.1:0", nil)
	b.Cleanup(stop)
	return connect(b, "esdb://"+address+"?tls=false")
}

// BenchmarkReadAll reads the whole log forwards; an operation is all of it.
func BenchmarkReadAll(b *testing.B) {
	for _, size := range []int{256, 10 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			const events = 10_000
			log := benchmarkLog(b, events, size)
			b.SetBytes(int64(events * size))
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				for _, err := range log.ReadAll(b.Context(), eventstore.ReadAll{}) {
					if err != nil {
						b.Fatal(err)
					}
					n++
				}
				if n != events {
					b.Fatalf("read %d events, want %d", n, events)
				}
			}
			b.ReportMetric(float64(events*b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkReadLast reads the last event of a stream, as a writer does that has lost its place.
func BenchmarkReadLast(b *testing.B) {
	log := benchmarkLog(b, 1000, 256)
	last := eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true, Limit: 1}
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range log.ReadStream(b.Context(), "pods-default/web-0", last) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkCatchUp subscribes from the beginning and catches up; an operation is all of it.
func BenchmarkCatchUp(b *testing.B) {
	const events = 10_000
	log := benchmarkLog(b, events, 256)
	b.ReportAllocs()
	for b.Loop() {
		sub, err := log.Subscribe(b.Context(), eventstore.Subscribe{})
		if err != nil {
			b.Fatal(err)
		}
		for n := 0; ; {
			batch, err := sub.Next(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			if n += len(batch.Events); batch.CaughtUp {
				break
			}
		}
		if err := sub.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(events*b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkFanOut has an append reach 100 subscribers; an operation is one append, and all of them have it.
func BenchmarkFanOut(b *testing.B) {
	const subscribers = 100
	log := benchmarkLog(b, 0, 0)
	reached := make(chan error, subscribers)
	for range subscribers {
		sub, err := log.Subscribe(b.Context(), eventstore.Subscribe{})
		if err != nil {
			b.Fatal(err)
		}
		defer sub.Close()
		go func() {
			for {
				batch, err := sub.Next(b.Context())
				for range batch.Events {
					reached <- nil
				}
				if err != nil {
					reached <- err
					return
				}
			}
		}()
	}
	for b.Loop() {
		if _, err := log.Append(b.Context(), "s", eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "PodChanged", Data: make([]byte, 256)}); err != nil {
			b.Fatal(err)
		}
		for range subscribers {
			if err := <-reached; err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(subscribers*b.N)/b.Elapsed().Seconds(), "deliveries/s")
}
